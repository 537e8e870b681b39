"""How soon an incident is noticed and how fast the run is back: corrupt clips in a real `tiny`
training.

Prints steps from the first corrupt batch to the alarm, the time to go back in units of a step,
and what a snapshot into host memory and onto the disk takes from training.

    python benchmarks/incident.py [NUM_SEEDS]
"""

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.data.deliveries import make_demo_deliveries
from moescope.trainer.loop import Trainer
from moescope.trainer.recipes.stream import tiny
from moescope.trainer.run import open_trainer

CLEAN_BATCHES = 150
AFTERWARDS = 40


def main() -> None:
    num_seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    num_threads = torch.get_num_threads()
    print(f"machine: {platform.machine()}, torch {torch.__version__}, {num_threads} threads")
    for seed in range(num_seeds):
        with tempfile.TemporaryDirectory() as folder:
            run(seed, Path(folder))


def run(seed: int, folder: Path) -> None:
    config = changed(tiny(), {"seed": seed, "data.order": "by_folder", "data.windows_per_clip": 16})
    made = make_demo_deliveries(
        folder / "clips", config.data, seed, clean_batches=CLEAN_BATCHES, last_batches=AFTERWARDS
    )
    config = changed(config, {"data.folder": str(made.folder), "watch.probe_every": 0})
    settings = Settings(home=folder / "home", mlflow="off")
    snapshots: list[float] = []
    with open_trainer(config, settings, run_id="r") as trainer:
        watch_snapshots(trainer, snapshots)
        start_s = time.perf_counter()
        while trainer.segment.index == 0 and trainer.state.batch <= made.last_spoiled_batch:
            trainer.train_step()
        took_s = time.perf_counter() - start_s
        trainer.fan_out.flush(10)
        step_s = trainer.median_step_s()
    store = open_store(settings.store_url)
    try:
        alerts = [a for a in store.alerts("r") if a.rule == "loss_spike"]
        backs = store.events("r", kinds=["rollback"])
    finally:
        store.close()
    if not alerts or not backs:
        print(f"seed {seed}: the corrupt stretch was not noticed")
        return
    alert, back = alerts[-1], backs[0].details
    stall_s = sum(snapshots)
    print(
        f"seed {seed}: alarm {alert.fired_step - made.first_spoiled_batch} steps after the first "
        "corrupt batch (onset told as "
        f"{alert.onset_step - made.first_spoiled_batch:+d}); went back "
        f"{back['from_step'] - back['to_step']} steps in {back['took_s'] * 1000:.0f} ms from "
        f"{back['source']} = {back['took_s'] / step_s:.2f} steps; {len(snapshots)} snapshots, "
        f"median {statistics.median(snapshots) * 1000:.1f} ms, {100 * stall_s / took_s:.2f}% "
        "of the training time"
    )


def watch_snapshots(trainer: Trainer, seconds: list[float]) -> None:
    """Times what keeping states takes from the training thread."""
    keep = trainer.keeper.after_step

    def timed(*args: object) -> None:
        start_s = time.perf_counter()
        keep(*args)  # type: ignore[arg-type]
        took_s = time.perf_counter() - start_s
        if trainer.state.step % trainer.config.checkpoint.memory_every_steps == 0:
            seconds.append(took_s)

    trainer.keeper.after_step = timed  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
