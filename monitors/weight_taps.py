"""Weights at an update: gradient and update of each block, and what rounding loses of them; on the
device only.

L rows: a block each, and one for all else  N sampled elements  C columns
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..platform import catalogue
from .collect import Packed

Array = NDArray[np.float32]

MOST_ELEMENTS = 1024
"""Of a matrix, drawn once: its norm is off by about 2% where its elements are alike (1
/ sqrt(2 n)), and the cost is bounded whatever the model's size."""
SMALLEST_FP16 = 2.0**-24
ELEMENTS_OF_EXPERT = 32
"""Looked at to see whether an expert's weights move."""


class WeightTaps:
    """Measures one update on a sampled step.

        taps.before()        # gradients are there, the optimizer has not stepped
        optimizer.step()
        taps.after(keep)     # keep: 0/1, whether the update was applied
        taps.send()
        ...                  # the next step is launched
        values = taps.read()

    blocks: the parameters of each block, in the network's order. rest: all others, which count in
    the norm of the whole update. experts: of each layer of experts a matrix for each expert, (R *
    E, ...), R being its routers and E num_experts. A parameter without a gradient counts as one
    with zeros. most_alike: of so many parameters of one shape in a row elements are looked at, and
    they stand for the others (experts that are modules of their own); left out, of all. Source:
    facts, health.md section 4, 4, 5 and 14.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[nn.Parameter]],
        rest: Sequence[nn.Parameter],
        device: torch.device | str,
        experts: Sequence[nn.Parameter] = (),
        num_experts: int = 1,
        most_alike: int | None = None,
    ) -> None:
        self._num_blocks = len(blocks)
        self._rows = [list(block) for block in blocks] + [list(rest)]
        looked_at = [_looked_at(row, most_alike) for row in self._rows]
        self._all = [p for row in looked_at for p, _ in row]
        # drawn, not evenly spaced: a stride that fits the rows would look at one column
        chance = torch.Generator().manual_seed(0)
        self._places = {id(p): _places(p.numel(), chance).to(device) for p in self._all}
        lengths = [sum(len(self._places[id(p)]) for p, _ in row) for row in looked_at]
        self._lengths = torch.tensor(lengths, dtype=torch.int64, device=device)
        # an element stands for so many of its matrix
        sizes = [
            (p.numel() * share, len(self._places[id(p)])) for row in looked_at for p, share in row
        ]
        weights = [torch.full((taken,), numel / taken) for numel, taken in sizes]
        self._weight_N = torch.cat(weights).to(device) if weights else torch.zeros(0, device=device)
        self._experts = list(experts)
        num_rows = sum(len(matrices) // num_experts for matrices in experts)
        layout = {
            "norm_L": (len(blocks),),
            "sum_LC": (len(lengths), 7),
            "still_M": (num_rows,),
        }
        self._num_experts = num_experts
        self._packed = Packed(layout, device)
        self._before: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.no_grad()
    def before(self) -> Tensor:
        """Reads gradients and weights before the update; returns the norm of all gradients, 0-d."""
        norms = [self._norm_of(row) for row in self._rows]
        if self._num_blocks:
            self._packed["norm_L"].copy_(torch.stack(norms[: self._num_blocks]))
        grads = [
            self._weight_N.new_zeros(len(self._places[id(p)]))
            if p.grad is None
            else p.grad.reshape(-1)[self._places[id(p)]]
            for p in self._all
        ]
        self._before = self._weights(), torch.cat([g.float() for g in grads]), self._of_experts()
        total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total

    @torch.no_grad()
    def after(self, keep: Tensor) -> None:
        """Compares with the weights after the update; 0 in all but the gradients' columns where it
        was held back."""
        assert self._before is not None, "before() comes first"
        (old_N, grad_N, old_Xn), self._before = self._before, None
        new_N = self._weights()
        change_N = new_N - old_N
        has_grad_N = grad_N != 0
        is_lost_N = has_grad_N & (change_N == 0)
        is_lost_bf16_N = (change_N != 0) & (new_N.bfloat16() == old_N.bfloat16())
        columns = (
            change_N.square(),
            old_N.square(),
            (is_lost_N & (keep > 0)).float(),
            (is_lost_bf16_N & (keep > 0)).float(),
            (change_N != 0).float(),
            has_grad_N.float(),
            (has_grad_N & (grad_N.abs() < SMALLEST_FP16)).float(),
        )
        # column by column: stacked, they would be strided
        sums = [
            torch.segment_reduce(column * self._weight_N, "sum", lengths=self._lengths)
            for column in columns
        ]
        self._packed["sum_LC"].copy_(torch.stack(sums, dim=-1))
        is_still_ME = (self._of_experts() == old_Xn).all(-1).view(-1, self._num_experts)
        # where none moves the layer did not run: a network by noise level without a sample
        has_run_M = ~is_still_ME.all(-1)
        self._packed["still_M"].copy_(is_still_ME.sum(-1) * has_run_M * keep)

    def send(self) -> None:
        self._packed.send()

    def drop(self) -> None:
        """Forgets a sampled step that was sent and not read."""
        self._packed.drop()

    def read(self) -> dict[str, Array]:
        """Returns the signals of the step that was sent; empty where nothing was."""
        host = self._packed.read()
        if not host:
            return {}
        change, weight, lost, lost_bf16, moved, has_grad, underflow = host["sum_LC"].T
        blocks = slice(self._num_blocks)
        found = {catalogue.FROZEN_EXPERTS: host["still_M"]} if self._experts else {}
        return found | {
            catalogue.GRAD_LAYER_NORM: host["norm_L"],
            catalogue.GRAD_UNDERFLOW_SHARE: _share(underflow, has_grad)[blocks],
            catalogue.UPDATE_NORM: np.asarray(np.sqrt(change.sum()), np.float32),
            catalogue.UPDATE_WEIGHT_RATIO: np.sqrt(_share(change, weight))[blocks],
            catalogue.UPDATE_LOST_SHARE: _share(lost, has_grad)[blocks],
            catalogue.UPDATE_LOST_IN_BF16_SHARE: _share(lost_bf16, moved)[blocks],
        }

    def _norm_of(self, row: Sequence[nn.Parameter]) -> Tensor:
        grads = [p.grad for p in row if p.grad is not None]
        if not grads:
            return self._weight_N.new_zeros(())
        return torch.nn.utils.get_total_norm(grads).to(self._weight_N)

    def _of_experts(self) -> Tensor:
        """Elements of each expert's matrix, evenly spaced, (all experts, ELEMENTS_OF_EXPERT); of
        matrices that have fewer the last one fills up."""
        taken = [self._packed["still_M"].new_zeros(0, ELEMENTS_OF_EXPERT)]
        for matrices in self._experts:
            flat_En = matrices.detach().reshape(len(matrices), -1)
            size = flat_En.shape[1]
            place_n = torch.linspace(0, size - 1, ELEMENTS_OF_EXPERT, device=flat_En.device).long()
            taken.append(flat_En[:, place_n].float())
        return torch.cat(taken)

    def _weights(self) -> Tensor:
        """The sampled weights in fp32, which holds what any of their precisions says; a copy."""
        taken = [p.detach().reshape(-1)[self._places[id(p)]].float() for p in self._all]
        return torch.cat(taken)


def _looked_at(
    row: Sequence[nn.Parameter], most_alike: int | None
) -> list[tuple[nn.Parameter, float]]:
    """The parameters of a row that are looked at, each with how many of its shape it stands for."""
    if most_alike is None:
        return [(p, 1.0) for p in row]
    by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for p in row:
        by_shape.setdefault(tuple(p.shape), []).append(p)
    return [
        (p, len(alike) / min(len(alike), most_alike))
        for alike in by_shape.values()
        # evenly spaced: the first ones of a kind may all lie in one layer
        for p in alike[:: max(1, -(-len(alike) // most_alike))][:most_alike]
    ]


def _places(numel: int, chance: torch.Generator) -> Tensor:
    """Up to MOST_ELEMENTS different places, in order."""
    if numel <= MOST_ELEMENTS:
        return torch.arange(numel)
    # of twice as many draws enough are different
    drawn = torch.randint(numel, (2 * MOST_ELEMENTS,), generator=chance).unique()
    chosen: Tensor = drawn[torch.randperm(len(drawn), generator=chance)[:MOST_ELEMENTS]]
    return chosen.sort().values


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
