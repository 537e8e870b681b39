"""How far two tensors are apart, and which one it was."""

import torch
from torch import Tensor


def relative_error(name: str, want: Tensor, got: Tensor) -> float:
    """Returns the root mean square error of `got` over the root mean square of `want`.

    error = sqrt(mean((got - want)^2)) / max(sqrt(mean(want^2)), 1e-12), in fp64. Raises
    AssertionError, naming the tensor, if shapes differ or either holds a non-finite value: memory
    that nobody wrote must not pass as a small error. Two empty tensors are equal.
    """
    if want.shape != got.shape:
        raise AssertionError(f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    for what, tensor in (("expected", want), ("got", got)):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise AssertionError(f"{name}: {bad} of {tensor.numel()} {what} values are not finite")
    if not want.numel():
        return 0.0
    want_64, got_64 = want.detach().double(), got.detach().double()
    error = (got_64 - want_64).square().mean().sqrt()
    return float(error / want_64.square().mean().sqrt().clamp_min(1e-12))
