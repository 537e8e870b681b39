"""The only reader of the store: what the views draw, brought up to date at a cost of what is new.

Commands, alert states and the mode of a run are read anew each time; only measured series are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.commands import commands
from ..platform.compacted.reading import Source
from ..platform.matrices import joined_bands
from ..platform.records import Alert, Bands, Command, Run, Segment, Series
from ..platform.series import is_living, latest, read_series, sources
from ..platform.store import Store, open_store
from ..platform.summaries import Summary
from ..platform.watchman import SILENT_AFTER_S, is_stalled
from .clock import STEPS, Axis, Clock, counting, telling_time
from .kept_bands import Piece, kept_bands, side_by_side
from .marks import Marks
from .theme import LampWord
from .window import Branches, StepRange, Window, as_wide, kept, selected

_SQLITE = "sqlite:///"


def open_for_reading(url: str) -> Store | None:
    """Opens the store once per process. Returns None where an embedded store does not exist yet.

    The dashboard never makes or upgrades a store. Raises MoescopeError as `open_store` does.
    """
    if not url.startswith(_SQLITE):
        return _opened(url, 0)
    path = Path(url.removeprefix(_SQLITE))
    # a store that was deleted and made again at the same place is another one
    return _opened(url, path.stat().st_ino) if path.is_file() else None


@st.cache_resource(show_spinner=False, max_entries=4)
def _opened(url: str, file_number: int) -> Store:
    return open_store(url, may_make=False)


@dataclass(frozen=True, slots=True)
class RunNow:
    """A run as it stands at this moment."""

    run: Run
    lamp: LampWord
    num_open_alerts: int
    heartbeat_age_s: float
    step: int | None
    """The newest measured step; None before the first."""
    num_steps: int | None
    loss: float | None
    tokens_per_s: float | None
    step_time_s: float | None
    tokens_seen: float | None = None
    """On the branch that training is on; None where the run does not count them."""

    @property
    def is_live(self) -> bool:
        return self.run.status == "running"

    @property
    def time_left_s(self) -> float | None:
        if not self.is_live or self.lamp == "silent":
            return None
        if self.step is None or self.num_steps is None or self.step_time_s is None:
            return None
        return max(0, self.num_steps - self.step - 1) * self.step_time_s


def lamp(run: Run, open_alerts: Sequence[Alert], now_s: float) -> LampWord:
    """Says how a run is: how it ended; else silent before alarmed, since nobody judges it then."""
    if run.status != "running":
        return run.status
    if is_stalled(run.heartbeat_s, now_s, SILENT_AFTER_S):
        return "silent"
    severities = {alert.severity for alert in open_alerts}
    if "critical" in severities:
        return "critical"
    return "warning" if "warning" in severities else "healthy"


SHOWN_OF_A_RUN = (catalogue.LOSS_TOTAL, catalogue.TOKENS_PER_S, catalogue.STEP_TIME_S)
"""Scalars whose newest values a run's row has."""


def run_now(
    run: Run, summary: Mapping[str, Summary], open_alerts: Sequence[Alert], now_s: float
) -> RunNow:
    """How a run stands. summary: of `SHOWN_OF_A_RUN`. open_alerts: those of this run whose state is
    open."""
    number = {name: found.last for name, found in summary.items()}
    steps = run.config.get("steps")
    return RunNow(
        run=run,
        lamp=lamp(run, open_alerts, now_s),
        num_open_alerts=len(open_alerts),
        heartbeat_age_s=max(0.0, now_s - run.heartbeat_s),
        step=summary[catalogue.LOSS_TOTAL].last_step if catalogue.LOSS_TOTAL in summary else None,
        num_steps=steps if isinstance(steps, int) else None,
        loss=number.get(catalogue.LOSS_TOTAL),
        tokens_per_s=number.get(catalogue.TOKENS_PER_S),
        step_time_s=number.get(catalogue.STEP_TIME_S),
    )


def open_alerts_by_run(store: Store) -> dict[str, list[Alert]]:
    found: dict[str, list[Alert]] = {}
    for alert in store.alerts(states=["open"]):
        found.setdefault(alert.run_id, []).append(alert)
    return found


_END = 1 << 62
"""Past any step."""
MOST_BUCKETS = 400
"""Of a line or a heat map: about two pixels each."""
_LOOK_BACK = (64, 2048, 65_536, _END)
"""Steps that are searched for the last one at which something was measured."""


class RunReader:
    """Reads one run for one drawing of a part; its charts share segments and where signals lie."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._kept = kept_bands(store.url)
        self.run_id = run_id
        self.segments = store.segments(run_id)
        self._sources = sources(store.database, run_id)
        self.signals = frozenset(self._sources)
        self._living, self._ghosts = _pieces(self.segments)
        self._forks = tuple(self._living)

    def branches(
        self, signal: str, window: Window, row: int | None = None, most: int = MOST_BUCKETS
    ) -> Branches | None:
        """Returns a signal in the window's steps, what counts apart from abandoned branches; None
        where it was never measured, or not there.

        row: index into the first dimension of a signal with two; None puts its rows beside each
        other.
        """
        source = self._sources.get(signal)
        if source is None:
            return None
        living = self._bands(source, self._living, window.step_range, most, row)
        ghosts = self._bands(source, self._ghosts, window.step_range, most, row)
        found = Branches(
            as_wide(living, ghosts),
            as_wide(ghosts, living),
            (self._store.url, self.run_id, source, window.step_range, most, row, *self._forks),
        )
        return found if len(found.living.steps) or len(found.ghosts.steps) else None

    def _bands(
        self,
        source: Source,
        pieces: list[Piece],
        step_range: StepRange,
        most: int,
        row: int | None,
    ) -> Bands:
        first, last = step_range or (-_END, _END)
        here = [(s, max(a, first), min(b, last)) for s, a, b in pieces]
        known = {piece[0] for piece in pieces}
        if pieces is self._living:  # a segment that is newer than what was read of them
            here += [
                (s, first, last) for s, *_ in source.spans if s not in known and s > self._last
            ]
        here = [piece for piece in here if piece[1] <= piece[2]]
        if source.num_dimensions < 2 or row is not None:
            return self._kept.read(self._store, self.run_id, source, here, most, row)
        return side_by_side(
            [
                self._kept.read(self._store, self.run_id, source, here, most, r)
                for r in range(self.num_rows(source.signal))
            ]
        )

    @property
    def _last(self) -> int:
        return max((segment.index for segment in self.segments), default=-1)

    def clock(self, axis: Axis) -> Clock:
        """Returns the clock of an axis; steps where the run cannot tell the other measure."""
        whole = Window()
        if axis == "wall time" and catalogue.LOSS_TOTAL in self.signals:
            times = read_series(
                self._store, self.run_id, catalogue.LOSS_TOTAL, max_points=MOST_BUCKETS
            )
            return telling_time(times, self.segments)
        signal = {"tokens": catalogue.STEP_TOKENS, "FLOPs": catalogue.STEP_FLOPS}.get(axis)
        found = None if signal is None else self.branches(signal, whole)
        if found is None:
            return STEPS
        both = joined_bands(found.living.signal, [found.living, found.ghosts])
        # the two parts of a segment may be in any order
        order = np.lexsort((both.steps, both.segments))
        return counting(axis, selected(both, order), self.segments)

    def axes(self) -> list[Axis]:
        """Returns what this run's charts can have as their horizontal axis."""
        found: list[Axis] = ["step"]
        if catalogue.STEP_TOKENS in self.signals:
            found.append("tokens")
        if catalogue.STEP_FLOPS in self.signals:
            found.append("FLOPs")
        return [*found, "wall time"] if catalogue.LOSS_TOTAL in self.signals else found

    def marks(self, window: Window) -> Marks:
        held = self.branches(catalogue.GUARD_HELD, window)
        parts = () if held is None else (held.living, held.ghosts)
        return Marks(
            alerts=self._store.alerts(run_id=self.run_id),
            segments=self.segments,
            checkpoints=self._store.checkpoints(self.run_id),
            events=self._store.events(self.run_id),
            held=[
                (int(segment), int(step))
                for part in parts
                for segment, step, high in zip(part.segments, part.steps, part.high, strict=True)
                if high[0] > 0.5
            ],
        )

    def expert_load_at(self, step: int | None) -> tuple[int, NDArray[np.float32]] | None:
        """Returns the living (step, load (layers, experts)) at or before a step, or the newest."""
        if catalogue.EXPERT_LOAD not in self.signals:
            return None
        if step is None:
            return latest(self._store, self.run_id, [catalogue.EXPERT_LOAD]).get(
                catalogue.EXPERT_LOAD
            )
        return self._last_before(catalogue.EXPERT_LOAD, step) or self._first(catalogue.EXPERT_LOAD)

    def num_rows(self, signal: str) -> int:
        """Returns the first dimension of a signal with two; 0 of others."""
        source = self._sources.get(signal)
        return 0 if source is None else max(rows for *_, rows in source.spans)

    def num_experts(self) -> int | None:
        """Returns the experts of a MoE layer; None of a dense run, or before the first sample."""
        if catalogue.EXPERT_LOAD not in self.signals:
            return None
        newest = latest(self._store, self.run_id, [catalogue.EXPERT_LOAD])
        return newest[catalogue.EXPERT_LOAD][1].shape[-1] if newest else None

    def at_probe(
        self, signal: str, step_range: StepRange = None
    ) -> tuple[int, NDArray[np.float32]] | None:
        """Returns the living (step, values) of a matrix at the last probe, of a range if asked for.

        Nothing is kept: a matrix per layer and probe is much. values: (layers, numbers).
        """
        if signal not in self.signals:
            return None
        first, last = step_range or (0, _END)
        found = self._last_before(signal, last)
        return found if found is not None and found[0] >= first else None

    def _last_before(self, signal: str, step: int) -> tuple[int, NDArray[np.float32]] | None:
        """Returns the living (step, value) that was measured last, at or before a step."""
        last = min(step, max(span[2] for span in self._sources[signal].spans))
        for back in _LOOK_BACK:
            found = self.stretch(signal, last - back + 1, last)
            if found is not None:
                return int(found.steps[-1]), found.values[-1]
        return None

    def _first(self, signal: str) -> tuple[int, NDArray[np.float32]] | None:
        first = min(span[1] for span in self._sources[signal].spans)
        found = self.stretch(signal, first, first)
        return None if found is None else (first, found.values[-1])

    def stretch(self, signal: str, first: int, last: int) -> Series | None:
        """Reads the living points of a signal from first to last step, without keeping them."""
        if signal not in self.signals or last < max(0, first):
            return None
        read = read_series(self._store, self.run_id, signal, from_step=max(0, first), to_step=last)
        living = kept(read, is_living(read, self.segments))
        return living if living.steps.size else None

    def newest(self, signal: str) -> float | None:
        """Returns the newest value of a scalar; None where it was never measured."""
        if signal not in self.signals:
            return None
        found = latest(self._store, self.run_id, [signal])
        return float(found[signal][1]) if signal in found else None

    def newest_step(self) -> int:
        """Returns the newest living step of the loss, or 0."""
        loss = self._sources.get(catalogue.LOSS_TOTAL)
        return 0 if loss is None else loss.spans[-1][2]


def _pieces(segments: Sequence[Segment]) -> tuple[list[Piece], list[Piece]]:
    """Parts each segment into what the branch that training is on has of it, and the rest.

    The rule is that of `platform.series.is_living`.
    """
    by_index = {segment.index: segment for segment in segments}
    living: dict[int, int] = {}
    index, until = max(by_index, default=None), _END
    while index is not None:
        here = by_index[index]
        living[index] = until
        until = min(until, here.start_step - 1 if here.parent_step is None else here.parent_step)
        parent = here.parent_segment
        index = parent if parent is not None and parent < index and parent in by_index else None
    ghosts = [(i, living[i] + 1 if i in living else -_END, _END) for i in sorted(by_index)]
    return (
        [(i, -_END, until) for i, until in sorted(living.items())],
        [piece for piece in ghosts if piece[1] <= _END],
    )


def recent_commands(store: Store, run_id: str, most: int = 8) -> list[Command]:
    """Returns the newest commands first."""
    return sorted(commands(store, run_id), key=lambda c: c.asked_s, reverse=True)[:most]
