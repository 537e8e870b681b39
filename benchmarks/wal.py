"""How large SQLite's write-ahead log becomes, and how long transactions hold the store, with many
writers and a page open.

    python benchmarks/wal.py [MINUTES] [WRITERS]

Each writer is a process that hands 668 numbers a step over as a trainer does (12 layers x 48
experts, 6 of each layer, 20 scalars), 20 steps a second, through its journal and its sink. The page
is a process that asks every two seconds for what a page draws. There is no service, so that all
write by themselves: the worst case.
"""

import json
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from moescope.platform.engines import WAL_BYTES
from moescope.platform.store import open_store
from moescope.platform.store_check import check_store

STEPS_PER_S = 20.0
WRITER = """
import json, signal, sys, time
from pathlib import Path
import numpy as np
from moescope.platform.catalogue import CATALOGUE
from moescope.platform.contact import Contact
from moescope.platform.records import Event, Frame, Run
from moescope.platform.sinks import FanOut
from moescope.platform.sql_sink import SqlSink
from moescope.platform.store import open_store

home, url, name, pause_s = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
now_s = time.time()
run = Run(name, name, "p", {}, "running", "cpu", "0", now_s, now_s, folder=str(home / name))
with open_store(url) as store:
    store.add_run(run)
layers = [n for n, s in CATALOGUE.items() if s.dimensions == ("moe_layer",)][:6]
scalars = [n for n, s in CATALOGUE.items() if not s.dimensions][:20]
contact, sink = Contact(url, name, name), SqlSink(url, run)
fan_out, draw, step = FanOut(home / name / "journal", [sink]), np.random.default_rng(0), 0
while not stop:
    values = {"router/expert_load": draw.random((12, 48), np.float32)}
    values |= {n: draw.random(12, np.float32) for n in layers}
    values |= {n: np.full((), step, np.float32) for n in {*scalars, "loss/total"}}
    fan_out.record(Frame(name, 0, step, time.time(), values))
    if step % 100 == 0:
        fan_out.say(Event(name, 0, step, time.time(), "note", "a hundred more"))
    step += 1
    time.sleep(pause_s)
times = sink._door.enter().database.times_s
told = {p: sorted(1e3 * t for t in times[p]) for p in ("write", "durable")}
fan_out.close(30)
contact.close()
print(json.dumps({"steps": step, "lag_s": fan_out.status().lag_s, **told}))
"""
PAGE = """
import json, signal, sys, time
from moescope.platform.series import known_signals, latest, read_series
from moescope.platform.store import open_store

stop, reads = [], 0
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
with open_store(sys.argv[1]) as store:
    while not stop:
        for run in store.runs()[:1]:
            names = known_signals(store, run.id)
            latest(store, run.id, names)
            for name in [n for n in names if not n.startswith("router/")][:8]:
                read_series(store, run.id, name, max_points=2000)
            read_series(store, run.id, "router/expert_load", max_points=500)
            store.alerts(run.id), store.events(run.id), store.segments(run.id)
            reads += 1
        time.sleep(2)
    took_ms = [1e3 * took_s for took_s in store.database.times_s["read"]]
    print(json.dumps({"reads": reads, "read": took_ms}))
"""


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    num_writers = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    sqlite = sqlite3.sqlite_version
    print(f"# {platform.machine()}, Python {platform.python_version()}, SQLite {sqlite}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        url = f"sqlite:///{home / 'store.db'}"
        open_store(url).close()
        pause = str(1 / STEPS_PER_S)
        started = [_started(WRITER, folder, url, f"w{i}", pause) for i in range(num_writers)]
        started.append(_started(PAGE, url))
        most, until_s = 0, time.monotonic() + 60 * minutes
        wal = home / "store.db-wal"
        while time.monotonic() < until_s:
            most = max(most, wal.stat().st_size if wal.exists() else 0)
            time.sleep(0.02)
        for process in started:
            process.terminate()
        told = [json.loads(process.communicate(timeout=120)[0]) for process in started]
        size = (home / "store.db").stat().st_size
        faults = check_store(url).faults
    print(f"{num_writers} writers, {minutes:g} min, a page open: {size / 2**20:.0f} MiB of store")
    print(f"log at most                 {most / 2**20:8.1f} MiB (bound: {WAL_BYTES / 2**20:.0f})")
    print(f"steps written               {sum(one['steps'] for one in told[:-1]):8d}")
    print(f"lag at the end, at most     {max(one['lag_s'] for one in told[:-1]):8.1f} s")
    for name, what in (("write", "samples"), ("durable", "alerts and the like"), ("read", "reads")):
        took_ms = sorted(ms for one in told for ms in one.get(name, ()))
        if took_ms:
            _say(f"open for {what}", took_ms)
    print(f"the page was drawn          {told[-1]['reads']:8d} times")
    print(f"faults of the store         {len(faults):8d}")


def _started(code: str, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)


def _say(what: str, took_ms: list[float]) -> None:
    middle, late = took_ms[len(took_ms) // 2], took_ms[int(0.99 * (len(took_ms) - 1))]
    over = sum(ms > 50 for ms in took_ms) / len(took_ms)
    print(
        f"{what:28}{middle:8.1f} ms median, {late:.1f} p99, {took_ms[-1]:.1f} most; "
        f"{over:.1%} above 50 ms, of {len(took_ms)}"
    )


if __name__ == "__main__":
    main()
