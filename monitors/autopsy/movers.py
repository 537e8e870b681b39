"""First movers: which losses, layers, experts, modalities, noise levels and samples left their
range first, and in which order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...platform import catalogue
from ..since_sample import noise_bins
from .gauges import LossGauge, SignalGauge
from .record import Entry

LIMIT = 4.0
"""Spreads of one number; of the largest among n it is sqrt(2 ln n) / 2 more, as chance has it."""
LOOK_BACK_STEPS = 10
"""Before the alert's onset: something else may have moved before what the rule looks at."""
ODD_SAMPLE = 3.0
MOST_CLIPS = 40
_STEP_SIGNALS = {
    catalogue.LEARNING_RATE: "learning rate",
    catalogue.GRAD_NORM: "gradient",
    catalogue.GRAD_LAYER_NORM: "layer",
    catalogue.EXPERT_TOKENS: "expert",
}
_SAMPLED_SIGNALS = {
    catalogue.ACTIVATION_ABSMAX: "activation",
    catalogue.ACTIVATION_RMS: "activation",
    catalogue.ACTIVATION_KURTOSIS: "activation",
    catalogue.ACTIVATION_MODALITY_RMS: "activation",
    catalogue.ROUTER_ENTROPY_NATS: "router",
    catalogue.ROUTER_LOGIT_ABSMAX: "router",
    catalogue.ATTENTION_LOGIT_BOUND: "attention",
    catalogue.UPDATE_WEIGHT_RATIO: "update",
    catalogue.UPDATE_LOST_SHARE: "update",
    catalogue.FROZEN_EXPERTS: "update",
}
_TIMES = {
    catalogue.DATA_WAIT_S: "time",
    catalogue.FORWARD_S: "time",
    catalogue.BACKWARD_S: "time",
    catalogue.OPTIMIZER_S: "time",
    catalogue.MONITOR_S: "time",
}


@dataclass(frozen=True, slots=True)
class Mover:
    kind: str
    """loss, modality, noise level, learning rate, gradient, layer, expert, activation, router,
    attention, update or time."""
    what: str
    """In words, as "expert 1 of MoE layer 0"."""
    signal: str
    step: int
    """First step in which it was out of its range."""
    score: float
    """Spreads, where it was farthest; negative where it fell."""


@dataclass(frozen=True, slots=True)
class OddClip:
    name: str
    steps: tuple[int, ...]
    batches: tuple[int, ...]
    score: float
    """Its largest residual, in spreads of samples at its noise level (at most 6)."""
    modality: str
    sigma: float


def first_movers(branch: Sequence[Entry], onset: int, fired: int) -> list[Mover]:
    """Returns what left its range on the way to the alert, in order of time.

    branch: the steps that led to it. What is measured in samples is told by its first sample.
    """
    baseline = [e for e in branch if e.step < onset - LOOK_BACK_STEPS // 2]
    seen = [e for e in branch if onset - LOOK_BACK_STEPS <= e.step <= fired]
    found = _of_losses(baseline, seen)
    for signal, kind in {**_STEP_SIGNALS, **_SAMPLED_SIGNALS}.items():
        found += _of_signal(signal, kind, baseline, seen)
    for signal, kind in _TIMES.items():
        # the clock is a rough measure, and nobody minds a quick step
        found += [m for m in _of_signal(signal, kind, baseline, seen) if m.score >= 2 * LIMIT]
    # a learning rate is set before the step; of what follows in it the farthest comes first
    return sorted(found, key=lambda m: (m.step, m.kind != "learning rate", -abs(m.score)))


def odd_clips(branch: Sequence[Entry], onset: int, fired: int) -> list[OddClip]:
    """Returns the clips whose losses stand out from the onset to the alarm, the oddest first."""
    gauge = LossGauge([e for e in branch if e.step < onset - LOOK_BACK_STEPS // 2])
    by_name: dict[str, list[tuple[float, int, int, str, float]]] = {}
    for entry in branch:
        found = gauge.residuals(entry) if onset <= entry.step <= fired else None
        if found is None:
            continue
        for slot, name in enumerate(entry.names):
            of_M = found.per_sample_MB[:, slot]
            if not np.isfinite(of_M).any():
                continue
            m = int(np.nanargmax(of_M))
            if of_M[m] >= ODD_SAMPLE:
                sigma = float(found.sigma_MB[m, slot])
                row = (float(of_M[m]), entry.step, entry.batch, catalogue.MODALITIES[m], sigma)
                by_name.setdefault(name, []).append(row)
    clips = [
        OddClip(
            name,
            tuple(sorted({step for _, step, _, _, _ in rows})),
            tuple(sorted({batch for _, _, batch, _, _ in rows})),
            max(rows)[0],
            max(rows)[3],
            max(rows)[4],
        )
        for name, rows in by_name.items()
    ]
    return sorted(clips, key=lambda c: (-len(c.steps), -c.score, c.name))


def _of_losses(baseline: Sequence[Entry], seen: Sequence[Entry]) -> list[Mover]:
    gauge = LossGauge(baseline)
    found: list[Mover] = []

    def take(kind: str, what: str, score: Callable[[Entry], float | None]) -> None:
        mover = _first(kind, what, catalogue.LOSS_PER_SAMPLE, seen, [score(e) for e in seen], LIMIT)
        if mover is not None:
            found.append(mover)

    take("loss", "the loss of the batch", gauge.score)
    for m, name in enumerate(catalogue.MODALITIES):

        def of_modality(entry: Entry, m: int = m) -> float | None:
            residuals = gauge.residuals(entry)
            if residuals is None or m >= len(residuals.of_modality_M):
                return None
            score = float(residuals.of_modality_M[m])
            return score if math.isfinite(score) else None

        take("modality", name, of_modality)
    for m, name in enumerate(catalogue.MODALITIES):
        for q in range(catalogue.NUM_NOISE_BINS):
            low, high = q / catalogue.NUM_NOISE_BINS, (q + 1) / catalogue.NUM_NOISE_BINS

            def of_bin(entry: Entry, m: int = m, q: int = q) -> float | None:
                residuals = gauge.residuals(entry)
                if residuals is None or m >= len(residuals.per_sample_MB):
                    return None
                of_B = residuals.per_sample_MB[m]
                is_in_B = (noise_bins(residuals.sigma_MB[m]) == q) & np.isfinite(of_B)
                num = int(is_in_B.sum())
                return float(of_B[is_in_B].sum() / math.sqrt(num)) if num else None

            take("noise level", f"{name} at noise {low:.2f} to {high:.2f}", of_bin)
    return found


def _of_signal(
    signal: str, kind: str, baseline: Sequence[Entry], seen: Sequence[Entry]
) -> list[Mover]:
    gauge = SignalGauge(signal, baseline)
    measured = [e for e in seen if signal in e.values]
    if not gauge.is_ready or not measured:
        return []
    rows = [gauge.scores(e) for e in measured]
    if any(row is None for row in rows):
        return []
    scores = np.stack([row for row in rows if row is not None])
    flat = scores.reshape(len(scores), -1)
    num = flat.shape[1]
    limit = LIMIT + math.sqrt(2 * math.log(num)) / 2 if num > 1 else LIMIT
    found = []
    for element in range(num):
        what = _name(signal, kind, np.unravel_index(element, scores.shape[1:]))
        mover = _first(kind, what, signal, measured, flat[:, element].tolist(), limit)
        if mover is not None:
            found.append(mover)
    # of many elements that follow each other the first few tell the story
    found.sort(key=lambda m: (m.step, -abs(m.score)))
    return found[:6]


def _first(
    kind: str,
    what: str,
    signal: str,
    seen: Sequence[Entry],
    scores: Sequence[float | None],
    limit: float,
) -> Mover | None:
    """The first step beyond the limit that is no single odd one: the next value is out, too, or
    there is none."""
    known = [(e.step, s) for e, s in zip(seen, scores, strict=True) if s is not None]
    for at, (step, score) in enumerate(known):
        if abs(score) < limit:
            continue
        after = known[at + 1][1] if at + 1 < len(known) else score
        is_lasting = abs(after) >= limit / 2 and after * score > 0
        if is_lasting or abs(score) >= 3 * limit:
            same_way = [s for _, s in known[at:] if s * score > 0]
            return Mover(kind, what, signal, step, max(same_way, key=abs))
    return None


def _name(signal: str, kind: str, index: Sequence[np.intp] | tuple[NDArray[np.intp], ...]) -> str:
    at = [int(i) for i in index]
    if not at:
        return (
            {"gradient": "the gradient of the whole network"}.get(kind, kind)
            if (signal not in _TIMES)
            else signal.removeprefix("time/").removesuffix("_s").replace("_", " ")
        )
    if signal == catalogue.EXPERT_TOKENS:
        return f"share of expert {at[1]} of MoE layer {at[0]}"
    words = {
        catalogue.GRAD_LAYER_NORM: "gradient of",
        catalogue.ACTIVATION_ABSMAX: "largest activation of",
        catalogue.ACTIVATION_RMS: "activations of",
        catalogue.ACTIVATION_KURTOSIS: "outliers of",
        catalogue.ACTIVATION_MODALITY_RMS: "activations of",
        catalogue.UPDATE_WEIGHT_RATIO: "update of",
        catalogue.UPDATE_LOST_SHARE: "lost updates of",
        catalogue.FROZEN_EXPERTS: "experts that stand still in",
        catalogue.ROUTER_ENTROPY_NATS: "router entropy of",
        catalogue.ROUTER_LOGIT_ABSMAX: "router logits of",
        catalogue.ATTENTION_LOGIT_BOUND: "attention logits of",
    }[signal]
    is_moe = kind == "router" or signal == catalogue.FROZEN_EXPERTS
    of = f"{words} {'MoE layer' if is_moe else 'layer'} {at[0]}"
    return f"{of}, {catalogue.MODALITIES[at[1]]}" if len(at) > 1 else of
