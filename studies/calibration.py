"""How fast this machine trains: a few steps of the real trainer, of the smallest and the largest
model of a study."""

import itertools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from ..platform.frozen import changed
from ..platform.settings import Settings
from ..trainer.config import RunConfig
from ..trainer.counts.flops import count_flops
from ..trainer.counts.parameters import count_parameters

STEPS, FIRST_STEPS = 8, 3
"""The first ones are slower (memory is asked for, kernels are chosen) and not counted."""


def calibrate(configs: Iterable[RunConfig]) -> dict[int, float]:
    """Returns {active parameters: training FLOPs per second} of the smallest and the largest.

    Each is trained for a few steps on its own data in a folder that is gone afterwards; the time is
    a step's median, data and watching included. Raises MoescopeError where training does.
    """
    by_size = {count_parameters(config).active: config for config in configs}
    return {size: _measured(by_size[size]) for size in sorted({min(by_size), max(by_size)})}


def _measured(config: RunConfig) -> float:
    from ..trainer.run import train

    short = changed(
        config,
        {
            "steps": STEPS,
            "optim.warmup_steps": 1,
            "optim.decay_steps": 1,
            "watch.probe_every": 0,
            "policy.mode": "off",
            "checkpoint.ring_gib": 0.0,
            "checkpoint.disk_every_steps": STEPS * 1000,
        },
    )
    boundaries_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="moescope-calibration-") as folder:
        train(
            short,
            settings=Settings(home=Path(folder), mlflow="off"),
            run_id="calibration",
            progress=False,
            on_step=lambda _: boundaries_s.append(time.perf_counter()),
        )
    steps_s = [after - before for before, after in itertools.pairwise(boundaries_s)]
    step_s = median(steps_s[FIRST_STEPS:])
    return count_flops(config).training * config.data.batch / step_s
