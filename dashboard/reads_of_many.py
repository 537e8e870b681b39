"""What the page that compares reads: many runs' signals on one axis, what each came to, and what
all runs of a store came to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from ..platform import catalogue
from ..platform.catalogue import CATALOGUE, signal_spec
from ..platform.errors import MoescopeError
from ..platform.records import Run
from ..platform.store import Store
from ..platform.summaries import summaries
from .charts_of_many import Line, Span
from .clock import Clock
from .finals import Final, lowest_bucket, mean_of, tail_range
from .reads import MOST_BUCKETS, RunReader
from .settings_of_runs import flat_config
from .window import Window

SharedAxis = Literal["step", "tokens", "FLOPs", "hours"]
"""What runs can be laid beside each other by; hours count from a run's first step on."""
AXES: tuple[SharedAxis, ...] = get_args(SharedAxis)
TITLES: Mapping[SharedAxis, str] = {
    "step": "step",
    "tokens": "tokens seen",
    "FLOPs": "model FLOPs",
    "hours": "hours since its first step",
}
_FEW = 5
"""Runs that get all the buckets a single run has; more share them."""
_MS_PER_HOUR = 3.6e6


@dataclass(frozen=True, slots=True)
class Compared:
    """One of the runs that are laid beside each other."""

    run: Run
    label: str
    """Its name; with the beginning of its id where another has the same."""
    place: int
    reader: RunReader
    clock: Clock | None
    """None where the run cannot tell the measure of the axis."""


def find_runs(store: Store, wanted: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Returns the runs of ids, beginnings of ids or names, each once, and the words that name none,
    or several."""
    found: dict[str, Run] = {}
    unknown = []
    for words in wanted:
        try:
            run = store.find_run(words)
        except MoescopeError:
            unknown.append(words)
            continue
        found.setdefault(run.id, run)
    return list(found.values()), unknown


def labels_of(runs: Sequence[Run]) -> dict[str, str]:
    """Returns {run id: what it is called beside the others}."""
    names = [run.name for run in runs]
    return {
        run.id: run.name if names.count(run.name) == 1 else f"{run.name} ({run.id[:8]})"
        for run in runs
    }


def compared(store: Store, runs: Sequence[Run], axis: SharedAxis) -> list[Compared]:
    labels, found = labels_of(runs), []
    for place, run in enumerate(runs):
        reader = RunReader(store, run.id)
        found.append(Compared(run, labels[run.id], place, reader, _clock(reader, axis)))
    return found


def _clock(reader: RunReader, axis: SharedAxis) -> Clock | None:
    if axis != "hours":
        return reader.clock(axis) if axis in reader.axes() else None
    wall = reader.clock("wall time")
    if wall.is_steps or wall.living is None:
        return None
    start = min(float(moments[0]) for _, moments in wall.anchors.values())

    def since(steps: Any, moments: Any) -> tuple[Any, Any]:
        return steps, (moments - start) / _MS_PER_HOUR

    anchors = {segment: since(*known) for segment, known in wall.anchors.items()}
    return replace(wall, anchors=anchors, living=since(*wall.living))


def scalars_of(runs: Sequence[Compared]) -> list[str]:
    """Returns the scalars that any of the runs has measured, in alphabetical order."""
    every = {signal for one in runs for signal in one.reader.signals}
    # a newer program may have written what this one has no word for
    known = (name for name in every if name in CATALOGUE or name.startswith("user/"))
    return sorted(name for name in known if signal_spec(name).is_scalar)


def lines_of(runs: Sequence[Compared], signal: str, span: Span, smoothing: int) -> list[Line]:
    """Returns the line of each run that has measured a signal: what counts of it, no abandoned
    branches, within a span of the axis."""
    most = MOST_BUCKETS if len(runs) <= _FEW else MOST_BUCKETS // 2
    lines = []
    for one in runs:
        if one.clock is None:
            continue
        asked = None
        if span is not None:
            first, last = (one.clock.step_at(place) for place in span)
            asked = max(0, first), max(0, last)
        series = one.reader.branches(signal, Window(asked), most=most)
        if series is not None and len(series.living.steps):
            buckets, version = series.living, series.version
            lines.append(Line(one.label, one.place, buckets, one.clock, smoothing, version))
    return lines


def final_of(one: Compared, signal: str) -> Final:
    """Returns what a run came to in a scalar."""
    reader, whole = one.reader, Window()
    last_step = reader.newest_step()
    found = reader.branches(signal, whole)
    low = low_step = tail = None
    num_steps = 0
    loss = reader.branches(catalogue.LOSS_TOTAL, whole)
    if loss is not None and len(loss.living.steps):
        first_step = int(loss.living.steps[0])
        num_steps = last_step - first_step + 1
        near_the_end = reader.branches(signal, Window(tail_range(first_step, last_step)))
        tail = None if near_the_end is None else mean_of(near_the_end.living)
    bucket = None if found is None else lowest_bucket(found.living)
    if bucket is not None:
        exact = reader.stretch(signal, *bucket)
        if exact is not None and np.isfinite(exact.values).any():
            at = int(np.nanargmin(np.where(np.isfinite(exact.values), exact.values, np.inf)))
            low, low_step = float(exact.values[at]), int(exact.steps[at])
    end_s = one.run.finished_s or one.run.heartbeat_s
    return Final(
        one.run,
        one.label,
        reader.newest(signal),
        low,
        low_step,
        tail,
        num_steps,
        _total(reader, "tokens"),
        _total(reader, "FLOPs"),
        max(0.0, end_s - one.run.created_s) / 3600,
    )


def _total(reader: RunReader, axis: SharedAxis) -> float | None:
    clock = _clock(reader, axis)
    if clock is None or clock.living is None:
        return None
    return float(clock.living[1][-1])


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of the store came to, and with which settings."""

    run: Run
    config: Mapping[str, Any]
    last: float
    low: float | None


def results_of(store: Store, runs: Sequence[Run], signal: str) -> list[Result]:
    """Returns what runs came to in a scalar, of those that have measured it and whose last value is
    finite: one question for all, no samples are read."""
    found = summaries(store, [signal], [run.id for run in runs])
    return [
        Result(run, flat_config(run), of_run[signal].last, of_run[signal].low)
        for run in runs
        if (of_run := found.get(run.id, {})) and math.isfinite(of_run[signal].last)
    ]
