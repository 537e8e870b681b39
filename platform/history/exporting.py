"""What of a run is exported: which signals, which steps, thinned or whole, read stretch by
stretch."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..catalogue import signal_spec
from ..errors import MoescopeError, did_you_mean
from ..records import Run, Segment, Series
from ..series import is_living, known_signals, read_parts, read_series
from ..store import Store
from ..thinning import taken

VERSION = 1
"""Of the head of a JSON Lines file, and of the rows' fields."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a run is asked for."""

    signals: tuple[str, ...] = ()
    """Names, or patterns as `loss/*`; none: all."""
    from_step: int | None = None
    to_step: int | None = None
    """Both included."""
    is_living_only: bool = False
    """Without the branches that a rollback or a resume abandoned."""
    thin_to: int | None = None
    """At most so many points of each signal (two per segment at the least)."""

    def __post_init__(self) -> None:
        first, last = self.from_step, self.to_step
        if first is not None and last is not None and first > last:
            raise MoescopeError(
                f"--from {first} is after --to {last}: give the first step, then the last"
            )


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one signal, and which of its points count. is_living: (points,)."""

    series: Series
    is_living: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Export:
    """A run about to be written; `parts` reads it."""

    store: Store
    run: Run
    segments: Sequence[Segment]
    signals: Sequence[str]
    wanted: Wanted

    def parts(self) -> Iterator[Part]:
        """Yields all stretches: signals in alphabetical order, each by (segment, step)."""
        for signal in self.signals:
            for series in self._read(signal):
                mask = is_living(series, self.segments)
                if self.wanted.is_living_only and not mask.all():
                    series, mask = taken(series, np.flatnonzero(mask)), mask[mask]
                if len(series.steps):
                    yield Part(series, mask)

    def _read(self, signal: str) -> Iterator[Series]:
        store, run_id = self.store, self.run.id
        first, last, points = self.wanted.from_step, self.wanted.to_step, self.wanted.thin_to
        if points is None:
            yield from read_parts(store, run_id, signal, from_step=first, to_step=last)
        else:
            yield read_series(
                store, run_id, signal, from_step=first, to_step=last, max_points=points
            )

    def head(self) -> dict[str, Any]:
        """What the file says of the run, as nested plain values."""
        run = asdict(self.run)
        return {
            "moescope_export": VERSION,
            "run": run,
            "segments": [asdict(segment) for segment in self.segments],
            "events": [asdict(event) for event in self.store.events(self.run.id)],
            "signals": {
                name: {"unit": signal_spec(name).unit, "dimensions": signal_spec(name).dimensions}
                for name in self.signals
            },
            "from_step": self.wanted.from_step,
            "to_step": self.wanted.to_step,
            "is_living_only": self.wanted.is_living_only,
            "is_thinned": self.wanted.thin_to is not None,
            "thinned_to": self.wanted.thin_to,
        }


def prepared(store: Store, run: Run, wanted: Wanted) -> Export:
    """Looks up what is asked for. Raises MoescopeError where a name or pattern fits no signal that
    the run has."""
    measured = known_signals(store, run.id)
    chosen: set[str] = set()
    for pattern in wanted.signals:
        found = [name for name in measured if fnmatchcase(name, pattern)]
        if not found:
            raise MoescopeError(
                f"run {run.name} has no signal {pattern}{did_you_mean(pattern, measured)}"
            )
        chosen.update(found)
    signals = sorted(chosen) if wanted.signals else measured
    return Export(store, run, store.segments(run.id), signals, wanted)
