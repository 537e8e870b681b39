"""From measured values to scores: what stands between a rule's signal and its threshold.

One scorer serves all rules that judge the same signal in the same way. High is bad for every score.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.records import EventKind
from .detectors.burst import BurstScore
from .detectors.divergence import DivergenceScore
from .detectors.drift import DriftScore
from .detectors.experts import DeadExperts, Monopoly
from .detectors.level_shift import LevelShift
from .detectors.non_finite import non_finite_score
from .detectors.spike import SpikeScore
from .loss_signals import LossNormaliser, Residuals

Values = Mapping[str, NDArray[np.generic]]

NEW_BASELINES: frozenset[EventKind] = frozenset({"decay", "resolution", "data_change", "resume"})
"""Announced events after which values may settle elsewhere without anything being wrong."""
NEW_DATA: frozenset[EventKind] = frozenset({"resolution", "data_change"})
"""Those of them after which even the noise of the values is another."""

_POOLED_FLOOR = 0.3
"""Least spread of a pooled residual, which has about unit spread where samples vary
independently."""
_MODALITIES = catalogue.MODALITIES
_RECORDED_AS = {
    (catalogue.GRAD_NORM, "spike"): catalogue.GRAD_NORM_SCORE,
    # of a trainer that has one loss; losses of samples have scorers of their own
    (catalogue.LOSS_TOTAL, "spike"): catalogue.LOSS_SPIKE_SCORE,
    (catalogue.LOSS_TOTAL, "drift"): catalogue.LOSS_DRIFT_SCORE,
}
"""What the scores of a scalar's rules are recorded as."""


@dataclass(frozen=True, slots=True)
class Score:
    value: float
    is_ready: bool = True
    """False while the baseline is still being learnt, and nothing could be seen."""
    onset_step: int | None = None
    """The change point, where the detector itself knows it."""
    recorded: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Catalogue signals that this score is recorded as."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    is_learnt_anew: bool | None = None
    """Whether the detector gave up its baseline, as it was exceeded for too long: what is quiet
    from then on is a new one, and nothing has healed. None: as it was."""
    is_held: bool = False
    """Whether values stay high though this one may not: what holds has not healed yet."""


class Scorer(Protocol):
    """Turns a step's values into a score per detector name; nothing where its signal was not
    measured in this step.

    announce: an event that may explain a change; returns the detectors that learn anew by it.
    """

    def update(self, step: int, values: Values) -> Mapping[str, Score]: ...
    def announce(self, kind: EventKind) -> Collection[str]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class LossScorer:
    """Spike and drift scores of the per-sample losses, both on residuals from one normaliser over
    sigma.

    Spike: the worst robust z of the residuals pooled over all samples, and over those of each
    modality (what spoils one modality alone would be diluted by the others). Drift: the CUSUM of
    each modality's log loss with sigma accounted for; the worse modality counts. A step that the
    spike score rejects teaches none of them, nor does any while scores stay high (`Hold`), and one
    that it nearly rejects moves the level by no more than one sigma's worth: a stretch of such
    steps must not explain itself away. reject: sigmas above which a step is not learnt from.
    """

    def __init__(
        self, spike: Mapping[str, float], drift: Mapping[str, float], reject: float = 4.0
    ) -> None:
        self._normaliser = LossNormaliser(len(_MODALITIES))
        self._told = {"spike": dict(spike), "drift": dict(drift)}
        options: dict[str, Any] = {"floor": _POOLED_FLOOR, "reject": reject} | whole(spike)
        # the normaliser's own level follows the training
        self._pooled = SpikeScore(**options, level_rate=0.0)
        self._of_modality = [SpikeScore(**options, level_rate=0.0) for _ in _MODALITIES]
        self._drifts = [DriftScore(**whole(drift)) for _ in _MODALITIES]

    def update(self, step: int, values: Values) -> Mapping[str, Score]:
        residuals = self._residuals(values)
        if residuals is None:
            return {}
        z_pooled, z_M = self._spike_scores(residuals)
        z = max(z_pooled, *z_M)
        is_held = self._pooled.hold.update(z)
        is_accepted = z <= self._pooled.reject_above and not is_held
        is_learnt_anew: bool | None = None
        # a batch in which any loss is not a number is judged by the rest, but not learnt from
        if is_accepted and _is_finite(values):
            self._learn(residuals, z_M)
        elif not is_accepted and self._pooled.reject():
            is_learnt_anew = True
            for spike in self._of_modality:
                spike.rebaseline()
            self._normaliser.forget()
            for drift in self._drifts:
                # the jump was told; it is no drift besides
                drift.rebaseline()
        slow, modality = self._drift(step, residuals if is_accepted else None)
        settled = [d.is_learnt_anew for d in self._drifts if d.is_learnt_anew is not None]
        return {
            "spike": Score(
                z,
                self._pooled.is_ready,
                recorded={catalogue.LOSS_SPIKE_SCORE: np.array(z, np.float32)},
                evidence={
                    "all_sigma": round(z_pooled, 2),
                    **{
                        f"{name}_sigma": round(s, 2)
                        for name, s in zip(_MODALITIES, z_M, strict=True)
                    },
                },
                is_learnt_anew=is_learnt_anew,
                is_held=is_held,
            ),
            "drift": Score(
                slow.score,
                slow.is_ready,
                slow.onset_step,
                {catalogue.LOSS_DRIFT_SCORE: np.array(slow.score, np.float32)},
                {"modality": modality},
                any(settled) if settled and is_accepted else None,
            ),
        }

    def vet(self, values: Values) -> float:
        """The spike score that a batch would get; infinite where one of its losses is not finite.
        Changes nothing."""
        if not _is_finite(values):
            return math.inf
        residuals = self._residuals(values)
        if residuals is None:
            return 0.0
        z_pooled, z_M = self._spike_scores(residuals)
        return max(z_pooled, *z_M)

    def _spike_scores(self, residuals: Residuals) -> tuple[float, list[float]]:
        """Robust z over all samples, and of each modality; 0 for an absent one."""
        return self._pooled.score(residuals.pooled), [
            spike.score(float(x)) if math.isfinite(x) else 0.0
            for spike, x in zip(self._of_modality, residuals.of_modality_M, strict=True)
        ]

    def _learn(self, residuals: Residuals, z_M: list[float]) -> None:
        level_weight_M = np.array([1.0 / max(1.0, z) for z in z_M])
        self._normaliser.learn(residuals, level_weight_M)
        self._pooled.learn(residuals.pooled)
        for spike, x in zip(self._of_modality, residuals.of_modality_M, strict=True):
            if math.isfinite(x):
                spike.learn(float(x))

    def _drift(self, step: int, accepted: Residuals | None) -> tuple[DriftScore, str]:
        """Feeds the drift score of each modality that is there; returns the worst and its name.

        A rejected step is the spike rule's business and does not count: otherwise a run that comes
        out of a spike would be said to drift.
        """
        if accepted is not None:
            for drift, log_level in zip(self._drifts, accepted.log_level_M, strict=True):
                if math.isfinite(log_level):
                    drift.update(step, float(log_level))
        worst = max(range(len(self._drifts)), key=lambda m: self._drifts[m].score)
        return self._drifts[worst], _MODALITIES[worst]

    def _residuals(self, values: Values) -> Residuals | None:
        if catalogue.LOSS_PER_SAMPLE not in values:
            return None
        loss_MB = np.atleast_2d(np.asarray(values[catalogue.LOSS_PER_SAMPLE]))
        if catalogue.LOSS_SIGMA in values:
            sigma_MB = np.atleast_2d(np.asarray(values[catalogue.LOSS_SIGMA]))
        else:
            sigma_MB = np.zeros(loss_MB.shape)
        if loss_MB.shape[0] < len(_MODALITIES):
            missing = ((0, len(_MODALITIES) - loss_MB.shape[0]), (0, 0))
            # a loss of 0 is a masked one
            loss_MB, sigma_MB = np.pad(loss_MB, missing), np.pad(sigma_MB, missing)
        return self._normaliser.residuals(loss_MB, sigma_MB)

    def announce(self, kind: EventKind) -> Collection[str]:
        for drift in self._drifts:
            drift.rebaseline()
        if kind in NEW_DATA:
            self._normaliser.forget()
            for spike in (self._pooled, *self._of_modality):
                spike.rebaseline()
            return ("spike", "drift")
        if kind == "resume":
            # the level stays, since a resume may be in the middle of vetting spoiled data
            self._normaliser.hasten()
        return ("drift",)

    def state_dict(self) -> dict[str, Any]:
        return {
            "told": self._told,
            "normaliser": self._normaliser.state_dict(),
            "pooled": self._pooled.state_dict(),
            "of_modality": [spike.state_dict() for spike in self._of_modality],
            "drifts": [drift.state_dict() for drift in self._drifts],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back a saved state; a score that is told other parameters now begins anew."""
        self._normaliser.load_state_dict(state["normaliser"])
        told = state.get("told", self._told)
        if told["spike"] == self._told["spike"]:
            self._pooled.load_state_dict(state["pooled"])
            for spike, saved in zip(self._of_modality, state["of_modality"], strict=True):
                spike.load_state_dict(saved)
        if told["drift"] == self._told["drift"]:
            for drift, saved in zip(self._drifts, state["drifts"], strict=True):
                drift.load_state_dict(saved)


_OfValues = SpikeScore | BurstScore | DriftScore | LevelShift | DivergenceScore
OF_VALUES: Mapping[str, Callable[..., _OfValues]] = {
    "spike": SpikeScore,
    "burst": BurstScore,
    "drift": DriftScore,
    "level_shift": LevelShift,
    "divergence": DivergenceScore,
}
"""The detectors that judge one value a step."""


class ScalarScorer:
    """Score of a scalar by one of the detectors of values; with `is_log` of its logarithm, as
    befits a heavy tail. Not finite: passed over."""

    def __init__(self, signal: str, detector: str, parameters: Mapping[str, float]) -> None:
        self._signal = signal
        self._detector = detector
        options = whole(parameters)
        self._is_log = bool(options.pop("is_log", 0))
        self._inner: _OfValues = OF_VALUES[detector](**options)

    def update(self, step: int, values: Values) -> Mapping[str, Score]:
        if self._signal not in values:
            return {}
        value = float(np.asarray(values[self._signal]))
        if self._is_log:
            value = math.log(value) if value > 0 else math.nan
        if not math.isfinite(value):
            return {}
        inner = self._inner
        onset_step: int | None = None
        name = _RECORDED_AS.get((self._signal, self._detector))
        if isinstance(inner, SpikeScore):
            score, _ = inner.update(value)
        elif isinstance(inner, DriftScore):
            inner.update(step, value)
            score, onset_step = inner.score, inner.onset_step
        else:
            score = inner.update(value)
        recorded = {} if name is None else {name: np.array(score, np.float32)}
        # only a drift can also say that its level has come back
        anew = (
            inner.is_learnt_anew if isinstance(inner, DriftScore) else inner.is_learnt_anew or None
        )
        is_held = isinstance(inner, SpikeScore) and inner.hold.is_on
        found = Score(score, inner.is_ready, onset_step, recorded, {}, anew, is_held)
        return {self._detector: found}

    def announce(self, kind: EventKind) -> Collection[str]:
        inner = self._inner
        if isinstance(inner, SpikeScore | BurstScore):
            if kind == "resume":
                return ()
            inner.rebaseline(forgets_spread=kind in NEW_DATA)
        elif isinstance(inner, DivergenceScore) and kind not in NEW_DATA:
            return ()
        else:
            inner.rebaseline()
        return (self._detector,)

    def state_dict(self) -> dict[str, Any]:
        return self._inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._inner.load_state_dict(state)


class NonFiniteScorer:
    """Share of a signal's values that are not finite. It has no memory."""

    def __init__(self, signal: str) -> None:
        self._signal = signal

    def update(self, step: int, values: Values) -> Mapping[str, Score]:
        if self._signal not in values:
            return {}
        return {"non_finite": Score(non_finite_score(values[self._signal]))}

    def announce(self, kind: EventKind) -> Collection[str]:
        return ()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return


class ExpertScorer:
    """Dead experts (their number), or the leaders' share of the routing (the worst layer's)."""

    def __init__(self, detector: str, parameters: Mapping[str, float]) -> None:
        options = whole(parameters)
        self._dead = DeadExperts(**options) if detector == "dead_experts" else None
        self._monopoly = Monopoly(**options) if detector == "monopoly" else None

    def update(self, step: int, values: Values) -> Mapping[str, Score]:
        tokens_LE = np.asarray(values.get(catalogue.EXPERT_TOKENS, np.zeros((0, 0))))
        if not tokens_LE.size or not np.isfinite(tokens_LE).all():
            return {}
        if self._dead is not None:
            is_dead_LE = self._dead.update(tokens_LE)
            num_dead = int(is_dead_LE.sum())
            return {
                "dead_experts": Score(
                    float(num_dead),
                    True,
                    step - self._dead.longest_idle_steps() + 1 if num_dead else None,
                    {catalogue.DEAD_EXPERTS: is_dead_LE.sum(axis=1).astype(np.float32)},
                    {"layer_expert": np.argwhere(is_dead_LE).tolist()} if num_dead else {},
                )
            }
        assert self._monopoly is not None
        share_L = self._monopoly.update(tokens_LE)
        return {
            "monopoly": Score(
                float(share_L.max()),
                evidence={"leaders_share_of_layer": np.round(share_L, 3).tolist()},
            )
        }

    def announce(self, kind: EventKind) -> Collection[str]:
        inner = self._dead or self._monopoly
        assert inner is not None
        if kind not in NEW_DATA:
            return ()
        inner.rebaseline()
        return ("monopoly",) if self._dead is None else ("dead_experts",)

    def state_dict(self) -> dict[str, Any]:
        inner = self._dead or self._monopoly
        assert inner is not None
        return inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        inner = self._dead or self._monopoly
        assert inner is not None
        inner.load_state_dict(state)


def _is_finite(values: Values) -> bool:
    return bool(np.isfinite(np.asarray(values[catalogue.LOSS_PER_SAMPLE])).all())


def whole(parameters: Mapping[str, float]) -> dict[str, Any]:
    """Counts come as floats from the table of rules."""
    counts = (
        *("window", "min_count", "lag", "min_steps", "memory_steps"),
        *("num_recent", "num_first", "num_last"),
    )
    return {k: int(v) if k in counts else v for k, v in parameters.items()}
