"""A tiny training in a process of its own whose second delivery of clips is spoiled.

Run as `python a_poisoned_trainer.py HOME NAME`. It trains on until it is stopped, and only says
what it would do; slowly from the spoiled clips on, until somebody has made it go back: a person
reads meanwhile.
"""

import sys
import time
from pathlib import Path

import torch

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.data.deliveries import make_demo_deliveries
from moescope.trainer.loop import Trainer
from moescope.trainer.recipes.stream import tiny
from moescope.trainer.run import train

CLEAN_BATCHES, SPOILED_BATCHES, LAST_BATCHES = 150, 30, 400
SMALL = {
    "steps": 1_000_000,
    "data.batch": 2,
    "data.num_frames": 4,
    "data.height": 16,
    "data.width": 16,
    "data.order": "by_folder",
    "data.windows_per_clip": 16,
    "model.width": 32,
    "model.layers": 2,
    "model.heads": 2,
    "moe.num_experts": 4,
    "policy.mode": "advisory",
    "watch.probe_every": 50,
    "checkpoint.disk_every_steps": 50,
}
QUICK_S, SLOW_S = 0.01, 0.5
"""Between two steps."""


def pace(trainer: Trainer) -> None:
    is_spoiled = CLEAN_BATCHES <= trainer.state.batch < CLEAN_BATCHES + SPOILED_BATCHES
    is_looked_at = is_spoiled and trainer.segment.index == 0
    time.sleep(SLOW_S if is_looked_at else QUICK_S)


if __name__ == "__main__":
    torch.set_num_threads(1)
    home = Path(sys.argv[1])
    config = changed(tiny(), {**SMALL, "data.folder": str(home / "clips")})
    make_demo_deliveries(
        home / "clips",
        config.data,
        clean_batches=CLEAN_BATCHES,
        spoiled_batches=SPOILED_BATCHES,
        last_batches=LAST_BATCHES,
    )
    train(config, settings=Settings(home=home, mlflow="off"), name=sys.argv[2], on_step=pace)
