"""Runs the trials of a study on this machine: claims, trains, beats, judges, until none is left."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from ..platform.commands import ask as ask_trainer
from ..platform.engines import UnknownRun
from ..platform.errors import MoescopeError
from ..platform.frozen import difference, parsed
from ..platform.records import Run, Trial
from ..platform.settings import Settings
from ..platform.store import Store
from ..trainer.config import RunConfig
from ..trainer.open_run import new_run_id
from ..trainer.recipes.by_name import recipe
from . import trials
from .launchers.local import LocalProcess
from .results import result_of

LEASE_S, BEAT_EVERY_S, LOOK_EVERY_S = 30.0, 5.0, 0.25
ENDED = {0: "finished", 3: "halted"}
"""Exit codes of a trainer that came to an end of its own, and the status of its run."""


@dataclass
class _Slot:
    cores: Sequence[int]
    trial: Trial | None = None
    process: LocalProcess | None = None
    beaten_s: float = 0.0


class Worker:
    """Slots that each run one trial after the other."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        study: str,
        num_slots: int,
        *,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings
        self._study = study
        self._say = say
        self._clock = clock
        self._name = f"{socket.gethostname()}:{os.getpid()}:{token_hex(3)}"
        cores = sorted(os.sched_getaffinity(0))
        share = max(1, len(cores) // num_slots)
        self._slots = [
            # more slots than cores: they share all of them
            _Slot(cores[i * share : (i + 1) * share] if num_slots <= len(cores) else ())
            for i in range(num_slots)
        ]

    def work(self, stop: threading.Event) -> None:
        """Runs trials until none may run any more, or `stop` is set: then those that run are asked
        to save, and given back."""
        try:
            while not stop.is_set() and self._look():
                stop.wait(LOOK_EVERY_S)
        finally:
            for slot in self._slots:
                self._give_back(slot, "stopped")

    def _look(self) -> bool:
        """Looks at each slot once; False where the study has nothing left to run."""
        for slot in self._slots:
            if slot.trial is not None:
                self._mind(slot)
            if slot.trial is None:
                self._fill(slot)
        return any(slot.trial for slot in self._slots) or self._has_more()

    def _has_more(self) -> bool:
        if trials.study(self._store, self._study).state == "cancelled":
            return False
        found = trials.trials(self._store, self._study)
        failed = {trial.key for trial in found if trial.state == "failed"}
        return any(
            trial.state in ("waiting", "running") and trial.trunk not in failed for trial in found
        )

    def _fill(self, slot: _Slot) -> None:
        now_s = self._clock()
        trial = trials.claim(self._store, self._study, self._name, new_run_id(), now_s, LEASE_S)
        if trial is None:
            return
        slot.trial, slot.beaten_s = trial, now_s
        if self._run_of(trial) is None:
            self._start(slot)
        # else a run that was begun: `_mind` sees whether it lives, has ended, or must be resumed

    def _start(self, slot: _Slot) -> None:
        trial = slot.trial
        assert trial is not None
        run = self._run_of(trial)
        if run is not None and not self._can_go_on(run):
            # it ended before it had saved anything
            why = f"study {self._study}: ended before its first checkpoint, begun anew"
            self._store.update_run(run.id, is_archived=True, note=why)
            slot.trial = trial = trials.begin_anew(self._store, trial, new_run_id())
        log = self._settings.home_path / "studies" / self._study / f"{trial.key}.log"
        command = self._command(trial)
        slot.process = LocalProcess(command, log, slot.cores)
        again = f" (attempt {trial.num_attempts})" if trial.num_attempts > 1 else ""
        self._say(f"started  {trial.label}{again}")

    def _command(self, trial: Trial) -> list[str]:
        words = [sys.executable, "-m", "moescope.trainer"]
        place = ["--home", str(self._settings.home_path), "--store", self._store.url]
        if self._run_of(trial) is not None:
            return [*words, "--resume", trial.run_id, *place]
        config = parsed(RunConfig, trial.config, f"trial {trial.label}")
        start = ["--run-id", trial.run_id, "--name", f"{self._study} {trial.label}"]
        if trial.trunk:
            trunk = next(
                one for one in trials.trials(self._store, self._study) if one.key == trial.trunk
            )
            base = parsed(RunConfig, trunk.config, f"trial {trunk.label}")
            start += ["--branch-from", trunk.run_id, "--at", str(trial.branch_at)]
        else:
            base = recipe(config.recipe)
            start = [config.recipe, *start]
        changes = difference(base, config)
        for key, (_, value) in sorted(changes.items()):
            start += ["--set", f"{key}={_said(value)}"]
        return [*words, *start, *place]

    def _run_of(self, trial: Trial) -> Run | None:
        try:
            return self._store.find_run(trial.run_id)
        except UnknownRun:
            return None

    def _can_go_on(self, run: Run) -> bool:
        return any(
            kept.is_on_disk and kept.health != "tainted" and Path(kept.path).is_dir()
            for kept in self._store.checkpoints(run.id)
        )

    def _mind(self, slot: _Slot) -> None:
        trial = slot.trial
        assert trial is not None
        now_s = self._clock()
        if now_s - slot.beaten_s > BEAT_EVERY_S:
            slot.beaten_s = now_s
            if not trials.beat(self._store, trial, now_s, LEASE_S):
                self._say(f"let go   {trial.label}: it is asked for no more")
                self._give_back(slot, "asked for no more")
                return
        if slot.process is not None:
            code = slot.process.exit_code
            if code in ENDED:
                self._judge(slot, ENDED[code])
            elif code is not None:
                self._fail(
                    slot, f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
                )
            return
        # a trainer that outlived the worker who started it
        run = self._run_of(trial)
        if run is not None and run.status in ENDED.values():
            self._judge(slot, run.status)
        elif run is None or run.status != "running" or now_s - run.heartbeat_s > LEASE_S:
            self._start(slot)

    def _judge(self, slot: _Slot, status: str) -> None:
        trial = slot.trial
        assert trial is not None
        try:
            result = result_of(self._store, trial, status)
        except MoescopeError as error:
            self._fail(slot, str(error))
            return
        trials.finish(self._store, trial, result, self._clock())
        slot.trial = slot.process = None
        loss = "no finite loss" if result["loss"] is None else f"loss {result['loss']:.4f}"
        self._say(f"done     {trial.label}: {loss}, {result['verdict']}")

    def _fail(self, slot: _Slot, reason: str) -> None:
        trial, process = slot.trial, slot.process
        assert trial is not None
        slot.trial = slot.process = None
        tail = process.tail() if process is not None else ""
        trials.fail(self._store, trial, reason, tail, self._clock())
        last = next((line for line in reversed(tail.splitlines()) if line.strip()), "")
        self._say(f"failed   {trial.label}: {reason} {last[:200]}")

    def _give_back(self, slot: _Slot, reason: str) -> None:
        if slot.trial is None:
            return
        if slot.process is not None:
            slot.process.stop()
        elif self._run_of(slot.trial) is not None:
            ask_trainer(
                self._store, slot.trial.run_id, "stop", {}, f"study {self._study}", self._clock()
            )
        trials.release(self._store, slot.trial, reason, self._clock())
        slot.trial = slot.process = None


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
