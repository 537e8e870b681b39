"""Four runs write into one SQLite file, each in a process of its own, beside a real service: it
writes their frames for them, is gone, and they go on by themselves. Nothing is lost or there twice,
and alerts, commands and heartbeats never wait.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from moescope.platform import leases
from moescope.platform.announcement import announced
from moescope.platform.children import end_orphans
from moescope.platform.commands import ask, commands
from moescope.platform.handover import LEASE_S, LOOK_EVERY_S, ingest_lease
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.platform.store_check import check_store

pytestmark = pytest.mark.story

NAMES = ("a", "b", "c", "d")
LOSS, LOAD, COALESCED = "loss/total", "router/expert_load", "sink/coalesced"
# the benchmark's frame: 12 layers x 48 experts, six more numbers of each layer, 20 scalars
WRITER = """
import json, signal, sys, time
from pathlib import Path
import numpy as np
from moescope.platform.catalogue import CATALOGUE
from moescope.platform.contact import Contact
from moescope.platform.records import Event, Frame, Run, Segment
from moescope.platform.sinks import FanOut
from moescope.platform.sql_sink import SqlSink
from moescope.platform.store import open_store

class Counting(SqlSink):
    num_frames = 0
    def write(self, records):
        super().write(records)
        self.num_frames += sum(isinstance(record, Frame) for record in records)

home, url, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
run = Run(name, name, "p", {}, "running", "cpu", "0", time.time(), time.time(),
          folder=str(home / "runs" / name))
with open_store(url) as store:
    store.add_run(run)
layers = [n for n, s in CATALOGUE.items() if s.dimensions == ("moe_layer",)][:6]
scalars = [n for n, s in CATALOGUE.items() if not s.dimensions and not n.startswith("sink/")]
scalars = ["loss/total"] + [n for n in scalars if n != "loss/total"][:19]
contact = Contact(url, name, name)
sink = Counting(url, run)
fan_out = FanOut(Path(run.folder) / "journal", [sink])
fan_out.say(Segment(name, 0, 0, "start", 1.0))
draw = np.random.default_rng(0)
step = 0
while not stop:
    values = {n: np.full((), step, np.float32) for n in scalars}
    values |= {n: np.full(12, step, np.float32) for n in layers}
    values["router/expert_load"] = draw.random((12, 48), np.float32)
    values["router/expert_load"][0, 0] = step
    values |= fan_out.status().values()
    fan_out.record(Frame(name, 0, step, time.time(), values))
    for command in contact.commands():
        fan_out.say(Event(name, 0, step, time.time(), "note", command.args["words"]))
        contact.answer(command, "done", f"at step {step}")
    step += 1
    time.sleep(0.05)
by_itself = sink.num_frames
fan_out.close()
contact.set_status("stopped")
is_told = contact.close()
print(json.dumps({"steps": step, "by_itself": by_itself, "is_told": is_told,
                  "coalesced": fan_out.status().coalesced, "has_torch": "torch" in sys.modules}))
"""


def until(holds: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Waits; returns how long it took."""
    start_s = time.monotonic()
    while not holds():
        assert time.monotonic() - start_s < timeout_s, f"in {timeout_s} s it did not happen: {what}"
        time.sleep(0.1)
    return time.monotonic() - start_s


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return Settings(home=tmp_path / "home").make_home()


@pytest.fixture
def service(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`moescope up`, with its dashboard, in a process group of its own."""
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moescope.cli", "up", "--home", str(home), "--port", "0"],
            stdout=log,
            stderr=log,
            env={**os.environ, "MOESCOPE_MLFLOW": "off", "OMP_NUM_THREADS": "1"},
        )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(20)
    # the dashboard is a process of its own and outlives a killed service
    told = announced(home)
    end_orphans(told.children if told else ())


@pytest.fixture
def writers(home: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    started = {
        name: subprocess.Popen(
            [sys.executable, "-c", WRITER, str(home), Settings(home=home).store_url, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in NAMES
    }
    yield started
    for process in started.values():
        if process.poll() is None:
            process.kill()
        process.communicate()


def newest(store: Store, name: str) -> int:
    steps = read_series(store, name, LOSS, from_step=0).steps
    return int(steps[-1]) if len(steps) else -1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "asleep"])
def test_the_service_writes_for_four_runs_and_they_go_on_when_it_is_gone(
    home: Path,
    service: subprocess.Popen[bytes],
    writers: dict[str, subprocess.Popen[str]],
    record_property: Callable[[str, object], None],
    end: signal.Signals,
) -> None:
    with open_store(Settings(home=home).store_url) as store:

        def held() -> int:
            now_s = time.time()
            return sum(
                leases.holder(store, ingest_lease(name), now_s) is not None for name in NAMES
            )

        until(lambda: held() == 4, 45, "the service takes the frames of four runs")
        offers = [home / "runs" / name / "journal" / "ingested.json" for name in NAMES]
        until(lambda: all(file.exists() for file in offers), 15, "the trainers hand over")
        before = {name: newest(store, name) for name in NAMES}
        # alerts, events and commands do not wait for anybody's turn
        now_s = time.time()
        asked = [ask(store, name, "checkpoint", {"words": "hello"}, "ann", now_s) for name in NAMES]
        took_s = until(
            lambda: all(commands(store, command.run_id)[0].state == "done" for command in asked),
            10,
            "the runs answer",
        )
        until(lambda: all(len(store.events(name)) == 1 for name in NAMES), 5, "events are told")
        time.sleep(3)
        grown = {name: newest(store, name) - before[name] for name in NAMES}
        assert min(grown.values()) > 20, grown
        for run in store.runs():
            assert time.time() - run.heartbeat_s < 5

        service.send_signal(end)
        at_death = {name: newest(store, name) for name in NAMES}
        most_s = LEASE_S + LOOK_EVERY_S + 10
        back_s = until(
            lambda: all(newest(store, name) > at_death[name] + 40 for name in NAMES),
            60,
            "the trainers write by themselves",
        )
        assert back_s < most_s
        assert held() == 0
        if end == signal.SIGSTOP:
            # it wakes up amid what others have written meanwhile, and takes over again
            service.send_signal(signal.SIGCONT)
            until(lambda: held() == 4, 20, "the service takes the frames again")
            time.sleep(2)

        for process in writers.values():
            process.send_signal(signal.SIGTERM)
        said = {}
        for name, process in writers.items():
            out, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
            assert err == ""
            said[name] = json.loads(out)
        for name, told in said.items():
            assert told["has_torch"] is False
            assert told["is_told"]
            assert told["coalesced"] == 0
            loss = read_series(store, name, LOSS)
            np.testing.assert_array_equal(loss.steps, np.arange(told["steps"]))
            np.testing.assert_array_equal(loss.values, loss.steps)
            load = read_series(store, name, LOAD)
            assert load.values.shape == (told["steps"], 12, 48)
            np.testing.assert_array_equal(load.values[:, 0, 0], loss.steps)
            # most of what was written while the service lived was written by it
            assert told["by_itself"] < told["steps"] - min(grown.values())
            assert store.find_run(name).status == "stopped"
    assert check_store(Settings(home=home).store_url).faults == ()
    record_property("answered_s", took_s)
    record_property("by_themselves_after_s", back_s)
