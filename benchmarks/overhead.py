"""What watching costs: CPU time of whole steps, sampled tier at every step, every 10 steps, and
off.

Three trainings take turns in one process, a block of steps each, in an order that changes from
round to round; a round gives one paired ratio per training. Process CPU time counts everything:
taps, judge, journal and store threads. The interval is the 2.5th to 97.5th percentile of
bootstrapped means of the rounds' ratios.

    python benchmarks/overhead.py [STEPS_PER_TRAINING] [NAME ...]
"""

import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.loop import Trainer
from moescope.trainer.recipes.stream import tiny
from moescope.trainer.run import open_trainer

BLOCK = 20
STEPS = 2000
ARMS = {"off": 1_000_000_000, "every 10": 10, "every step": 1}


def configurations(clips: Path) -> dict[str, RunConfig]:
    """`tiny`, and a model of 12 layers with 48 experts each that is narrow enough for two cores."""
    base = changed(
        tiny(),
        {
            "data.folder": str(clips),
            "steps": 1_000_000,
            "watch.probe_every": 0,
            "policy.mode": "off",
            "checkpoint.disk_every_steps": 1_000_000,
            "checkpoint.ring_gib": 0,
        },
    )
    many = {
        "model.layers": 12,
        "model.width": 64,
        "moe.num_experts": 48,
        "moe.num_chosen": 5,
        "moe.hidden": 32,
        "data.batch": 4,
    }
    return {"tiny": base, "12 layers, 48 experts": changed(base, many)}


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    torch.set_num_threads(1)
    print(f"machine: {platform.machine()}, torch {torch.__version__}, 1 thread")
    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder) / "clips", 48)
        for name, config in configurations(Path(folder) / "clips").items():
            if len(sys.argv) > 2 and name not in sys.argv[2:]:
                continue
            measure(name, config, Path(folder) / name.replace(" ", "-"), steps)


def measure(name: str, config: RunConfig, home: Path, steps: int) -> None:
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with ExitStack() as stack:
        trainers: dict[str, Trainer] = {}
        for arm, every in ARMS.items():
            settings = Settings(home=home / arm.replace(" ", "-"), mlflow="off")
            arm_config = changed(config, {"watch.sample_every": every})
            trainers[arm] = stack.enter_context(open_trainer(arm_config, settings))
        for trainer in trainers.values():
            block(trainer)
        names = list(ARMS)
        for turn in range(steps // BLOCK):
            # every arm comes first, second and last equally often
            for arm in names[turn % 3 :] + names[: turn % 3]:
                seconds[arm].append(block(trainers[arm]))
    off = np.array(seconds["off"])
    step_ms = off.mean() / BLOCK * 1000
    print(f"{name}: {step_ms:.1f} ms of CPU a step, sampled tier off, {len(off)} rounds")
    for arm in list(ARMS)[1:]:
        ratio = np.array(seconds[arm]) / off
        low, high = interval(ratio)
        print(
            f"  sampled tier {arm:10s} {100 * (ratio.mean() - 1):+6.2f}% "
            f"(95% interval {100 * (low - 1):+.2f}% to {100 * (high - 1):+.2f}%)"
        )


def block(trainer: Trainer) -> float:
    """Trains a block of steps; returns the process's CPU seconds, side threads included."""
    start_s = time.process_time()
    for _ in range(BLOCK):
        trainer.train_step()
    return time.process_time() - start_s


def interval(ratio: np.ndarray) -> tuple[float, float]:
    chance = np.random.default_rng(0)
    means = [chance.choice(ratio, len(ratio)).mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
