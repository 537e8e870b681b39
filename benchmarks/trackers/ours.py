"""moescope on the workload of the trackers, in one process, printed as a line of JSON.

    python benchmarks/trackers/ours.py journal|durable|EXPERTS STORE_URL STEPS FOLDER

`journal`: as a trainer does it, by hand-off, journal and store. `durable`: a synchronous commit
that is on disk when it returns. Further figures than the trackers have: after compaction, and with
256 experts.
"""

import json
import sqlite3
import sys
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import numpy as np
from workload import (
    CHECKED_GLOBAL,
    CHECKED_LAYER,
    GLOBALS,
    Numbers,
    Result,
    disk_bytes,
    numbers,
    time_loop,
    time_reads,
)

from moescope.platform.compacted.housekeeping import compact_store
from moescope.platform.records import Frame, Run
from moescope.platform.series import read_series
from moescope.platform.sinks import FanOut
from moescope.platform.sql_sink import SqlSink
from moescope.platform.store import Store, open_store
from moescope.platform.upkeep import vacuum_store

PER_LAYER = (
    "router/entropy_nats",
    "router/max_violation",
    "router/load_entropy_nats",
    "router/margin",
    "activation/rms",
    "activation/absmax",
)


def frame(data: Numbers, step: int, run_id: str = "bench") -> Frame:
    """A step's numbers as a trainer hands them over: rows of numpy."""
    values = {"router/expert_load": data.loads[step]}
    values |= dict(zip(PER_LAYER, data.layers[step], strict=True))
    values |= {f"user/global_{i}": data.globals[step, i] for i in range(GLOBALS)}
    return Frame(run_id, 0, step, 1.7e9 + step, values)


def new_run(store: Store, run_id: str = "bench", status: str = "running") -> Run:
    run = Run(run_id, run_id, "bench", {}, status, "cpu", "0", 0.0, 0.0)  # type: ignore[arg-type]
    store.delete_run(run_id)
    store.add_run(run)
    return run


def store_bytes(store: Store, folder: Path) -> int:
    """What the store takes: its files, or what PostgreSQL says of the tables of samples."""
    if store.database.is_embedded:
        return disk_bytes(folder)
    names = ("vector_rows", "scalar_rows", "chunks", "rollups", "chunk_steps", "spans")
    sizes = [f"pg_total_relation_size('{name}')" for name in names]
    statement = f"SELECT {' + '.join(sizes)}"
    return int(store.database.read(lambda c: c.exec_driver_sql(statement).scalar_one()))


def by_journal(url: str, steps: int, folder: Path) -> dict[str, object]:
    result = Result("moescope", version("moescope"))
    data = numbers(steps)
    with open_store(url) as store:
        run = new_run(store)
        store.write_frames([frame(data, 0)])  # tables have their first pages
        vacuum_store(url)
        empty = store_bytes(store, folder / "store")
        fan_out = FanOut(folder / "journal", [SqlSink(url, run)])
        frames = [frame(data, step) for step in range(steps)]
        time_loop(
            result, lambda step: fan_out.record(frames[step]), steps, 1e9, lambda: _flush(fan_out)
        )
        fan_out.close()
        vacuum_store(url)
        result.bytes_per_step = (store_bytes(store, folder / "store") - empty) / steps
        _time_reads(store, result, data)
        out = result.as_dict()
        store.update_run("bench", status="finished")
        compact_store(store)
        vacuum_store(url)
        out["compacted_bytes_per_step"] = (store_bytes(store, folder / "store") - empty) / steps
        rollups = "SELECT coalesce(sum(length(data)), 0) FROM rollups"
        out["rollup_bytes_per_step"] = (
            store.database.read(lambda c: int(c.exec_driver_sql(rollups).scalar_one())) / steps
        )
        _time_reads(store, result, data)
        out["compacted"] = result.as_dict()
    return out


def _flush(fan_out: FanOut) -> None:
    assert fan_out.flush(600)


def _time_reads(store: Store, result: Result, data: Numbers) -> None:
    time_reads(
        result,
        lambda: read_series(store, "bench", f"user/global_{CHECKED_GLOBAL}").values,
        lambda: read_series(store, "bench", "router/expert_load", row=CHECKED_LAYER).values,
        data,
    )


def durable(url: str, steps: int, folder: Path) -> dict[str, object]:
    """A commit of one step that survives the loss of power, of moescope and of MLflow, in turns."""
    import mlflow
    from mlflow.entities import Metric
    from workload import as_dict

    data = numbers(steps)
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow_run = client.create_run("0").info.run_id
    with open_store(url) as store:
        new_run(store)
        ours, theirs = [], []
        for step in range(steps):
            start_s = time.perf_counter()
            store.write_frames([frame(data, step)], is_durable=True)
            middle_s = time.perf_counter()
            metrics = [Metric(name, value, 0, step) for name, value in as_dict(data, step).items()]
            client.log_batch(mlflow_run, metrics=metrics)
            ours.append(1000 * (middle_s - start_s))
            theirs.append(1000 * (time.perf_counter() - middle_s))
    with closing(sqlite3.connect(folder / "mlflow.db")) as file:
        mode = file.execute("PRAGMA journal_mode").fetchone()[0]
    thirds = np.array_split(np.array(theirs) / np.array(ours), 5)
    return {
        "ours": np.median(ours),
        "mlflow": np.median(theirs),
        "ratios": [float(np.median(part)) for part in thirds],
        "mlflow_journal": mode,
    }


def bytes_of(url: str, steps: int, experts: int, folder: Path) -> dict[str, object]:
    """Bytes a step with this many experts, and how fast they are taken in at once."""
    data = numbers(steps, experts)
    frames = [frame(data, step) for step in range(steps)]
    payload = 4 * (data.loads[0].size + data.layers[0].size + data.globals[0].size)
    with open_store(url) as store:
        new_run(store)
        store.write_frames(frames[:1])
        vacuum_store(url)
        empty = store_bytes(store, folder / "store")
        start_s, cpu_s = time.perf_counter(), time.process_time()
        store.write_frames(frames)
        took_s, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s
        vacuum_store(url)
        rows = (store_bytes(store, folder / "store") - empty) / steps
        store.update_run("bench", status="finished")
        start_s = time.perf_counter()
        compact_store(store)
        compact_s = time.perf_counter() - start_s
        vacuum_store(url)
        packed = (store_bytes(store, folder / "store") - empty) / steps
        series = read_series(store, "bench", "router/expert_load", row=CHECKED_LAYER)
        is_right = np.array_equal(series.values, data.loads[:, CHECKED_LAYER])
    return {
        "payload": payload,
        "rows": rows / payload,
        "compacted": packed / payload,
        "numbers_per_s": steps * payload / 4 / took_s,
        "cpu_per_step": 1000 * cpu_s / steps,
        "compaction_per_step": 1000 * compact_s / steps,
        "is_right": is_right,
    }


def main() -> None:
    what, url, steps, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    if what == "journal":
        out = by_journal(url, steps, folder)
    elif what == "durable":
        out = durable(url, steps, folder)
    else:
        out = bytes_of(url, steps, int(what), folder)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
