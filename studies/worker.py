"""Runs the trials of a study, one after the other: claims, trains, beats, judges, until none may
run.

A worker is a process of its own, which a launcher starts; it needs the store and nobody else.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from secrets import token_hex

from ..monitors.states.sound import sound_folders
from ..platform import trials
from ..platform.claims import new_run_id
from ..platform.commands import ask as ask_trainer
from ..platform.engines import StoreAway, UnknownRun
from ..platform.errors import MoescopeError
from ..platform.frozen import difference, parsed
from ..platform.records import Run, Trial
from ..platform.settings import Settings
from ..platform.store import Store
from ..trainer.config import RunConfig
from ..trainer.recipes.by_name import recipe
from .early_stop import ending_of
from .launchers.process import LocalProcess, Place
from .results import result_of
from .spec import StudySpec

LEASE_S, BEAT_EVERY_S, LOOK_EVERY_S = 30.0, 5.0, 0.1
JUDGE_EVERY_S = 1.0
"""Between looks at whether a trial is to end early."""
ASK_EVERY_S = 1.0
"""Between looks for a trial that may run."""
IDLE_S = 20.0
"""A worker that has found nothing for so long ends; its launcher knows when there is more."""
ANYWHERE = Place()
ENDED = {0: "finished", 3: "halted"}
"""Exit codes of a trainer that came to an end of its own, and the status of its run."""


class Worker:
    """One slot. It is called from one thread."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        study: str,
        place: Place = ANYWHERE,
        *,
        engine: str = "",
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """engine: what the launcher knows this worker by, as `slurm 17_3`."""
        self._store = store
        self._settings = settings
        self._study = study
        self._place = place
        self._say = say
        self._clock = clock
        self._name = f"{engine or 'local'}:{socket.gethostname()}:{os.getpid()}:{token_hex(3)}"
        spec = trials.study(store, study).spec
        self._spec = parsed(StudySpec, spec, f"study {study}") if spec else None
        self.trial: Trial | None = None
        self.process: LocalProcess | None = None
        self._beaten_s = self._judged_s = self._asked_s = 0.0

    def work(self, stop: threading.Event) -> None:
        """Runs trials until none may run for a while, or `stop` is set: then the one that runs is
        asked to save, and given back."""
        idle_since_s = self._clock()
        try:
            while not stop.is_set():
                try:
                    self.look()
                    is_over = self.trial is None and trials.is_over(self._store, self._study)
                except StoreAway as error:
                    # the trainer has a journal; the claim may be lost, which the next look tells
                    self._say(f"waiting for the store: {error}")
                    stop.wait(BEAT_EVERY_S)
                    continue
                if self.trial is not None:
                    idle_since_s = self._clock()
                elif is_over or self._clock() - idle_since_s > IDLE_S:
                    return
                stop.wait(LOOK_EVERY_S if self.trial is not None else ASK_EVERY_S)
        except Exception as error:
            # a fault of ours: counted, or the trial would be begun for ever
            if self.process is not None:
                self.process.stop()
            if self.trial is not None:
                self._fail(self.trial, f"worker ended by {type(error).__name__}: {error}")
            raise
        finally:
            self.give_back("stopped")

    def look(self) -> None:
        """Looks once at what runs, or for what may run."""
        if self.trial is not None:
            self._mind(self.trial)
        if self.trial is None:
            now_s = self._clock()
            self.trial = trials.claim(
                self._store, self._study, self._name, new_run_id(), now_s, LEASE_S
            )
            self._beaten_s = now_s
            if self.trial is not None and self._run_of(self.trial) is None:
                self._start(self.trial)
            # else a run that was begun: `_mind` sees if it lives, has ended, or must be resumed

    def give_back(self, reason: str) -> None:
        """Asks the trainer to save and end, and lets others have the trial."""
        trial, process = self.trial, self.process
        self.trial = self.process = None
        if trial is None:
            return
        if process is not None:
            process.stop()
        elif self._run_of(trial) is not None:
            asked_by = f"study {self._study}"
            ask_trainer(self._store, trial.run_id, "stop", {}, asked_by, self._clock())
        trials.release(self._store, trial, reason, self._clock())
        self._say(f"let go   {trial.label}: {reason}")

    def _start(self, trial: Trial) -> None:
        run = self._run_of(trial)
        if run is not None and not sound_folders(self._store, run)[0]:
            # it ended before it had saved anything
            why = f"study {self._study}: ended before its first checkpoint, begun anew"
            self._store.update_run(run.id, is_archived=True, note=why)
            self.trial = trial = trials.begin_anew(self._store, trial, new_run_id())
        log = self._settings.home_path / "studies" / self._study / f"{trial.key}.log"
        try:
            command = self._command(trial)
        except StoreAway:
            raise
        except MoescopeError as error:
            # no configuration that this program knows: trying again is of no use
            self._fail(trial, str(error), is_final=True)
            return
        # in the environment and not among the words, which any user of the machine can list
        store = {"MOESCOPE_STORE": self._store.url}
        self.process = LocalProcess(command, log, self._place, store)
        again = f" (attempt {trial.num_attempts})" if trial.num_attempts > 1 else ""
        self._say(f"started  {trial.label}{again}")

    def _command(self, trial: Trial) -> list[str]:
        words = [sys.executable, "-m", "moescope.trainer"]
        place = ["--home", str(self._settings.home_path)]
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

    def _mind(self, trial: Trial) -> None:
        now_s = self._clock()
        if now_s - self._beaten_s > BEAT_EVERY_S:
            self._beaten_s = now_s
            if not trials.beat(self._store, trial, now_s, LEASE_S):
                self.give_back("asked for no more")
                return
        if self.process is not None:
            self._mind_process(trial, self.process, now_s)
            return
        # a trainer that outlived the worker who started it
        run = self._run_of(trial)
        if run is not None and run.status in ENDED.values():
            self._judge(trial, run.status)
        elif run is None or run.status != "running" or now_s - run.heartbeat_s > LEASE_S:
            self._start(trial)

    def _mind_process(self, trial: Trial, process: LocalProcess, now_s: float) -> None:
        code = process.exit_code
        if code in ENDED:
            self._judge(trial, ENDED[code])
        elif code is not None:
            how = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
            self._fail(trial, how)
        elif now_s - self._judged_s > JUDGE_EVERY_S:
            self._judged_s = now_s
            if self._place.memory_gib and process.memory_gib > self._place.memory_gib:
                process.stop(patience_s=0)
                self._fail(
                    trial,
                    f"took more than its {self._place.memory_gib:g} GiB of memory: give it more "
                    "(launch.memory_gib)",
                    is_final=True,
                )
            elif self._spec is not None and self._run_of(trial) is not None:
                ending = ending_of(self._store, self._spec, trial)
                if ending is not None:
                    process.stop()
                    self._judge(trial, "stopped", ending.verdict, ending.reason)

    def _judge(self, trial: Trial, status: str, verdict: str = "", reason: str = "") -> None:
        try:
            result = result_of(self._store, trial, status, verdict=verdict, reason=reason)
        except MoescopeError as error:
            self._fail(trial, str(error))
            return
        trials.finish(self._store, trial, result, self._clock())
        self.trial = self.process = None
        loss = "no finite loss" if result["loss"] is None else f"loss {result['loss']:.4f}"
        why = f" ({reason})" if reason else ""
        self._say(f"done     {trial.label}: {loss}, {result['verdict']}{why}")

    def _fail(self, trial: Trial, reason: str, *, is_final: bool = False) -> None:
        tail = self.process.tail() if self.process is not None else ""
        # it is ours until the store knows: where that is away, the next look tells it again
        trials.fail(self._store, trial, reason, tail, self._clock(), is_final=is_final)
        self.trial = self.process = None
        last = next((line for line in reversed(tail.splitlines()) if line.strip()), "")
        self._say(f"failed   {trial.label}: {reason} {last[:200]}")


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
