"""What is kept of an alert: the flight record, and the states before and at it, in a folder of the
run.

    runs/RUN/incidents/ALERT/record/   what was measured; written before the alert's action starts
    runs/RUN/incidents/ALERT/before/   the newest state from before the onset, if it was in memory
    runs/RUN/incidents/ALERT/at/       the state at the alert, which a rollback throws away

The states are checkpoints; they are written in a side thread, and only of the newest few incidents.
"""

import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..monitors.autopsy.record import FlightRecord, write_record
from ..monitors.rules import is_of_training
from ..monitors.states.checkpoint import num_bytes, remove_partials, write_checkpoint
from ..platform.records import Alert

INCIDENTS = "incidents"
RECORD, BEFORE, AT = "record", "before", "at"


def incident_folder(run_folder: Path, alert_id: str) -> Path:
    """Where an alert's record and states are."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in alert_id)
    return run_folder / INCIDENTS / safe


@dataclass(frozen=True, slots=True)
class _Job:
    folder: Path
    record: FlightRecord | None
    states: Mapping[str, tuple[dict[str, Any], dict[str, Any]]]
    """{BEFORE or AT: (state, what can be read of it without the tensors)}"""


class Scenes:
    """The incidents of one run. Methods are called from the training thread.

    tell: takes a line for a person. first_look: is given each record in the side thread.
    """

    def __init__(
        self,
        run_folder: Path,
        most: int,
        min_free_gib: float,
        tell: Callable[[str], None],
        first_look: Callable[[FlightRecord, Path], None],
    ) -> None:
        """most: newest incidents whose states are kept; 0: of none."""
        self._run_folder, self._most, self._min_free_gib = run_folder, most, min_free_gib
        self._tell, self._first_look = tell, first_look
        self._jobs: queue.Queue[_Job | None] = queue.Queue(maxsize=2)
        self._worker = threading.Thread(target=self._work, name="incidents", daemon=True)
        self._worker.start()
        for folder in (run_folder / INCIDENTS).glob("*"):
            remove_partials(folder)

    @property
    def has_states(self) -> bool:
        """Whether states are kept, and whether there is time to: the one before may be being
        written."""
        return self._most > 0 and self._jobs.empty()

    def write(self, record: FlightRecord) -> str:
        """Writes an alert's record and returns its folder, relative to the run's; empty where that
        failed, which is said: training goes on."""
        folder = incident_folder(self._run_folder, record.alert.id) / RECORD
        try:
            write_record(folder, record)
        except OSError as error:
            self._tell(
                f"the flight record of {record.alert.rule} is lost, and with it what its autopsy "
                f"would read: {error.strerror}; training goes on"
            )
            return ""
        return str(folder.relative_to(self._run_folder))

    def examine(
        self,
        record: FlightRecord,
        states: Mapping[str, tuple[dict[str, Any], dict[str, Any]]],
    ) -> None:
        """Hands a record and states to the side thread; what it has no place for is said."""
        folder = incident_folder(self._run_folder, record.alert.id)
        try:
            self._jobs.put_nowait(_Job(folder, record, states))
        except queue.Full:
            self._tell(f"{record.alert.rule}: no first look, the one before is still being written")

    def close(self) -> None:
        self._jobs.join()
        self._jobs.put(None)
        self._worker.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._keep(job)
            except Exception as error:  # an account that fails must not end a training
                self._tell(f"{job.folder.name}: {type(error).__name__}: {error}")
            finally:
                self._jobs.task_done()
        self._jobs.task_done()

    def _keep(self, job: _Job) -> None:
        if job.record is not None:
            self._first_look(job.record, job.folder)
        for name, (state, about) in job.states.items():
            free_gib = shutil.disk_usage(self._run_folder).free / 2**30
            if free_gib - num_bytes(state) / 2**30 < self._min_free_gib:
                self._tell(f"{job.folder.name}: state not kept, {free_gib:.2f} GiB of disk free")
                return
            try:
                write_checkpoint(job.folder / name, state, about)
            except OSError as error:
                self._tell(f"{job.folder.name}: state not kept: {error.strerror}")
                return
        self._retire()

    def _retire(self) -> None:
        """Deletes the states of all but the newest incidents; their records stay."""
        root = self._run_folder / INCIDENTS
        with_states = [f for f in root.glob("*") if (f / AT).exists() or (f / BEFORE).exists()]
        with_states.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in with_states[self._most :]:
            for name in (AT, BEFORE):
                shutil.rmtree(folder / name, ignore_errors=True)


def about(step: int, batch: int, segment: int) -> dict[str, Any]:
    """What a checkpoint tells without its tensors."""
    return {"step": step, "batch": batch, "segment": segment, "created_s": time.time()}


def is_worth_a_scene(alert: Alert) -> bool:
    """Whether a state could tell anything of an alert: not where it is about time or machines."""
    return is_of_training(str(alert.evidence.get("signal", "")))
