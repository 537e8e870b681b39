"""How true a replay is to the record: from which step on, and in which part of a step, they
differ.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...platform import catalogue
from .record import Entry

Stage = Literal["forward", "backward", ""]
LEAST_DIFFERENCE = 1e-6
"""Relative: fp32 sums in another order differ by less."""
MATERIAL_LOSS = 0.05
"""Relative difference of the loss that matters."""
MATERIAL_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Fidelity:
    num_steps: int
    """Steps that were compared."""
    before: float
    """Largest relative difference of losses and gradients in the first steps of the replay."""
    differs_from: int | None
    """First step that differs by more than that; None where none does."""
    stage: Stage
    """Where it differs first: in the losses or expert counts, or only in the gradients."""
    is_material: bool
    """Whether the difference from the onset on is large enough to explain anything."""
    largest: float
    """Largest relative difference of the batch's loss from the onset on."""

    @property
    def is_exact(self) -> bool:
        return self.before <= LEAST_DIFFERENCE


def fidelity(record: Sequence[Entry], again: Sequence[Entry], onset: int) -> Fidelity:
    """Compares the same steps of a record and its replay."""
    recorded = {entry.step: entry for entry in record}
    pairs = [(recorded[e.step], e) for e in again if e.step in recorded]
    differences = [(one.step, _forward(one, two), _backward(one, two)) for one, two in pairs]
    early = [max(f, b) for step, f, b in differences if step < onset]
    early = early[: max(3, len(early) // 2)]
    before = max(early, default=0.0)
    limit = max(LEAST_DIFFERENCE, 10 * before)
    first = next(((s, f) for s, f, b in differences if max(f, b) > limit), None)
    late = [(one, two) for one, two in pairs if one.step >= onset]
    largest = max((_relative(*_losses(one, two)) for one, two in late), default=0.0)
    share = max((routed_elsewhere(one, two) for one, two in late), default=0.0)
    odd = any(_is_finite(one) != _is_finite(two) for one, two in late)
    return Fidelity(
        num_steps=len(pairs),
        before=before,
        differs_from=None if first is None else first[0],
        stage="" if first is None else "forward" if first[1] > limit else "backward",
        is_material=first is not None
        and (odd or largest > max(MATERIAL_LOSS, 5 * before) or share > MATERIAL_SHARE),
        largest=largest,
    )


def _forward(one: Entry, two: Entry) -> float:
    return max(_of(catalogue.LOSS_PER_SAMPLE, one, two), routed_elsewhere(one, two))


def _backward(one: Entry, two: Entry) -> float:
    return max(_of(catalogue.GRAD_NORM, one, two), _of(catalogue.GRAD_LAYER_NORM, one, two))


def _of(signal: str, one: Entry, two: Entry) -> float:
    mine, other = one.values.get(signal), two.values.get(signal)
    if mine is None or other is None or np.shape(mine) != np.shape(other):
        return 0.0
    return _relative(mine, other)


def _losses(one: Entry, two: Entry) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return one.values[catalogue.LOSS_TOTAL], two.values[catalogue.LOSS_TOTAL]


def _relative(mine: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest difference over the larger of both; infinite where one alone is not finite."""
    a, b = np.asarray(mine, np.float64), np.asarray(other, np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    if (np.isfinite(a) != np.isfinite(b)).any():
        return math.inf
    size = np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-12)
    found = np.where(both, np.abs(a - b) / size, 0.0)
    return float(found.max(initial=0.0))


def routed_elsewhere(one: Entry, two: Entry) -> float:
    """Largest difference of an expert's share of its layer's tokens between two steps."""
    if catalogue.EXPERT_TOKENS not in one.values or catalogue.EXPERT_TOKENS not in two.values:
        return 0.0
    mine, other = (_share(e.values) for e in (one, two))
    return float(np.abs(mine - other).max(initial=0.0)) if mine.shape == other.shape else 0.0


def _share(values: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    tokens = values[catalogue.EXPERT_TOKENS].astype(np.float64)
    share: NDArray[np.float64] = tokens / np.maximum(tokens.sum(-1, keepdims=True), 1.0)
    return share


def _is_finite(entry: Entry) -> bool:
    signals = (catalogue.LOSS_TOTAL, catalogue.GRAD_NORM)
    return all(np.isfinite(entry.values[s]).all() for s in signals if s in entry.values)
