"""Nobody holds an embedded store for long: not a writer, so that others get their turn, and not a
reader, so that SQLite can write its log back.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from moescope.platform import tables
from moescope.platform.catalogue import CATALOGUE
from moescope.platform.engines import WAL_BYTES
from moescope.platform.records import Frame, Run
from moescope.platform.series import latest, read_series, read_since
from moescope.platform.store import Store, open_store

LOSS, LOAD = "loss/total", "router/expert_load"
AT_MOST_S = 0.05
SINK_BATCH = 64
# another process that never pauses, and waits for the disk at each of its rows
RIVAL = """
import sys
from moescope.platform.records import Event, Frame, Run
from moescope.platform.store import open_store
import numpy as np
with open_store(sys.argv[1]) as store:
    store.add_run(Run("rival", "rival", "p", {}, "running", "cpu", "0", 0.0, 0.0))
    print("ready", flush=True)
    step = 0
    while True:
        store.add_event(Event("rival", 0, step, 1.0, "note", "held"))
        load = np.ones((12, 48), np.float32)
        store.write_frames([Frame("rival", 0, step, 1.0, {"router/expert_load": load})])
        step += 1
"""


def benchmark_frames(first: int, last: int) -> list[Frame]:
    """The benchmark's numbers: 12 layers x 48 experts, 6 of each layer, 20 scalars."""
    layers = [n for n, s in CATALOGUE.items() if s.dimensions == ("moe_layer",)][:6]
    scalars = [n for n, s in CATALOGUE.items() if not s.dimensions][:20]
    draw = np.random.default_rng(0)
    return [
        Frame(
            "r1",
            0,
            step,
            1.0,
            {
                LOAD: draw.random((12, 48), np.float32),
                **{name: draw.random(12, np.float32) for name in layers},
                **{name: np.float32(step) for name in {*scalars, LOSS}},
            },
        )
        for step in range(first, last)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        opened.add_run(Run("r1", "r1", "p", {}, "running", "cpu", "0", 0.0, 0.0))
        yield opened


@pytest.fixture
def rival(store: Store) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", RIVAL, store.url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield
    assert process.poll() is None
    process.kill()
    process.communicate()


@pytest.mark.usefixtures("rival")
def test_a_writing_transaction_takes_at_most_50_ms_while_others_write(store: Store) -> None:
    frames = benchmark_frames(0, 20 * SINK_BATCH)
    for start in range(0, len(frames), SINK_BATCH):
        store.write_frames(frames[start : start + SINK_BATCH])
    took_s = sorted(store.database.times_s["write"])
    # a sink's batch is cut into several
    assert len(took_s) >= 2 * 20
    assert median(took_s) < AT_MOST_S
    assert len(read_series(store, "r1", LOSS).steps) == len(frames)


def test_giving_disk_back_goes_in_bites_that_are_as_short(store: Store) -> None:
    store.write_frames(benchmark_frames(0, 1500))
    store.database.write(lambda c: c.execute(tables.vector_rows.delete()))
    store.database.times_s["write"].clear()
    store.database.give_back_disk()
    took_s = store.database.times_s["write"]
    assert len(took_s) > 1
    assert median(took_s) < AT_MOST_S


def test_a_reader_never_keeps_the_log_from_being_written_back_for_long(store: Store) -> None:
    for first in range(0, 40_000, 4000):
        one = np.float32(1)
        store.write_frames(
            [Frame("r1", 0, s, 1.0, {LOSS: one}) for s in range(first, first + 4000)]
        )
    store.write_frames(benchmark_frames(40_000, 42_000))
    store.database.times_s["read"].clear()
    # what a page asks for
    assert len(read_series(store, "r1", LOSS, max_points=2000).steps) > 1000
    assert read_series(store, "r1", LOAD, max_points=500).values.shape[1:] == (12, 48)
    assert len(read_since(store, "r1", LOSS, (0, 41_000)).steps) == 999
    assert LOSS in latest(store, "r1", [LOSS, LOAD])
    took_s = store.database.times_s["read"]
    # a long series and a matrix are read in parts
    assert len(took_s) > 10
    assert median(took_s) < AT_MOST_S
    # and with the page open the log is cut whenever it must be
    step = 50_000
    while store.database.wal_bytes() <= WAL_BYTES // 8:
        store.write_frames(benchmark_frames(step, step + SINK_BATCH))
        step += SINK_BATCH
    read_series(store, "r1", LOAD, max_points=500)
    assert store.database.cut_wal()
    assert store.database.wal_bytes() == 0
