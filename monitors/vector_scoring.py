"""Scores of vector signals: each entry by itself, the worst one counts and is named.

n entries  L MoE layers  E experts
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.catalogue import ENTRY_NAMES, signal_spec
from ..platform.records import EventKind
from .detectors.deadlock import Deadlock
from .detectors.own_baseline import Change, Multiple, OwnBaseline
from .scoring import NEW_BASELINES, NEW_DATA, Score, Values
from .windows import Floats

_LARGEST = float(np.finfo(np.float32).max)
COLLAPSE_WINDOW, COLLAPSE_MIN_COUNT = 64, 8


class EntryScorer:
    """rise, fall: robust z against the entry's own past. multiple: over its own past. above: the
    value itself. A signal that was not measured in a step gives no score."""

    def __init__(self, signal: str, detector: str, parameters: Mapping[str, Any]) -> None:
        self._signal, self._detector = signal, detector
        self._dimensions = signal_spec(signal).dimensions
        self._change = (
            Change(1.0 if detector == "rise" else -1.0, **parameters)
            if detector in ("rise", "fall")
            else None
        )
        self._multiple = Multiple(**parameters) if detector == "multiple" else None

    def update(self, step: int, values: Values) -> Mapping[str, Score]:
        if self._signal not in values:
            return {}
        value = np.asarray(values[self._signal], dtype=np.float64)
        if not value.size:
            return {}
        flat_n = value.reshape(-1)
        is_ready = True
        if self._change is not None:
            is_ready, score_n = self._change.baseline.is_ready, self._change.update(flat_n)
        elif self._multiple is not None:
            is_ready, score_n = self._multiple.baseline.is_ready, self._multiple.update(flat_n)
        else:
            if np.isnan(flat_n).all():
                return {}
            # infinite is above anything; the store and its readers want a number
            score_n = np.nan_to_num(np.where(np.isnan(flat_n), -math.inf, flat_n))
            score_n = np.clip(score_n, -_LARGEST, _LARGEST)
        worst = int(score_n.argmax())
        measured = float(np.clip(flat_n[worst], -_LARGEST, _LARGEST))
        evidence: dict[str, Any] = {"measured": float(np.float32(measured))}
        if value.ndim:
            place = np.unravel_index(worst, value.shape)
            evidence |= self._named([int(index) for index in place])
        learner = self._change or self._multiple
        found = Score(
            float(score_n[worst]),
            is_ready,
            evidence=evidence,
            is_learnt_anew=(learner is not None and learner.baseline.is_learnt_anew) or None,
        )
        return {self._detector: found}

    def _named(self, place: list[int]) -> dict[str, Any]:
        """{dimension: index, or its name}; a scope counts `layer` from the start of the whole."""
        named: dict[str, Any] = {}
        for dimension, index in zip(self._dimensions, place, strict=True):
            names = ENTRY_NAMES.get(dimension, ())
            key = "layer" if dimension == "moe_layer" else dimension
            named[key] = names[index] if index < len(names) else index
        return named

    def announce(self, kind: EventKind) -> Collection[str]:
        if kind not in NEW_BASELINES or (self._change is None and self._multiple is None):
            return ()
        if self._change is not None:
            self._change.baseline.clear()
        if self._multiple is not None:
            self._multiple.clear()
        return (self._detector,)

    def state_dict(self) -> dict[str, Any]:
        if self._change is not None:
            return self._change.baseline.state_dict()
        return {} if self._multiple is None else self._multiple.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._change is not None:
            self._change.baseline.load_state_dict(state)
        if self._multiple is not None:
            self._multiple.load_state_dict(state)


class CollapseScorer:
    """How far a router has collapsed: the entropy of the load and that of each token's scores have
    both fallen.

    score of a layer = min of both falls;  fall = 1 - H / median of H so far. 1 is a router that is
    certain and always of the same expert. Either alone is something else: undecided routers with a
    few popular experts, or certain ones that share out well. A layer that falls by more than a
    tenth in both is not learnt. Source: facts, health.md section 4, 8.
    """

    def __init__(self, window: int = COLLAPSE_WINDOW, min_count: int = COLLAPSE_MIN_COUNT) -> None:
        self._load = OwnBaseline(window, min_count, 0.0)
        self._token = OwnBaseline(window, min_count, 0.0)

    def update(self, step: int, values: Values) -> Mapping[str, Score]:
        names = (catalogue.LOAD_ENTROPY_NATS, catalogue.ROUTER_ENTROPY_NATS)
        if not all(name in values and np.asarray(values[name]).size for name in names):
            return {}
        load_L, token_L = (np.asarray(values[name], dtype=np.float64) for name in names)
        if load_L.shape != token_L.shape:
            return {}  # a scope has chosen layers of one of them
        is_ready = self._load.is_ready and self._token.is_ready
        fall_L = np.minimum(_fall(self._load, load_L), _fall(self._token, token_L))
        is_rejected_L = fall_L > 0.1
        self._load.learn(load_L, is_rejected_L)
        self._token.learn(token_L, is_rejected_L)
        worst = int(fall_L.argmax())
        evidence = {
            "layer": worst,
            "load_entropy_nats": round(float(load_L[worst]), 4),
            "router_entropy_nats": round(float(token_L[worst]), 4),
            "fall_of_layer": np.round(fall_L, 3).tolist(),
        }
        is_learnt_anew = self._load.is_learnt_anew or self._token.is_learnt_anew or None
        found = Score(
            float(fall_L[worst]), is_ready, evidence=evidence, is_learnt_anew=is_learnt_anew
        )
        return {"collapse": found}

    def announce(self, kind: EventKind) -> Collection[str]:
        if kind not in NEW_DATA:
            return ()
        self._load.clear()
        self._token.clear()
        return ("collapse",)

    def state_dict(self) -> dict[str, Any]:
        return {"load": self._load.state_dict(), "token": self._token.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._load.load_state_dict(state["load"])
        self._token.load_state_dict(state["token"])


def _fall(baseline: OwnBaseline, entropy_L: Floats) -> Floats:
    level_L, _ = baseline.level_and_spread(len(entropy_L))
    with np.errstate(divide="ignore", invalid="ignore"):
        fall_L = 1.0 - entropy_L / level_L
    return np.where(np.isfinite(fall_L), fall_L, 0.0)


class DeadlockScorer:
    """Number of deadlocked layers, with their list, their place in depth and who has recovered."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._deadlock = Deadlock(**parameters)

    def update(self, step: int, values: Values) -> Mapping[str, Score]:
        tokens_LE: NDArray[Any] = np.asarray(values.get(catalogue.EXPERT_TOKENS, np.zeros((0, 0))))
        if not tokens_LE.size or not np.isfinite(tokens_LE).all():
            return {}
        is_stuck_L = self._deadlock.update(step, tokens_LE)
        evidence: dict[str, Any] = {}
        if is_stuck_L.any():
            evidence = {
                "layers": np.flatnonzero(is_stuck_L).tolist(),
                "num_in_thirds_of_depth": thirds(is_stuck_L),
                "minority_share_of_layer": np.round(self._deadlock.minority_L, 3).tolist(),
                "recovered": self._deadlock.recovered(),
            }
        return {
            "deadlock": Score(
                float(is_stuck_L.sum()),
                True,
                self._deadlock.onset_step(),
                {catalogue.DEADLOCKED: is_stuck_L.astype(np.float32)},
                evidence,
            )
        }

    def announce(self, kind: EventKind) -> Collection[str]:
        if kind not in NEW_DATA:
            return ()
        self._deadlock.rebaseline()
        return ("deadlock",)

    def state_dict(self) -> dict[str, Any]:
        return self._deadlock.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._deadlock.load_state_dict(state)


def thirds(is_stuck_L: NDArray[np.bool_]) -> list[int]:
    """How many are stuck in the first, the middle and the last third of the depth: the paper finds
    them at both ends."""
    return [int(part.sum()) for part in np.array_split(is_stuck_L, 3)]
