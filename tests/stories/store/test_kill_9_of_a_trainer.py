"""kill -9 at five random moments of a real trainer, which goes on each time: at most half a second
of samples is lost, no alert, no event, no checkpoint, and nobody waits for the lease of the dead.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from moescope.platform.catalogue import EXPERT_TOKENS, LOSS_TOTAL
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.data.make_clips import make_clips

pytestmark = pytest.mark.story

NUM_KILLS = 5
PROGRAM = Path(__file__).with_name("a_trainer.py")
STOPPED = 130
SMALL = {
    "steps": 100_000,
    "data.batch": 2,
    "data.workers": 0,
    "data.num_frames": 4,
    "data.height": 16,
    "data.width": 16,
    "model.width": 32,
    "model.layers": 2,
    "model.heads": 2,
    "moe.num_experts": 4,
    "watch.probe_every": 0,
    "checkpoint.disk_every_steps": 20,
    "checkpoint.min_free_gib": 0.0,
    "policy.mode": "off",
}


class Told:
    """What the trainers wrote down, by segment."""

    def __init__(self, path: Path) -> None:
        self.handed_s: dict[int, dict[int, float]] = defaultdict(dict)
        self.said: dict[str, set[tuple[int, str]]] = defaultdict(set)
        text = path.read_text() if path.exists() else ""
        for line in text[: text.rfind("\n") + 1].splitlines():
            words, _, at_s = line.rpartition(" ")
            word, rest = words.split(" ", 1)
            if word == "frame":
                segment, step = rest.split()
                self.handed_s[int(segment)][int(step)] = float(at_s)
            else:
                kind, segment, key = rest.split(" ", 2)
                self.said[kind].add((int(segment), json.loads(key)))


def test_a_trainer_that_is_killed_again_and_again_loses_half_a_second_each_time(
    tmp_path: Path,
) -> None:
    home, clips, told = tmp_path / "home", tmp_path / "clips", tmp_path / "told"
    make_clips(clips, 8)
    rng = random.Random(0)
    changes = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    place = ["--home", str(home)]
    first = ["tiny", "--data", str(clips), "--name", "r", *changes, *place]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MOESCOPE_MLFLOW": "off"}

    def started(words: list[str]) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            command = [sys.executable, str(PROGRAM), str(told), "train", *words]
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def wait_for_steps(trainer: subprocess.Popen[bytes], segment: int, number: int) -> float:
        until_s = time.monotonic() + 60
        while len(handed_s := Told(told).handed_s[segment]) < number:
            assert trainer.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < until_s, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.05)
        return min(handed_s.values())

    killed_s: list[float] = []
    trainer = started(first)
    try:
        for segment in range(NUM_KILLS):
            wait_for_steps(trainer, segment, 1)
            if segment == 0:
                refuses_a_second(home, trainer.pid)
            time.sleep(rng.uniform(0.1, 2.0))
            trainer.kill()
            killed_s.append(time.monotonic())
            trainer.wait()
            trainer = started(["--resume", "r", *place])
        wait_for_steps(trainer, NUM_KILLS, 5)
        trainer.send_signal(signal.SIGTERM)
        assert trainer.wait(60) == STOPPED, (tmp_path / "log").read_text()[-2000:]
    finally:
        if trainer.poll() is None:
            trainer.kill()
            trainer.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert_kept(home, Told(told), killed_s)


def refuses_a_second(home: Path, pid: int) -> None:
    """From another home, whose journal nobody has locked."""
    place = ["--home", str(home.with_name("elsewhere")), "--store", Settings(home=home).store_url]
    words = [sys.executable, "-m", "moescope.cli", "train", "--resume", "r", *place]
    second = subprocess.run(words, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr.startswith(f"moescope: run r is still alive (process {pid} on ")
    assert second.stderr.count("\n") == 1


def assert_kept(home: Path, told: Told, killed_s: list[float]) -> None:
    settings = Settings(home=home)
    with open_store(settings.store_url) as store:
        (run,) = store.runs()
        assert run.status == "stopped"
        found = {
            "segment": {(s.index, "") for s in store.segments(run.id)},
            "event": {(e.segment, e.text) for e in store.events(run.id)},
            "alert": {(a.segment, a.id) for a in store.alerts(run.id)},
            "checkpoint": {(c.segment, str(c.step)) for c in store.checkpoints(run.id)},
        }
        assert {index for index, _ in found["segment"]} == set(range(len(killed_s) + 1))
        for kind, there in found.items():
            assert told.said[kind] <= there, f"{kind} lost: {told.said[kind] - there}"
        assert len(told.said["alert"]) > len(killed_s)
        for segment, handed_s in told.handed_s.items():
            steps = read_series(store, run.id, LOSS_TOTAL, segments=[segment]).steps.tolist()
            tokens = read_series(store, run.id, EXPERT_TOKENS, row=0, segments=[segment])
            assert tokens.steps.tolist() == steps
            assert steps == list(range(steps[0], steps[0] + len(steps)))
            lost_s = [at_s for step, at_s in handed_s.items() if step not in steps]
            is_killed = segment < len(killed_s)
            assert is_killed or not lost_s
            assert not lost_s or killed_s[segment] - min(lost_s) <= 0.5, segment
    connection = sqlite3.connect(home / "store.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
