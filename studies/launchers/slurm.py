"""Workers as jobs of a Slurm cluster, submitted as arrays through submitit.

A job is a worker and no trial: it claims what may run when it begins, so a job that waits, is held
or is lost holds no trial up. A job that is preempted or runs out of time saves, gives its trial
back, and waits in the queue again; where it could not, the trial's claim ends as soon as Slurm says
that the job has.
"""

import hashlib
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from types import FrameType
from typing import Any

from ...platform import leases
from ...platform.errors import MoescopeError
from ...platform.records import Trial
from ...platform.settings import Settings
from ...platform.store import Store, open_store
from ..spec import Launch
from . import slurm_queue
from .slurm_queue import Job

ENGINE = "slurm"
FIRST_PAUSE_S, MOST_PAUSE_S = 10.0, 600.0
"""After jobs that failed, twice as long each time."""
LOOK_EVERY_S = 5.0
"""Between questions to Slurm, whose controller serves many."""
MOST_TIMEOUTS = 1000
"""How often submitit lets a job that ran out of time wait in the queue again."""


@dataclass(frozen=True)
class SlurmWorker:
    """What a job runs. submitit keeps it in a file, so it holds names only."""

    study: str
    home: str
    store_url: str

    def __call__(self, number: int) -> None:
        """number: of the job in its array."""
        thread = threading.Thread(target=self._work)
        stop = threading.Event()
        _stops[os.getpid()] = (stop, thread)
        _heed_sigterm(stop)
        thread.start()
        # the main thread stays free for signals, which submitit answers with `checkpoint`
        while thread.is_alive():
            thread.join(0.5)

    def checkpoint(self, number: int) -> Any:
        """Called by submitit's signal handler before the job's end: saves, and gives the trial
        back; the job then waits in the queue again."""
        import submitit

        # it is on its way: a second signal must not put the job into the queue twice
        for number_of in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number_of, signal.SIG_IGN)
        stop, thread = _stops[os.getpid()]
        stop.set()
        thread.join()
        return submitit.helpers.DelayedSubmission(replace(self), number)

    def _work(self) -> None:
        # a module that launches knows its launchers, and this is one of them
        import submitit

        from ..worker import Worker

        stop, _ = _stops[os.getpid()]
        settings = Settings(home=Path(self.home), store=self.store_url)
        engine = f"{ENGINE} {submitit.JobEnvironment().job_id}"
        with open_store(self.store_url) as store:
            Worker(store, settings, self.study, engine=engine, say=_say).work(stop)


def _heed_sigterm(stop: threading.Event) -> None:
    """Has SIGTERM save too, which submitit ignores.

    A cluster that does not send the user's signal when it preempts (preempt_send_user_signal) sends
    this one: then the job is to wait in the queue again. Of a job that was cancelled it is the end.
    """
    import submitit

    requeue = signal.getsignal(signal.SIGUSR2)
    if not callable(requeue):
        return  # SUBMITIT_PREEMPT_SIGNAL names another one
    answer = requeue
    job = submitit.JobEnvironment().job_id

    def heed(number: int, frame: FrameType | None) -> None:
        if slurm_queue.state_of(job) == "RUNNING":
            answer(number, frame)
        else:
            stop.set()

    signal.signal(signal.SIGTERM, heed)


_stops: dict[int, tuple[threading.Event, threading.Thread]] = {}
"""{process: (what asks its worker to stop, the worker's thread)}: one, in a job."""


def _say(line: str) -> None:
    from ...platform.terminal import say

    say(line)


class SlurmLauncher:
    """Keeps as many jobs in the queue or running as there are trials for, up to the study's
    slots."""

    def __init__(
        self, store: Store, settings: Settings, study: str, launch: Launch, log: Path | None
    ) -> None:
        """log: not used; submitit keeps one per job. Raises MoescopeError where the store is a
        file, or Slurm does not answer."""
        if store.database.is_embedded:
            raise MoescopeError(
                "launch.launcher slurm needs a PostgreSQL store, since jobs of several machines "
                "write to it: set MOESCOPE_STORE or --store to postgresql://..."
            )
        slurm_queue.refuse_where_away()
        slurm_queue.refuse_what_it_has_not(_asked_of_sbatch(launch))
        self._store = store
        self._study = study
        self._launch = launch
        self._name = job_name(study, store.url)
        self._lease = f"slurm {study}"
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{token_hex(3)}"
        self._folder = settings.home_path / "studies" / study / "slurm"
        self._worker = SlurmWorker(study, str(settings.home_path), store.url)
        self._told: set[str] = set()
        self._ours: set[str] = set()
        """Jobs that this launcher submitted and has not seen end."""
        self._pause_s, self._not_before_s = FIRST_PAUSE_S, 0.0
        self._looked_s = 0.0

    def look(self, num_wanted: int) -> list[str]:
        now_s = time.time()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return []
        self._looked_s = now_s
        jobs = slurm_queue.jobs(self._name)
        told = self._bury(jobs, now_s)
        self._reap(jobs, now_s)
        told += slurm_queue.complaints(jobs)
        missing = min(num_wanted, self._launch.slots) - len(jobs)
        # one launcher at a time submits: two that counted the same queue would fill it twice
        is_ours = leases.claim(self._store, self._lease, self._holder, now_s, 3 * LOOK_EVERY_S)
        if is_ours and missing > 0 and now_s >= self._not_before_s:
            try:
                array = self._submit(missing)
            except MoescopeError:
                self._wait_longer(now_s)
                raise
            told.append(f"submitted Slurm array {array} of {missing}")
        new = [line for line in told if line not in self._told]
        # what is over may be told again when it comes back
        self._told = set(told)
        return new

    @property
    def is_idle(self) -> bool:
        return True

    def stop(self) -> None:
        """Jobs stay: they need no launcher. `moescope study cancel` ends what they run."""

    def _submit(self, number: int) -> str:
        import submitit

        asked = self._launch.slurm
        self._folder.mkdir(parents=True, exist_ok=True)
        cores = max(1, self._launch.cores)
        options: dict[str, Any] = {
            "name": self._name,
            "timeout_min": math.ceil(asked.hours * 60),
            "cpus_per_task": cores,
            "tasks_per_node": 1,
            "nodes": 1,
            "slurm_array_parallelism": self._launch.slots,
            "slurm_signal_delay_s": asked.save_s,
            # since 22.05 a step does not inherit its job's
            "slurm_srun_args": [f"--cpus-per-task={cores}"],
            "slurm_setup": list(asked.setup),
            "slurm_additional_parameters": {"requeue": True, **asked.others},
        }
        if self._launch.gpus:
            options["gpus_per_node"] = self._launch.gpus
        if self._launch.memory_gib:
            options["mem_gb"] = self._launch.memory_gib
        for key in ("partition", "account", "qos"):
            if value := getattr(asked, key):
                options[f"slurm_{key}"] = value
        try:
            executor = submitit.AutoExecutor(
                str(self._folder), cluster="slurm", slurm_max_num_timeout=MOST_TIMEOUTS
            )
            executor.update_parameters(**options)
            submitted = executor.map_array(self._worker, range(number))
        except Exception as error:  # submitit raises what sbatch said in exceptions of many kinds
            said = [line for line in str(error).splitlines() if line.strip()]
            raise MoescopeError(
                f"Slurm takes no job of study {self._study}: {' '.join(said[-2:])[:300]}"
            ) from None
        self._ours |= {job.job_id for job in submitted}
        return str(submitted[0].job_id).partition("_")[0]

    def _bury(self, jobs: Sequence[Job], now_s: float) -> list[str]:
        """Looks how jobs have ended that are in the queue no more."""
        gone = self._ours - {job.id for job in jobs}
        if not gone:
            return []
        ends = slurm_queue.ends(gone)
        self._ours -= gone
        bad = {job: end for job, end in ends.items() if end != "COMPLETED"}
        if not bad:
            self._pause_s = FIRST_PAUSE_S
            return []
        self._wait_longer(now_s)
        return [
            f"Slurm job {job} ended {end}: see {self._folder}/{job}_0_log.err"
            for job, end in sorted(bad.items())
        ]

    def _wait_longer(self, now_s: float) -> None:
        self._not_before_s = now_s + self._pause_s
        self._pause_s = min(MOST_PAUSE_S, 2 * self._pause_s)

    def _reap(self, jobs: Sequence[Job], now_s: float) -> None:
        """Ends the claims of jobs that are over, or wait again: sooner than they would run out."""
        from ...platform import trials

        running = {job.id for job in jobs if job.is_running}
        lost = [
            (trial, job)
            for trial in trials.trials(self._store, self._study)
            if trial.state == "running" and (job := _job_of(trial)) and job not in running
        ]
        ends = slurm_queue.ends({job for _, job in lost}) if lost else {}
        waiting = {job.id for job in jobs}
        for trial, job in lost:
            if job in ends or job in waiting:
                end = ends.get(job, "REQUEUED")
                trials.reap(self._store, trial, f"Slurm job {job} ended: {end}", now_s)


def job_name(study: str, store_url: str) -> str:
    """Returns what a study's jobs are called: another store's study of the same name is another."""
    store = hashlib.blake2b(store_url.encode(), digest_size=4).hexdigest()
    return f"moescope-{study}-{store}"


def _asked_of_sbatch(launch: Launch) -> list[str]:
    asked = launch.slurm
    given = {
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "time": math.ceil(asked.hours * 60),
        "cpus-per-task": max(1, launch.cores),
        "gpus-per-node": launch.gpus,
        "mem": f"{math.ceil(launch.memory_gib * 1024)}M" if launch.memory_gib else "",
    }
    words = [f"--{key}={value}" for key, value in given.items() if value]
    return words + [f"--{key.replace('_', '-')}={value}" for key, value in asked.others.items()]


def _job_of(trial: Trial) -> str:
    """The job whose worker has a trial; empty where it is none of Slurm's."""
    engine, _, job = trial.worker.partition(":")[0].partition(" ")
    return job if engine == ENGINE else ""
