"""The only reader of the store: what the views draw, brought up to date at a cost of what is new.

Commands, alert states and the mode of a run are read anew each time; only measured series are kept.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.commands import commands
from ..platform.records import Alert, Command, Run, Series
from ..platform.series import is_living, known_signals, latest, read_series, read_since
from ..platform.store import Store, open_store
from ..platform.summaries import Summary
from ..platform.watchman import SILENT_AFTER_S, is_stalled
from .marks import Marks
from .theme import LampWord
from .window import Branches, StepRange, branches, in_range, kept

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


class Tail:
    """One signal of one run, read once as a whole and from then on only at its end.

    Points come in the order of (segment, step), as one trainer writes them. Any thread may ask.
    """

    def __init__(self, run_id: str, signal: str, row: int | None) -> None:
        self._what = (run_id, signal, row)
        self._lock = threading.Lock()
        self._series: Series | None = None

    def brought_up(self, store: Store) -> Series:
        """Returns the whole series as of now. The same object comes back while nothing is new."""
        run_id, signal, row = self._what
        with self._lock:
            known = self._series
            if known is None or not known.steps.size:
                self._series = read_since(store, run_id, signal, None, row=row)
            else:
                cursor = int(known.segments[-1]), int(known.steps[-1])
                new = read_since(store, run_id, signal, cursor, row=row)
                self._series = _joined([known, new])
            return self._series


def _joined(parts: Sequence[Series]) -> Series:
    filled = [part for part in parts if part.steps.size]
    if len(filled) == 1:
        return filled[0]
    return Series(
        filled[0].signal,
        np.concatenate([part.segments for part in filled]),
        np.concatenate([part.steps for part in filled]),
        np.concatenate([part.times_s for part in filled]),
        np.concatenate([part.values for part in filled]),
    )


@st.cache_resource(show_spinner=False, max_entries=256)
def _tail(store_url: str, run_id: str, signal: str, row: int | None) -> Tail:
    return Tail(run_id, signal, row)


class RunReader:
    """Reads one run for one drawing of a part; its charts share the segments."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self.run_id = run_id
        self.segments = store.segments(run_id)
        self.signals = frozenset(known_signals(store, run_id))

    def series(self, signal: str, row: int | None = None) -> Series | None:
        """Returns all points of a signal, abandoned branches too; None where it was never measured.

        row: index into the first dimension of a signal with two.
        """
        if signal not in self.signals:
            return None
        tail = _tail(self._store.url, self.run_id, signal, row)
        series = tail.brought_up(self._store)
        return series if series.steps.size else None

    def branches(self, signal: str, row: int | None = None) -> Branches | None:
        """Returns a signal's points, those that count apart from the abandoned ones."""
        series = self.series(signal, row)
        if series is None:
            return None
        return branches(series, is_living(series, self.segments))

    def marks(self) -> Marks:
        held = self.series(catalogue.GUARD_HELD)
        return Marks(
            alerts=self._store.alerts(run_id=self.run_id),
            segments=self.segments,
            checkpoints=self._store.checkpoints(self.run_id),
            events=self._store.events(self.run_id),
            held_steps=[] if held is None else held.steps[held.values > 0.5].tolist(),
        )

    def expert_load_at(self, step: int | None) -> tuple[int, NDArray[np.float32]] | None:
        """Returns the living (step, load (layers, experts)) at or before a step, or the newest."""
        if catalogue.EXPERT_LOAD not in self.signals:
            return None
        if step is None:
            return latest(self._store, self.run_id, [catalogue.EXPERT_LOAD]).get(
                catalogue.EXPERT_LOAD
            )
        steps = self.sampled_steps()
        if not steps.size:
            return None
        at = int(steps[max(0, int(np.searchsorted(steps, step, side="right")) - 1)])
        return self._living_at(catalogue.EXPERT_LOAD, at)

    def num_experts(self) -> int | None:
        """Returns the experts of a MoE layer; None of a dense run, or before the first sample."""
        load = self.series(catalogue.EXPERT_LOAD, row=0)
        return None if load is None else load.values.shape[-1]

    def at_probe(
        self, signal: str, step_range: StepRange = None
    ) -> tuple[int, NDArray[np.float32]] | None:
        """Returns the living (step, values) of a matrix at the last probe, of a range if asked for.

        Nothing is kept: a matrix per layer and probe is much. values: (layers, numbers).
        """
        probes = self.branches(catalogue.PROBE_LOSS)
        if signal not in self.signals or probes is None:
            return None
        steps = in_range(probes.living, step_range).steps
        return self._living_at(signal, int(steps[-1])) if steps.size else None

    def _living_at(self, signal: str, at: int) -> tuple[int, NDArray[np.float32]] | None:
        here = read_series(self._store, self.run_id, signal, from_step=at, to_step=at)
        living = here.values[is_living(here, self.segments)]
        return (at, living[-1]) if len(living) else None

    def stretch(self, signal: str, first: int, last: int) -> Series | None:
        """Reads the living points of a signal from first to last step, without keeping them."""
        if signal not in self.signals:
            return None
        read = read_series(self._store, self.run_id, signal, from_step=max(0, first), to_step=last)
        living = kept(read, is_living(read, self.segments))
        return living if living.steps.size else None

    def newest(self, signal: str) -> float | None:
        """Returns the newest value of a scalar; None where it was never measured."""
        series = self.series(signal)
        return None if series is None else float(series.values[-1])

    def newest_step(self) -> int:
        """Returns the newest living step of the loss, or 0."""
        series = self.series(catalogue.LOSS_TOTAL)
        return 0 if series is None else int(series.steps[-1])

    def sampled_steps(self) -> NDArray[np.int64]:
        """Returns the living steps at which expert loads were measured."""
        first = self.branches(catalogue.EXPERT_LOAD, row=0)
        return np.empty(0, np.int64) if first is None else first.living.steps


def recent_commands(store: Store, run_id: str, most: int = 8) -> list[Command]:
    """Returns the newest commands first."""
    return sorted(commands(store, run_id), key=lambda c: c.asked_s, reverse=True)[:most]


def sample_clips(run: Run, most: int = 4) -> list[Path]:
    """Returns the newest generated clips and pictures first; none where the folder is on another
    machine.
    """
    if not run.folder:
        return []
    try:
        files = (Path(run.folder) / "samples").rglob("*")
        clips = [p for p in files if p.suffix in (".mp4", ".png") and p.is_file()]
        return sorted(clips, key=lambda p: (p.stat().st_mtime, p.name), reverse=True)[:most]
    except OSError:
        return []
