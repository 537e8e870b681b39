"""A study on a real Slurm of one node: preempted, held, drained, cancelled, killed; each trial is
done once.

`tests/services/slurm.sh` makes the cluster: two partitions share two cores, and jobs of `urgent`
preempt those of `main`.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from moescope.platform import trials
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.studies.launchers.slurm import job_name
from moescope.trainer.data.make_clips import make_clips

pytestmark = [pytest.mark.story, pytest.mark.slurm, pytest.mark.postgres]

TOKENS_PER_STEP = 4 * 12
STEPS = 200
STUDY = {
    "name": "jobs",
    "kind": "seeds",
    "seeds": [0, 1, 2, 3, 4],
    "budget": {"tokens": [STEPS * TOKENS_PER_STEP]},
    "changes": {
        "data.batch": 4,
        "data.num_frames": 4,
        "data.height": 16,
        "data.width": 16,
        "data.num_mels": 8,
        "data.num_mel_steps": 8,
        "data.num_text_bytes": 8,
        "model.width": 32,
        "model.layers": 2,
        "model.heads": 2,
        "moe.num_experts": 4,
        "moe.hidden": 16,
        "watch.probe_every": 0,
        "checkpoint.disk_every_steps": 20,
        "checkpoint.min_free_gib": 0.0,
    },
    "launch": {"launcher": "slurm", "slots": 2, "slurm": {"partition": "main", "hours": 1}},
}


@pytest.fixture
def slurm() -> None:
    if not os.environ.get("SLURM_CONF"):
        pytest.skip("no Slurm: tests/services/slurm.sh start makes one, SLURM_CONF names it")
    said("scontrol", "ping")


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()


def wait_until(is_true: Callable[[], object], what: str, most_s: float = 90.0) -> None:
    until_s = time.monotonic() + most_s
    while not is_true():
        assert time.monotonic() < until_s, f"waited in vain for {what}"
        time.sleep(0.2)


class StudyRun:
    """`moescope study run` as a process, and what it says."""

    def __init__(self, study: Path, home: Path, store_url: str) -> None:
        self.lines: list[str] = []
        command = [sys.executable, "-m", "moescope.cli", "study", "run", str(study)]
        self.process = subprocess.Popen(
            [*command, "--home", str(home), "--store", store_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip() for line in self.process.stdout)

    def has_said(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", mlflow="off")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    make_clips(tmp_path / "clips", 12, seed=0)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "data": str(tmp_path / "clips")}))
    return file


@pytest.fixture
def run(
    slurm: None, study: Path, settings: Settings, postgres_url: str
) -> Iterator[Callable[[], StudyRun]]:
    started: list[StudyRun] = []

    def start() -> StudyRun:
        started.append(StudyRun(study, settings.home_path, postgres_url))
        return started[-1]

    yield start
    for one in started:
        one.end()
    name = job_name("jobs", postgres_url)
    for job in said("squeue", "--me", "-h", "-r", "-n", name, "-o", "%i").split():
        said("scancel", job)


def jobs(store: Store, state: str) -> list[str]:
    """Our jobs in a state."""
    form = ("-h", "-r", "-n", job_name("jobs", store.url), "-t", state, "-o", "%i")
    return said("squeue", "--me", *form).split()


def running(store: Store) -> dict[str, str]:
    """{job: key of its trial} of the trials that have saved something."""
    return {
        trial.worker.partition(":")[0].partition(" ")[2]: trial.key
        for trial in trials.trials(store, "jobs")
        if trial.state == "running" and any(c.is_on_disk for c in store.checkpoints(trial.run_id))
    }


def worker_of(job: str) -> psutil.Process:
    """The process of a job that submitit started, the youngest of those with its words."""
    raw = said("squeue", "-h", "-j", job, "-o", "%A")
    found = [
        process
        for process in psutil.process_iter()
        if "submitit.core._submit" in " ".join(_quietly(process.cmdline, []))
        and _quietly(process.environ, {}).get("SLURM_JOB_ID") == raw
        and "python" in _quietly(process.name, "")
    ]
    return max(found, key=lambda process: process.create_time())


def _quietly(ask: Callable[[], object], otherwise: object) -> "object | dict[str, str]":
    try:
        return ask()
    except psutil.Error:
        return otherwise


def test_whatever_happens_to_jobs_each_trial_is_done_once(
    run: Callable[[], StudyRun], postgres_url: str
) -> None:
    node = said("sinfo", "-h", "-o", "%N")
    with open_store(postgres_url) as store:
        first = run()
        wait_until(lambda: trials.studies(store) and len(running(store)) == 2, "two trainers")
        preempted = set(running(store).values())
        quiet = ("--parsable", "--output=/dev/null")
        urgent = said("sbatch", *quiet, "-p", "urgent", "-c", "2", "--wrap", "sleep 4")
        wait_until(lambda: len(jobs(store, "PENDING")) == 2, "both jobs to wait again")

        # held and drained while they wait: a person is told what to do
        held = jobs(store, "PENDING")[0]
        said("scontrol", "hold", held)
        said("scontrol", "update", f"nodename={node}", "state=drain", "reason=disk is full")
        wait_until(lambda: first.has_said(f"`scontrol release {held}` lets it run"), "its advice")
        wait_until(lambda: first.has_said(f"Slurm node {node} is drain"), "advice on the node")
        assert first.has_said("disk is full")
        said("scontrol", "update", f"nodename={node}", "state=resume")
        said("scontrol", "release", held)
        wait_until(lambda: not said("squeue", "-h", "-j", urgent, "-t", "R"), "the urgent job")

        # the launcher dies, and another takes over without submitting a second lot
        first.process.kill()
        second = run()
        wait_until(lambda: len(running(store)) == 2, "both to go on")
        assert len(jobs(store, "all")) == 2
        for key in preempted:
            before, *_ = trials.attempts(store, "jobs", key)
            assert before.exit_reason == "stopped"

        # one is cancelled, another's worker dies
        cancelled, killed = running(store)
        said("scancel", cancelled)
        worker_of(killed).kill()
        wait_until(lambda: second.process.poll() is not None, "the study's end", 240)
        assert second.end() == 0, second.lines
        found = trials.trials(store, "jobs")
        assert [trial.state for trial in found] == ["done"] * 5
        assert {trial.result["steps"] for trial in found} == {STEPS}
        assert Counter(run.status for run in store.runs() if not run.is_archived) == {"finished": 5}
        reasons = {
            attempt.exit_reason
            for trial in found
            for attempt in trials.attempts(store, "jobs", trial.key)
        }
        assert "done" in reasons
        assert any(f"Slurm job {killed} ended: FAILED" in reason for reason in reasons), reasons


def test_a_slurm_that_does_not_answer_is_one_line_and_nothing_is_half_started(
    slurm: None, study: Path, tmp_path: Path, postgres_url: str
) -> None:
    conf = Path(os.environ["SLURM_CONF"]).read_text()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    lines = [line for line in conf.splitlines() if not line.startswith("SlurmctldPort=")]
    away = tmp_path / "slurm.conf"
    away.write_text("\n".join([*lines, f"SlurmctldPort={port}", "MessageTimeout=2", ""]))
    command = [sys.executable, "-m", "moescope.cli", "study", "run", str(study)]
    done = subprocess.run(
        [*command, "--home", str(tmp_path / "home"), "--store", postgres_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SLURM_CONF": str(away)},
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("moescope: Slurm does not answer")
    with open_store(postgres_url) as store:
        assert trials.studies(store) == []


def test_a_store_in_a_file_is_refused_before_anything_is_asked_for(
    slurm: None, study: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "moescope.cli", "study", "run", str(study)]
    done = subprocess.run(
        [*command, "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "needs a PostgreSQL store" in done.stderr
    with open_store(f"sqlite:///{tmp_path / 'home' / 'store.db'}") as store:
        assert trials.studies(store) == []


def test_a_partition_that_is_not_there_is_one_line_and_nothing_is_half_started(
    slurm: None, study: Path, tmp_path: Path, postgres_url: str
) -> None:
    values = yaml.safe_load(study.read_text())
    values["launch"]["slurm"]["partition"] = "mian"
    study.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "moescope.cli", "study", "run", str(study)]
    done = subprocess.run(
        [*command, "--home", str(tmp_path / "home"), "--store", postgres_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("moescope: Slurm takes no such job")
    assert "partition" in line
    with open_store(postgres_url) as store:
        assert trials.studies(store) == []
