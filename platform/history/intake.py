"""Writes a run of another tracker into the store, a few thousand steps at a time.

What is there already is compared and not written again, so an import of the same source changes
nothing, and one of a source that has grown adds what is new. An imported run acts on nothing: its
mode is off, it is never `running`, and nobody takes commands for it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engines import StoreAway
from ..errors import MoescopeError, did_you_mean
from ..records import Event, Frame, Run, Segment
from ..series import read_series
from ..store import Store
from .branches import MOST_SEGMENTS, Branches, WentBackTooOften
from .imported_runs import MARK, imported_before, imported_config, run_id_of
from .names import Names
from .point_values import Value, as_value, is_same, is_too_large
from .points import Point, Source, Told

_FRAMES_AT_ONCE = 4096
_POINTS_AT_ONCE = 65536
_MOST_STEP = 1 << 53


@dataclass(frozen=True, slots=True)
class Brought:
    """What an import did with one run."""

    run_id: str
    run: str
    place: str
    is_new: bool
    num_points: int
    num_new: int
    """Points that were not in the store, or were there with another value."""
    num_segments: int
    signals: Mapping[str, str]
    """{name in the source: signal}"""
    left: Mapping[str, str]
    """{what was left out: why}"""
    notes: tuple[str, ...]


def bring_in(
    store: Store,
    source: Source,
    told: Mapping[str, str],
    now_s: float,
    *,
    is_dry_run: bool = False,
    has_moved: bool = False,
) -> Brought:
    """Imports one run. told: {name: signal, or - to leave it out}. now_s: the time of what has
    none. is_dry_run: reads everything and writes nothing. has_moved: the source may lie elsewhere
    than at the import before.

    Raises MoescopeError where the run is in the store as one that was not imported, or from another
    place, or a name is told otherwise than before.
    """
    run_id = run_id_of(source)
    before = imported_before(store, run_id, source, has_moved)
    is_flat = bool(imported_config(before).get("is_flat"))
    try:
        return _Intake(store, source, told, before, now_s, is_dry_run, is_flat).run()
    except WentBackTooOften:
        if not is_dry_run:
            store.delete_run(run_id)
        return _Intake(store, source, told, None, now_s, is_dry_run, is_flat=True).run()


class _Intake:
    """One import of one run."""

    def __init__(
        self,
        store: Store,
        source: Source,
        told: Mapping[str, str],
        before: Run | None,
        now_s: float,
        is_dry_run: bool,
        is_flat: bool,
    ) -> None:
        self._store = store
        self._source = source
        self._before = before
        self._now_s = now_s
        self._is_dry_run = is_dry_run
        self._is_flat = is_flat
        self._run_id = run_id_of(source)
        known = imported_config(before).get("signals", {})
        self._names = Names(told, known if isinstance(known, dict) else {}, source.name)
        self._told = Told(meet=self._names.meet)
        is_one = is_flat or not source.can_go_back
        self._branches = Branches(self._run_id, is_flat=is_one)
        self._frames: dict[tuple[int, int], tuple[float, dict[str, Value]]] = {}
        self._num_held = 0
        self._num_points = 0
        self._num_new = 0
        self._num_too_large = 0
        self._num_odd_steps = 0
        self._num_timeless = 0
        self._first_s, self._last_s = math.inf, -math.inf
        self._is_there = before is not None
        self._known: dict[int, Segment] = {}
        if before is not None:
            self._known = {segment.index: segment for segment in store.segments(before.id)}

    def run(self) -> Brought:
        self._names.meet(self._source.names)
        try:
            for point in self._source.points(self._told):
                self._take(point)
                if self._num_held >= _POINTS_AT_ONCE or len(self._frames) >= _FRAMES_AT_ONCE:
                    self._flush()
        except StoreAway:
            raise
        except MoescopeError:
            self._flush()  # what was read is worth keeping: the next import adds the rest
            raise
        self._flush()
        if not self._is_dry_run:
            self._make_run()
            self._finish()
        return Brought(
            self._run_id,
            self._source.name,
            self._source.place,
            self._before is None,
            self._num_points,
            self._num_new,
            len(self._segments()),
            self._names.signals,
            {**self._told.left, **self._names.left},
            tuple(self._notes()),
        )

    def _take(self, point: Point) -> None:
        signal = self._signal(point.name)
        if signal is None:
            return
        if not 0 <= point.step < _MOST_STEP:
            self._num_odd_steps += 1
            return
        time_s = point.time_s
        if not math.isfinite(time_s):
            self._num_timeless += 1
            time_s = self._told.created_s or self._told.made_s or self._now_s
        else:
            self._first_s, self._last_s = min(self._first_s, time_s), max(self._last_s, time_s)
        if point.segment is None:
            segment = self._branches.place(signal, point.step, time_s)
        else:
            segment = point.segment
        self._num_too_large += is_too_large(point.value)
        _, values = self._frames.get((segment, point.step), (0.0, {}))
        values[signal] = as_value(signal, point.value)
        self._frames[segment, point.step] = (time_s, values)
        self._num_held += 1
        self._num_points += 1

    def _signal(self, name: str) -> str | None:
        return name if self._source.own_run is not None else self._names.signal_of(name)

    def _segments(self) -> list[Segment]:
        if self._source.own_run is not None:
            return list(self._source.own_segments)
        return self._branches.segments

    def _flush(self) -> None:
        if not self._frames:
            return
        new = dict(self._new_frames())
        self._num_new += sum(len(values) for _, values in new.values())
        if not self._is_dry_run:
            self._make_run()
            self._write_segments()
            self._store.write_frames(
                [
                    Frame(
                        self._run_id,
                        segment,
                        step,
                        time_s,
                        {signal: np.asarray(value) for signal, value in values.items()},
                    )
                    for (segment, step), (time_s, values) in sorted(new.items())
                ]
            )
        self._frames.clear()
        self._num_held = 0

    def _new_frames(
        self,
    ) -> Iterator[tuple[tuple[int, int], tuple[float, dict[str, Value]]]]:
        """Yields the frames without what the store has already."""
        there = self._there() if self._before is not None else {}
        for key, (time_s, values) in self._frames.items():
            new = {
                signal: value
                for signal, value in values.items()
                if not is_same(there.get((*key, signal)), value)
            }
            if new:
                yield key, (time_s, new)

    def _there(self) -> dict[tuple[int, int, str], Value]:
        wanted: dict[tuple[int, str], tuple[int, int]] = {}
        for (segment, step), (_, values) in self._frames.items():
            for signal in values:
                first, last = wanted.get((segment, signal), (step, step))
                wanted[segment, signal] = min(first, step), max(last, step)
        there = {}
        for (segment, signal), (first, last) in wanted.items():
            series = read_series(
                self._store,
                self._run_id,
                signal,
                from_step=first,
                to_step=last,
                segments=[segment],
            )
            for step, value in zip(series.steps.tolist(), series.values, strict=True):
                there[segment, step, signal] = value
        return there

    def _make_run(self) -> None:
        """Adds the run before its first points, and when there are none."""
        if self._is_there:
            return
        own, source, told = self._source.own_run, self._source, self._told
        created_s = told.created_s or min(self._first_s, told.made_s or self._now_s)
        self._store.add_run(
            own
            or Run(
                self._run_id,
                source.name,
                source.project,
                {},
                "stopped",
                told.device or "elsewhere",
                told.code_version or "unknown",
                created_s,
                created_s,
                mode="off",
            )
        )
        self._mark()
        self._is_there = True

    def _mark(self) -> None:
        """Says that the run is imported: at once, since whoever imports may be killed, and again
        where the source lies now."""
        (run,) = [r for r in self._store.runs(include_archived=True) if r.id == self._run_id]
        details = {MARK: self._source.kind, "place": self._source.place}
        text = f"imported from {self._source.kind}"
        self._store.add_event(Event(run.id, 0, 0, run.created_s, "note", text, details))

    def _finish(self) -> None:
        (run,) = [r for r in self._store.runs(include_archived=True) if r.id == self._run_id]
        if not self._segments() and not self._known:
            self._store.add_segment(Segment(self._run_id, 0, 0, "start", run.created_s))
        self._write_segments()
        for event in (*self._source.own_events, *self._resumes()):
            self._store.add_event(event)
        self._mark()
        changed = self._changed(run)
        if changed:
            self._store.update_run(run.id, **changed)

    def _resumes(self) -> Iterator[Event]:
        """Marks for the charts, and new baselines for whoever judges the run."""
        for segment in self._branches.segments:
            if segment.reason == "resume":
                place = (segment.run_id, segment.index, segment.start_step, segment.created_s)
                text = f"goes on from step {segment.start_step}"
                yield Event(*place, "resume", text)

    def _write_segments(self) -> None:
        for segment in self._segments():
            known = self._known.get(segment.index)
            if known is not None and segment.parent_segment is None:
                # another file of the same run may begin later
                first, begun_s = min(known.start_step, segment.start_step), known.created_s
                segment = replace(segment, start_step=first, created_s=begun_s)
            if segment != known:
                self._store.add_segment(segment)
                self._known[segment.index] = segment

    def _changed(self, run: Run) -> dict[str, Any]:
        """The fields of the run that the source tells otherwise than the store. Tags and notes that
        a person has added here stay."""
        told, own = self._told, self._source.own_run
        if own is not None:
            return {}
        last_s = self._last_s if math.isfinite(self._last_s) else run.created_s
        ended_s = told.finished_s or max(last_s, run.heartbeat_s)
        imported = imported_config(run)
        config = {
            "imported": {
                "from": self._source.kind,
                "place": self._source.place,
                "params": {**imported.get("params", {}), **told.params},
                "signals": {**imported.get("signals", {}), **self._names.signals},
                **({"is_flat": True} if self._is_flat else {}),
            }
        }
        wanted = {
            "status": told.status,
            "heartbeat_s": max(last_s, run.heartbeat_s),
            "finished_s": ended_s,
            "config": config,
            "tags": tuple(dict.fromkeys((*run.tags, *told.tags))),
            "note": run.note or told.note,
        }
        return {name: value for name, value in wanted.items() if getattr(run, name) != value}

    def _notes(self) -> Iterator[str]:
        yield from self._told.notes
        if self._is_flat:
            yield (
                f"its steps went back more than {MOST_SEGMENTS - 1} times, which no resume "
                "explains: one segment, and of each step the last value"
            )
        num_back = len(self._segments()) - 1
        if num_back > 0 and self._source.own_run is None:
            yield (
                f"its steps went back {num_back} times: each is a segment of its own, and what was "
                "left behind is drawn as a ghost"
            )
        if self._branches.num_late:
            yield (
                f"{self._branches.num_late:,} points came at or before the newest step of their "
                "signal: of a step that came twice the last value counts"
            )
        if self._num_too_large:
            yield (
                f"{self._num_too_large:,} numbers are larger than a float32 can hold and became "
                "infinite"
            )
        if self._num_odd_steps:
            yield f"{self._num_odd_steps:,} points with a step below 0 or beyond all use were left"
        if self._num_timeless:
            yield f"{self._num_timeless:,} points have no time: they carry that of the source"
        names = list(self._names.signals)
        for name in self._names.not_met:
            yield f"--as names {name}, which did not come{did_you_mean(name, names)}"
