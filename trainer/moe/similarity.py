"""How alike the experts of a layer are: the cosine between their weights, and between what they
answer to the same tokens. 1 is homogenised, experts in name only.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...kernels.expert_mlp.reference import Experts, activate
from .experts import MoeLayer
from .latent import LatentMoe
from .steps import moe_layers

# R routers of a layer (its heads)  T tokens  D width  E experts of a router  H hidden  N numbers of
# an expert  G rows of w_in  M rows of all layers

TOKENS_PER_PASS = 8
"""Tokens of each layer that are taken from a forward pass, evenly spaced over batch and sequence;
64 of the eight passes of a probe."""
CHUNK = 32
"""Experts that answer at once: bounds the memory at CHUNK * tokens * (D + G) numbers."""


def weight_cosine(w_in_REN: Tensor, w_out_REN: Tensor) -> Tensor:
    """Returns (R,) fp32: the mean over pairs of experts of the cosine between their matrices,
    [W_in, W_out] flattened to one vector; biases are left out.

    cos_ij = (in_i . in_j + out_i . out_j) / (|v_i| |v_j|),  from two E x E products: no copy of the
    weights is made. A zero expert is orthogonal to all. fp32, at least two experts.
    New experts have 0 up to 1 / sqrt(N), clones 1, and training moves them apart slowly: they stay
    above 0.99 long after cloning. Blind to hidden channels in another order, which leave an expert
    what it is. Source: facts: health.md section 4, 11.
    """
    gram_REE = torch.bmm(w_in_REN, w_in_REN.transpose(1, 2))
    gram_REE = torch.baddbmm(gram_REE, w_out_REN, w_out_REN.transpose(1, 2))
    norm_RE = gram_REE.diagonal(dim1=1, dim2=2).sqrt()
    cos_REE = gram_REE / (norm_RE[:, :, None] * norm_RE[:, None]).clamp_min(1e-30)
    num = cos_REE.shape[1]
    pairs_R = cos_REE.sum((1, 2)) - cos_REE.diagonal(dim1=1, dim2=2).sum(1)
    return pairs_R / (num * (num - 1))


def output_cosine(x_TD: Tensor, experts: Experts) -> Tensor:
    """Returns a scalar: the mean over tokens and pairs of experts of the cosine between their
    answers to the same token.

    With u_te = f_e(x_t) / |f_e(x_t)|:  sum over pairs i != j of u_ti . u_tj = |sum_e u_te|^2 -
    sum_e |u_te|^2, so that answers are added up and never compared two by two. An answer of zero is
    orthogonal to all. x_TD: fp32; NaN without tokens. At least two experts.
    Above 0.99 the experts are homogenised. Source: facts: model.md section 9 (arXiv 2605.19378),
    health.md section 4, 11.
    """
    num = len(experts.w_in_EDG)
    sum_TD, square_T = torch.zeros_like(x_TD), x_TD.new_zeros(len(x_TD))
    for first in range(0, num, CHUNK):
        unit_ETD = F.normalize(_answers(x_TD, experts, first), dim=-1)
        sum_TD += unit_ETD.sum(0)
        square_T += unit_ETD.square().sum((0, 2))
    return ((sum_TD.square().sum(1) - square_T) / (num * (num - 1))).mean()


def _answers(x_TD: Tensor, experts: Experts, first: int) -> Tensor:
    """Returns what CHUNK experts from `first` on say to the tokens, (E, T, D)."""
    chosen = slice(first, first + CHUNK)
    w_in_EDG = experts.w_in_EDG[chosen]
    # bmm: a matmul of two and three dimensions would copy the weights where they want gradients
    h_ETG = torch.bmm(x_TD.expand(len(w_in_EDG), *x_TD.shape), w_in_EDG)
    if experts.b_in_EG is not None:
        h_ETG = h_ETG + experts.b_in_EG[chosen, None]
    y_ETD = torch.bmm(activate(h_ETG, experts.form, experts.bound), experts.w_out_EHD[chosen])
    return y_ETD if experts.b_out_ED is None else y_ETD + experts.b_out_ED[chosen, None]


class ExpertSimilarity:
    """Takes a few tokens from each layer of experts in the forward passes inside `watching()`, and
    asks all its experts about them.

    rows: as the expert counts have them, one per router; LatentMoE has one for each head, and its
    tokens are the parts of that head. Layers with fewer than two experts have nothing to compare.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [layer for layer in moe_layers(model) if layer.tally.counts_RE.shape[1] > 1]
        self._taken: list[list[Tensor]] = [[] for _ in self._layers]

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for index, layer in enumerate(self._layers):
                hooks.enter_context(layer.router.register_forward_pre_hook(self._hook(index)))
            yield

    @torch.no_grad()
    def read(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the cosines of weights and of answers, each (M,), and forgets the tokens; NaN
        for the answers of a layer that no token reached. Waits for the device."""
        weights, answers = [], []
        for layer, taken in zip(self._layers, self._taken, strict=True):
            rows = len(layer.tally.counts_RE)
            w_in_REN = layer.w_in_EDG.unflatten(0, (rows, -1)).flatten(2)
            w_out_REN = layer.w_out_EHD.unflatten(0, (rows, -1)).flatten(2)
            weights.append(weight_cosine(w_in_REN, w_out_REN))
            width = layer.w_in_EDG.shape[1]
            x_RTD = torch.cat([*taken, layer.w_in_EDG.new_zeros(rows, 0, width)], dim=1)
            answers += [output_cosine(x_RTD[row], _of(layer, row)) for row in range(rows)]
        self._taken = [[] for _ in self._layers]
        if not weights:
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        both_2M = torch.stack([torch.cat(weights), torch.stack(answers)]).float().cpu().numpy()
        return both_2M[0], both_2M[1]

    def _hook(self, index: int) -> Callable[..., None]:
        layer = self._layers[index]

        @torch.no_grad()
        def take(router: nn.Module, args: tuple[Tensor, ...]) -> None:
            # (B, S, D) has one router; (T, H, d) one for each head
            x_TRD = args[0].reshape(-1, len(layer.tally.counts_RE), args[0].shape[-1])
            num = min(TOKENS_PER_PASS, len(x_TRD))
            place_n = torch.arange(num, device=x_TRD.device) * 2 + 1
            spaced_n = place_n * len(x_TRD) // max(1, 2 * num)
            self._taken[index].append(x_TRD[spaced_n].float().transpose(0, 1))

        return take


def _of(layer: MoeLayer | LatentMoe, row: int) -> Experts:
    """Returns the experts of one router in fp32, which their weights are: nothing is copied."""
    num = layer.tally.counts_RE.shape[1]
    mine = slice(row * num, (row + 1) * num)
    if isinstance(layer, LatentMoe):
        return Experts(layer.w_in_EDG[mine], layer.w_out_EHD[mine], form="gelu_exact")
    return layer.experts(torch.float32)
