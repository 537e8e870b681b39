"""A long run, many runs, many writers: what reading costs then, and that a spike of one step is in
every picture.

    python benchmarks/store_at_length.py [STEPS [sqlite|postgresql]]

Writes STEPS (1,000,000 of them are some 3 GB on each side and take half an hour) of the trackers'
workload into SQLite and into PostgreSQL, compacting on the way as the service does; 200 runs beside
it; then eight processes write to PostgreSQL while it is read.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "trackers"))
from ours import frame, new_run, store_bytes
from workload import NUMBERS, numbers

from moescope.platform.compacted.compaction import compact
from moescope.platform.matrices import read_matrix
from moescope.platform.records import Frame, Run
from moescope.platform.series import latest, read_series, read_since
from moescope.platform.store import Store, open_store
from moescope.platform.upkeep import vacuum_store

sys.path.insert(0, str(Path(__file__).parent))
from store import POSTGRES, psql

BLOCK = 4096
NUM_RUNS = 200
NUM_WRITERS = 8
SCALAR, MATRIX, LAYER, EXPERT = "user/global_3", "router/expert_load", 5, 17
SPIKE = 77.0
MAX_POINTS = 2000


def fill(store: Store, run: Run, steps: int, spikes: dict[int, str]) -> None:
    """Writes the run, compacting what is closed; the numbers repeat every block, spikes do not."""
    data = numbers(BLOCK)
    made = [frame(data, step) for step in range(BLOCK)]
    start_s = time.perf_counter()
    for start in range(0, steps, BLOCK):
        block = []
        for step in range(start, min(steps, start + BLOCK)):
            values = dict(made[step - start].values)
            if spikes.get(step) == SCALAR:
                values[SCALAR] = np.asarray(SPIKE, "f4")
            elif step in spikes:
                values[MATRIX] = np.array(values[MATRIX])
                values[MATRIX][LAYER, EXPERT] = SPIKE
            block.append(Frame(run.id, 0, step, 1.7e9 + step, values))
        store.write_frames(block)
        compact(store, run)
    took_s = time.perf_counter() - start_s
    speed = steps * NUMBERS / took_s / 1e6
    print(f"  {steps} steps in {took_s:.0f} s, {speed:.2f} million numbers/s", flush=True)


def zooms(steps: int, at: int) -> list[tuple[int, int]]:
    """The whole, and ever closer around a step, off the centre."""
    found = [(0, steps - 1)]
    width = steps
    while width > 4000:
        width //= 3
        first = max(0, min(steps - width, at - width // 3))
        found.append((first, first + width - 1))
    return found


def read_all(store: Store, steps: int, scalar_at: int, matrix_at: int) -> None:
    worst: dict[str, list[float]] = {}

    def timed(name: str, work):  # type: ignore[no-untyped-def]
        start_s = time.perf_counter()
        out = work()
        worst.setdefault(name, []).append(1000 * (time.perf_counter() - start_s))
        return out

    num_missed = 0
    for _ in range(3):
        for first, last in zooms(steps, scalar_at):
            line = timed(
                "line, 2,000 points",
                lambda a=first, b=last: read_series(
                    store, "bench", SCALAR, from_step=a, to_step=b, max_points=MAX_POINTS
                ),
            )
            num_missed += line.values.max() != SPIKE
        for first, last in zooms(steps, matrix_at):
            bands = timed(
                "one layer's 48 experts, 2,000 buckets",
                lambda span=(first, last): read_matrix(
                    store, "bench", MATRIX, row=LAYER, from_step=span[0], to_step=span[1],
                    max_buckets=MAX_POINTS,
                ),
            )  # fmt: skip
            num_missed += bands.high[:, EXPERT].max() != SPIKE
        timed("what came after a cursor, 10 steps",
              lambda: read_since(store, "bench", SCALAR, (0, steps - 11)))  # fmt: skip
        timed("newest of three", lambda: latest(store, "bench", [SCALAR, MATRIX, "router/margin"]))
        timed("all runs", lambda: store.runs(include_archived=True))
    print(f"  spikes missed: {num_missed}")
    for name, times in worst.items():
        first = times[: len(times) // 3]
        later = times[len(times) // 3 :]
        print(f"  {name:40} first pass worst {max(first):7.1f} ms; then median "
              f"{np.median(later):6.1f}, worst {max(later):6.1f}")  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["write"]:
        write(sys.argv[2], sys.argv[3], float(sys.argv[4]))
        return
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    schema = f"{POSTGRES}?options=-csearch_path%3Dmoescope_bench"
    chance = np.random.default_rng(1)
    scalar_at, matrix_at = (int(at) for at in chance.integers(0, steps, 2))
    psql(POSTGRES, "CREATE SCHEMA IF NOT EXISTS moescope_bench")
    try:
        with tempfile.TemporaryDirectory() as folder:
            urls = (f"sqlite:///{folder}/store.db", schema)
            for url in (url for url in urls if url.startswith(only)):
                print(f"# {url.split(':')[0]}")
                with open_store(url) as store:
                    run = new_run(store)
                    fill(store, run, steps, {scalar_at: SCALAR, matrix_at: MATRIX})
                    many_runs(store)
                    vacuum_store(url, is_full=url == schema)
                    size = store_bytes(store, Path(folder))
                    share = size / steps / 4 / NUMBERS
                    print(f"  {size / 2**30:.2f} GiB, {share:.3f} of the payload")
                    read_all(store, steps, scalar_at, matrix_at)
                    if url == schema:
                        beside_writers(store, url, steps, scalar_at, matrix_at)
    finally:
        psql(POSTGRES, "DROP SCHEMA moescope_bench CASCADE")


def many_runs(store: Store) -> None:
    data = numbers(256)
    for index in range(NUM_RUNS):
        new_run(store, f"other-{index}")
        store.write_frames([frame(data, step, f"other-{index}") for step in range(0, 256, 8)])


def write(url: str, run_id: str, seconds: float) -> None:
    """A trainer's writing without its training: 26 steps at a time, as its journal does."""
    data = numbers(1024)
    until_s, step = time.monotonic() + seconds, 0
    with open_store(url) as store:
        new_run(store, run_id)
        while time.monotonic() < until_s:
            some = [frame(data, (step + i) % 1024, run_id) for i in range(26)]
            store.write_frames(
                [Frame(run_id, 0, step + i, one.time_s, one.values) for i, one in enumerate(some)]
            )
            step += 26
            time.sleep(0.2)
    print(step)


def beside_writers(store: Store, url: str, steps: int, scalar_at: int, matrix_at: int) -> None:
    print(f"  beside {NUM_WRITERS} writers of 130 steps a second each")
    command = [sys.executable, __file__, "write", url]
    writers = [
        subprocess.Popen([*command, f"writer-{i}", "30"], stdout=subprocess.PIPE, text=True)
        for i in range(NUM_WRITERS)
    ]
    time.sleep(12)
    read_all(store, steps, scalar_at, matrix_at)
    written = [int(writer.communicate()[0]) for writer in writers]
    print(f"  written meanwhile: {sum(written) / 30:.0f} steps a second of all")


if __name__ == "__main__":
    main()
