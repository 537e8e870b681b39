"""Which entries of a vector signal a rule looks at: chosen in front of whatever scores them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.catalogue import CATALOGUE, ENTRY_NAMES, MODALITIES, signal_spec
from ..platform.records import EventKind
from .rules import Rule
from .scoring import Score, Scorer, Values

_ALIASES = {"layer": ("layer", "moe_layer"), "expert": ("expert", "noise_expert")}
"""{word of an evidence's name: dimensions that it tells a place in}, as in `layer_expert`; the
names of dimensions tell one in themselves."""


def scope_key(rule: Rule) -> str:
    """Rules that look at the same entries have the same; empty for all entries."""
    return "".join(
        f"|{dimension}={','.join(str(entry) for entry in sorted(set(entries), key=str))}"
        for dimension, entries in sorted(rule.scope.items())
    )


def scoped(rule: Rule, scorer: Scorer) -> Scorer:
    """Returns a scorer that sees the entries of the rule's scope only; the same one without
    scope."""
    return ScopedScorer(rule, scorer) if rule.scope else scorer


class ScopedScorer:
    """Shows another scorer a part of the signal, and tells what it found in the places of the
    whole.

    What it scores is not recorded: the catalogue's scores are those of all entries. A scope that
    lies outside of what was measured gives no score.
    """

    def __init__(self, rule: Rule, scorer: Scorer) -> None:
        self._signal = rule.signal
        self._scope = rule.scope
        self._scorer = scorer
        self._places: dict[str, list[int]] = {}

    def update(self, step: int, values: Values) -> Mapping[str, Score]:
        if self._signal not in values:
            return {}
        part = self._part(np.asarray(values[self._signal]))
        if part is None:
            return {}
        seen = {**values, **self._beside(values), self._signal: part}
        scores = self._scorer.update(step, seen)
        return {name: self._in_places_of_the_whole(score) for name, score in scores.items()}

    def announce(self, kind: EventKind) -> Collection[str]:
        return self._scorer.announce(kind)

    def state_dict(self) -> dict[str, Any]:
        return self._scorer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scorer.load_state_dict(state)

    def _part(self, whole: NDArray[np.generic]) -> NDArray[np.generic] | None:
        if self._signal == catalogue.LOSS_PER_SAMPLE:
            loss_MB = np.array(np.atleast_2d(whole))
            chosen = self._scope["modality"]
            for row in range(min(len(loss_MB), len(MODALITIES))):
                if MODALITIES[row] not in chosen:
                    loss_MB[row] = 0.0  # a loss of 0 is a masked one
            return loss_MB if loss_MB.any() else None
        part = whole
        for axis, dimension in enumerate(signal_spec(self._signal).dimensions):
            if dimension not in self._scope or axis >= whole.ndim:
                continue
            places = _indices(dimension, self._scope[dimension], whole.shape[axis])
            if not places:
                return None
            self._places[dimension] = places
            part = np.take(part, places, axis=axis)
        return part

    def _beside(self, values: Values) -> Values:
        """The same part of signals with the same dimensions, which a scorer may look at too."""
        if self._signal == catalogue.LOSS_PER_SAMPLE:
            return {}
        dimensions = signal_spec(self._signal).dimensions
        parts = {
            name: self._part(np.asarray(value))
            for name, value in values.items()
            if name in CATALOGUE and CATALOGUE[name].dimensions == dimensions
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _in_places_of_the_whole(self, score: Score) -> Score:
        evidence = {name: self._placed(name, told) for name, told in score.evidence.items()}
        scope = {dimension: list(entries) for dimension, entries in self._scope.items()}
        return replace(score, recorded={}, evidence={**evidence, "scope": scope})

    def _placed(self, name: str, told: Any) -> Any:
        """Tells places that an evidence names in those of the whole signal."""
        singular = name.removesuffix("s")
        words = [singular] if self._of(singular) else singular.split("_")
        dimensions = [self._of(word) for word in words]
        if not any(dimensions) or not all(word in _ALIASES or self._of(word) for word in words):
            return told
        if isinstance(told, int | str):
            return self._at(dimensions[0], told)
        if len(words) == 1:
            return [self._at(dimensions[0], place) for place in told]
        return [[self._at(d, p) for d, p in zip(dimensions, row, strict=True)] for row in told]

    def _of(self, word: str) -> str:
        """The chosen dimension that a word tells a place in; empty where it tells none."""
        return next((d for d in (word, *_ALIASES.get(word, ())) if d in self._places), "")

    def _at(self, dimension: str, place: Any) -> Any:
        if not dimension:
            return place
        names = ENTRY_NAMES.get(dimension, ())
        index = self._places[dimension][names.index(place) if place in names else int(place)]
        return names[index] if index < len(names) else index


def _indices(dimension: str, entries: Sequence[int | str], size: int) -> list[int]:
    names = ENTRY_NAMES.get(dimension)
    given = {names.index(str(entry)) if names else int(entry) for entry in entries}
    return sorted(index for index in given if index < size)
