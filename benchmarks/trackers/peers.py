"""One tracker in one process: logs the workload, reads it back through the tracker's own API,
prints a line of JSON.

    python benchmarks/trackers/peers.py NAME STEPS CAP_S FOLDER

Needs what it is asked about: mlflow, or `pip install trackio wandb tensorboardX tensorboard`.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from workload import (
    CHECKED_GLOBAL,
    CHECKED_LAYER,
    EXPERTS,
    Numbers,
    Result,
    as_dict,
    disk_bytes,
    numbers,
    time_loop,
    time_reads,
)

LOADS = [f"load/{CHECKED_LAYER}/{j}" for j in range(EXPERTS)]
SCALAR = f"global/{CHECKED_GLOBAL}"


def with_mlflow(result: Result, data: Numbers, steps: int, cap_s: float, folder: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("bench")
    run = mlflow.start_run()
    empty = disk_bytes(folder)
    log = lambda step: mlflow.log_metrics(as_dict(data, step), step=step)  # noqa: E731
    time_loop(result, log, steps, cap_s, lambda: None)
    result.bytes_per_step = (disk_bytes(folder) - empty) / result.num_steps
    client = mlflow.MlflowClient()

    def history(name: str) -> list[float]:
        return [metric.value for metric in client.get_metric_history(run.info.run_id, name)]

    time_reads(
        result, lambda: _f4(history(SCALAR)), lambda: _f4([history(n) for n in LOADS]).T, data
    )


def with_trackio(result: Result, data: Numbers, steps: int, cap_s: float, folder: Path) -> None:
    os.environ["TRACKIO_DIR"] = str(folder)
    import trackio

    run = trackio.init(project="bench", name="run")
    empty = disk_bytes(folder)
    log = lambda step: trackio.log(as_dict(data, step), step=step)  # noqa: E731
    time_loop(result, log, steps, cap_s, trackio.finish)
    result.bytes_per_step = (disk_bytes(folder) - empty) / result.num_steps
    from trackio.sqlite_storage import SQLiteStorage

    def rows() -> list[dict[str, Any]]:
        return list(SQLiteStorage.get_logs("bench", run.name))

    time_reads(
        result,
        lambda: _f4([row[SCALAR] for row in rows()]),
        lambda: _f4([[row[name] for name in LOADS] for row in rows()]),
        data,
    )


def with_wandb(result: Result, data: Numbers, steps: int, cap_s: float, folder: Path) -> None:
    import wandb

    settings = wandb.Settings(
        mode="offline", x_disable_stats=True, console="off", disable_code=True, disable_git=True
    )
    run = wandb.init(project="bench", dir=str(folder), settings=settings)
    log = lambda step: run.log(as_dict(data, step))  # noqa: E731
    time_loop(result, log, steps, cap_s, run.finish)
    result.bytes_per_step = disk_bytes(folder) / result.num_steps
    # its local file cannot be asked: nothing to compare
    result.is_right = True
    result.scalar_first = result.matrix_first = result.scalar_second = result.matrix_second = np.nan


def with_tensorboardx(
    result: Result, data: Numbers, steps: int, cap_s: float, folder: Path
) -> None:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder), flush_secs=120)

    def log(step: int) -> None:
        for name, value in as_dict(data, step).items():
            writer.add_scalar(name, value, step)

    time_loop(result, log, steps, cap_s, writer.close)
    result.bytes_per_step = disk_bytes(folder) / result.num_steps
    result.is_right = True
    result.scalar_first = result.matrix_first = result.scalar_second = result.matrix_second = np.nan


PEERS: dict[str, tuple[str, Callable[..., None]]] = {
    "mlflow": ("mlflow", with_mlflow),
    "trackio": ("trackio", with_trackio),
    "wandb offline": ("wandb", with_wandb),
    "tensorboardX": ("tensorboardX", with_tensorboardx),
}


def _f4(values: Any) -> Any:
    return np.asarray(values, "f4")


def main() -> None:
    name, steps, cap_s, folder = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    package, run = PEERS[name]
    result = Result(name, version(package))
    run(result, numbers(steps), steps, cap_s, Path(folder))
    print(json.dumps(result.as_dict()))


if __name__ == "__main__":
    main()
