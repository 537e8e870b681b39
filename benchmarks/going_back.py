"""What keeping states costs and how long going back takes, for `tiny` and for a model of 100 M
parameters: from host memory, and from the disk.

A training goes on for some steps, is sent back by hand, and goes on again, in turns. Times are of
the wall, in units of the median step of the same training; what a snapshot takes is spread over the
steps between two of them.

    python benchmarks/going_back.py [TURNS]
"""

import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from moescope.platform.frozen import changed
from moescope.platform.records import Action
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.loop import Trainer
from moescope.trainer.recipes.stream import tiny
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import open_trainer

TURNS = 4
STEPS = 10
"""Between two snapshots, as runs have it."""
SIZES = {
    "tiny": {},
    "100 M": {
        "model.width": 512,
        "model.layers": 12,
        "model.heads": 8,
        "moe.hidden": 768,
        # a step of the least: the fewer samples, the more steps a copy of the state takes
        "data.batch": 2,
    },
}


@dataclass
class Seen:
    step_s: list[float] = field(default_factory=list)
    keep_s: list[float] = field(default_factory=list)
    """Of the steps that took a snapshot: what that took from the training thread."""
    back_s: list[float] = field(default_factory=list)


def sized(name: str, folder: Path, *, is_on_disk: bool) -> RunConfig:
    """`is_on_disk`: states are written at every tenth step, and host memory holds none."""
    changes = {
        **SIZES[name],
        "steps": 10_000,
        "data.folder": str(folder / "clips"),
        "data.workers": 0,
        "watch.probe_every": 0,
        "policy.mode": "off",
        "checkpoint.memory_every_steps": STEPS,
        "checkpoint.disk_every_steps": STEPS if is_on_disk else 10_000,
        "checkpoint.ring_gib": 0.0 if is_on_disk else 8.0,
    }
    return changed(tiny(), changes)


def main(num_turns: int) -> None:
    threads = torch.get_num_threads()
    print(f"machine: {platform.machine()}, torch {torch.__version__}, {threads} threads")
    for name in SIZES:
        for is_on_disk in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                make_clips(Path(folder) / "clips", 60, seed=0)
                config = sized(name, Path(folder), is_on_disk=is_on_disk)
                tell(name, config, turns(config, Path(folder), num_turns))


def turns(config: RunConfig, folder: Path, num_turns: int) -> Seen:
    seen = Seen()
    with open_trainer(config, Settings(home=folder / "home", mlflow="off"), run_id="r") as trainer:
        watch_keeping(trainer, seen)
        for turn in range(num_turns + 1):
            for _ in range(STEPS + STEPS // 2):
                start_s, kept = time.perf_counter(), len(seen.keep_s)
                trainer.train_step()
                if len(seen.keep_s) == kept:
                    seen.step_s.append(time.perf_counter() - start_s)
            to_step = max(c.step for c in trainer.keeper.checkpoints)
            start_s = time.perf_counter()
            carry_out(trainer, Action("rollback", "asked", to_step=to_step), is_automatic=False)
            if turn:  # the first one warms up
                seen.back_s.append(time.perf_counter() - start_s)
        trainer.fan_out.flush(10)
    return seen


def watch_keeping(trainer: Trainer, seen: Seen) -> None:
    keep = trainer.keeper.after_step

    def timed(*args: object) -> None:
        start_s = time.perf_counter()
        keep(*args)  # type: ignore[arg-type]
        if trainer.state.step % STEPS == 0:
            seen.keep_s.append(time.perf_counter() - start_s)

    trainer.keeper.after_step = timed  # type: ignore[method-assign]


def tell(name: str, config: RunConfig, seen: Seen) -> None:
    step_s = statistics.median(seen.step_s)
    back_s, keep_s = statistics.median(seen.back_s), statistics.median(seen.keep_s)
    source = "memory" if config.checkpoint.ring_gib else "disk"
    parameters = count_parameters(config).total / 1e6
    low, high = min(seen.back_s) / step_s, max(seen.back_s) / step_s
    print(
        f"{name:6} ({parameters:.1f} M parameters), a step {1000 * step_s:.0f} ms: back from "
        f"{source} in {1000 * back_s:.0f} ms = {back_s / step_s:.2f} steps ({low:.2f} to "
        f"{high:.2f}); keeping takes {1000 * keep_s:.0f} ms every {STEPS} steps = "
        f"{100 * keep_s / (STEPS * step_s):.2f}% of training",
        flush=True,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TURNS)
