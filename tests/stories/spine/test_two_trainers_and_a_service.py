"""Two trainers and the service on one SQLite file, for hundreds of steps each and at most two
minutes: nobody meets a lock, no sample is missing.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from moescope.platform import catalogue
from moescope.platform.series import known_signals, latest, read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.data.make_clips import make_clips

pytestmark = pytest.mark.story

AT_MOST_S = 120.0
AT_LEAST_S = 60.0
"""All three write by the clock, several times a second or every few seconds: they are to meet."""
NUM_STEPS = 600
"""Of each trainer; where the machine is slow, two minutes of it must do."""
STOPPED = 130
SMALL = {
    "steps": 1_000_000,
    "data.batch": 2,
    "data.num_frames": 4,
    "data.height": 16,
    "data.width": 16,
    "model.width": 32,
    "model.layers": 2,
    "model.heads": 2,
    "moe.num_experts": 4,
    "watch.probe_every": 50,
    "checkpoint.disk_every_steps": 200,
}


def started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "moescope.cli", *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def steps_of_each(home: Path) -> list[int]:
    with open_store(Settings(home=home).store_url) as store:
        newest = [latest(store, run.id, [catalogue.LOSS_TOTAL]) for run in store.runs()]
    return [found[catalogue.LOSS_TOTAL][0] if found else 0 for found in newest]


def test_no_lock_reaches_anybody_and_no_sample_is_missing(tmp_path: Path) -> None:
    home, clips = tmp_path / "home", tmp_path / "clips"
    make_clips(clips, 24)
    place = ["--home", str(home)]
    changes = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    logs = [tmp_path / f"{name}.log" for name in ("service", "first", "second")]
    processes = [started(["up", *place, "--port", "0", "--mlflow-port", "0"], logs[0])]
    while "http://" not in logs[0].read_text():
        assert processes[0].poll() is None, logs[0].read_text()[-2000:]
        time.sleep(0.1)
    for name, log in (("first", logs[1]), ("second", logs[2])):
        command = ["train", "tiny", "--data", str(clips), "--name", name, *place, *changes]
        processes.append(started(command, log))
    start_s = time.monotonic()
    while time.monotonic() - start_s < AT_MOST_S:
        time.sleep(2)
        is_long_enough = time.monotonic() - start_s >= AT_LEAST_S
        if is_long_enough and min(steps_of_each(home), default=0) >= NUM_STEPS:
            break
    for process in reversed(processes):
        assert process.poll() is None, [log.read_text()[-2000:] for log in logs]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, STOPPED), [log.read_text()[-2000:] for log in logs]
    for log in logs:
        assert "locked" not in log.read_text().lower()
        assert "Traceback" not in log.read_text()
    store = open_store(Settings(home=home).store_url)
    try:
        runs = store.runs()
        assert {run.name: run.status for run in runs} == {"first": "stopped", "second": "stopped"}
        for run in runs:
            steps = read_series(store, run.id, catalogue.LOSS_TOTAL).steps
            assert len(steps) > 100
            np.testing.assert_array_equal(steps, np.arange(len(steps)))
            tokens = read_series(store, run.id, catalogue.EXPERT_TOKENS, row=0)
            np.testing.assert_array_equal(tokens.steps, steps)
            assert catalogue.ROUTER_ENTROPY_NATS in known_signals(store, run.id)
            coalesced = read_series(store, run.id, catalogue.SINK_COALESCED)
            assert coalesced.values.max() == 0
    finally:
        store.close()
