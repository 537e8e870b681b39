"""What is known of the flow before anything is learned: the network only answers for the rest.

Neighbouring pixels and moments are alike. A linear filter that knows no more than this already
removes most of weak noise, and what it leaves over is what has to be learned: shapes, motion, and
what the caption and the sound tell.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# B batch  n length of an axis  ... the axes of the data that are alike along them (the last ones)


class LinearPart(nn.Module):
    """The best linear prediction of the flow for data whose spectrum falls as that of pictures and
    sounds does.

    In the cosine basis, x has standard deviation s_k at frequency k, z = (1 - sigma) x + sigma eps,
    v = eps - x:
    E[v | z] = skip_k z,  skip_k = (sigma - (1 - sigma) s_k^2) / q_k,  q_k = sigma^2 + (1 - sigma)^2
    s_k^2, and the rest has variance s_k^2 / q_k.
    s_k = min(rms * sqrt(N), edge * |f_k|^(-axes / 2)), f in cycles per pixel: an equal share of
    energy in each octave, as scale-invariant scenes have it, up to the mean (k = 0). Source: EDM's
    preconditioning (arXiv 2206.00364, appendix B.6) derived anew for the flow and per frequency;
    power law of natural pictures: Field 1987, doi 10.1364/JOSAA.4.002379.
    """

    std: Tensor

    def __init__(self, shape: Sequence[int], rms: float, edge: float) -> None:
        """shape: lengths of the data's last axes, along which neighbours are alike. rms: of a
        value. edge: see above.
        """
        super().__init__()
        self.num_axes = len(shape)
        self.register_buffer("std", power_law(shape, rms, edge), persistent=False)
        for axis, length in enumerate(shape):
            self.register_buffer(f"cosines_{axis}", cosine_basis(length), persistent=False)

    def forward(self, noisy: Tensor, sigma_B: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the linear prediction, in noisy's shape, and the root mean square of the rest,
        (B, 1, ...).
        """
        sigma = sigma_B.view(-1, *[1] * (noisy.dim() - 1))
        power = self.std.square()
        q = sigma.square() + (1 - sigma).square() * power
        skip = (sigma - (1 - sigma) * power) / q
        axes = tuple(range(1, noisy.dim()))
        rest = (power / q).mean(axes, keepdim=True).sqrt()
        return self._turn(skip * self._turn(noisy, False), True), rest

    def _turn(self, values: Tensor, is_back: bool) -> Tensor:
        """Changes into the cosine basis along the last axes, or back."""
        for axis in range(self.num_axes):
            basis = self.get_buffer(f"cosines_{axis}")
            place = axis - self.num_axes
            turned = values.movedim(place, -1) @ (basis if is_back else basis.T)
            values = turned.movedim(-1, place)
        return values


def cosine_basis(length: int) -> Tensor:
    """Returns the orthonormal DCT-II matrix (n, n), fp32: row k is a cosine of k half periods."""
    k, i = np.meshgrid(np.arange(length), np.arange(length), indexing="ij")
    basis = np.cos(np.pi * k * (i + 0.5) / length) * math.sqrt(2.0 / length)
    basis[0] /= math.sqrt(2.0)
    return torch.from_numpy(basis.astype(np.float32))


def power_law(shape: Sequence[int], rms: float, edge: float) -> Tensor:
    squares: NDArray[np.float64] = np.zeros(())
    for axis, length in enumerate(shape):
        cycles = np.arange(length) / (2 * length)
        squares = squares + (cycles**2).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    most = rms * math.sqrt(math.prod(shape))
    with np.errstate(divide="ignore"):
        std = np.minimum(most, edge * np.sqrt(squares) ** (-len(shape) / 2))
    return torch.from_numpy(std.astype(np.float32))
