"""Is going back worth it? One training with a fault that passes, told three ways: never planted,
planted and only advised about, planted and rolled back.

The fault belongs to the clock and not to the steps of the run, as a slip of a hand or of a memory
cell does: it lies in certain turns of the loop, so that a run that goes back does not meet it
again. What is compared is the loss on held-out clips when equally many batches were consumed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...platform.errors import MoescopeError, did_you_mean
from ...platform.frozen import changed
from ...platform.settings import Settings
from ..config import RunConfig
from ..data.batches import Batches
from ..data.clips import find_clips
from ..data.make_clips import make_clips
from ..evaluation.evaluate import probe, probe_passes
from ..loop import Trainer
from ..recipes.stream import tiny
from ..run import train

ARMS: Mapping[str, str] = {"clean": "off", "advisory": "advisory", "rollback": "on"}
"""The mode of the policy in each."""
NUM_CLIPS, NUM_JUDGED = 60, 16

Plant = Callable[[Trainer, int], None]
"""Called at each step boundary with the number of turns since the onset."""


@dataclass
class Arm:
    loss: float = float("nan")
    """On the held-out clips, when the last batch was consumed."""
    went_back: list[tuple[int, int]] = field(default_factory=list)
    """Steps from which and to which."""
    status: str = ""


def _rate(trainer: Trainer, since: int) -> None:
    """Twenty times the learning rate for twenty turns."""
    if since < 20:
        trainer.state.damp_scale, trainer.state.damp_until = 20.0, trainer.state.step + 1


@torch.no_grad()
def _moments(trainer: Trainer, since: int) -> None:
    """The second moments are all but zero, once: the next updates are far too long."""
    if since == 0:
        for entry in trainer.state.optimizer.state.values():
            entry["exp_avg_sq"].mul_(1e-8)


@torch.no_grad()
def _spike(trainer: Trainer, since: int) -> None:
    """One turn at twenty times the learning rate: a spike that heals by itself."""
    if since == 0:
        trainer.state.damp_scale, trainer.state.damp_until = 20.0, trainer.state.step + 1


PASSING: Mapping[str, Plant] = {
    "learning_rate": _rate,
    "optimizer_state": _moments,
    "heals_alone": _spike,
}
"""Faults that pass; the last one is no reason to go back."""


def passing(name: str) -> Plant:
    """Returns the fault of this name. Raises MoescopeError on an unknown one."""
    if name not in PASSING:
        raise MoescopeError(
            f"there is no passing fault {name}{did_you_mean(name, PASSING)} "
            f"(there are: {', '.join(PASSING)})"
        )
    return PASSING[name]


def arm_config(folder: Path, seed: int, steps: int) -> RunConfig:
    """Writes the clips of a training into `folder` and returns its configuration: `tiny`."""
    make_clips(folder / "clips", NUM_CLIPS, seed=seed)
    make_clips(folder / "judged", NUM_JUDGED, seed=10_000 + seed)
    changes = {"seed": seed, "steps": 10 * steps, "data.folder": str(folder / "clips")}
    every = {"data.batch": 8, "data.workers": 0, "watch.probe_every": 0}
    return changed(tiny(), {**changes, **every})


def train_arm(
    arm: str, plant: Plant, config: RunConfig, folder: Path, *, onset: int, num_batches: int
) -> Arm:
    """Trains one arm until `num_batches` are consumed, with the fault from turn `onset` on.

    folder: what `arm_config` was given; the run lies in a folder of it that is named for the arm.
    """
    config = changed(config, {"policy.mode": ARMS[arm]})
    with Batches(find_clips(folder / "judged"), config.data, 0) as judged:
        batch = judged.validation_batch(NUM_JUDGED)
    passes = probe_passes(config, batch)
    seen, turn = Arm(), 0

    def on_step(trainer: Trainer) -> None:
        nonlocal turn
        if trainer.segment.reason == "rollback" and len(seen.went_back) < trainer.segment.index:
            assert trainer.segment.parent_step is not None
            seen.went_back.append((turn, trainer.segment.parent_step + 1))
        if trainer.state.batch >= num_batches:
            seen.loss = probe(trainer.state.model, batch, passes, config).total
            trainer.stop()
        elif arm != "clean" and turn >= onset:
            plant(trainer, turn - onset)
        turn += 1

    settings = Settings(home=folder / arm, mlflow="off")
    seen.status = train(config, settings=settings, progress=False, on_step=on_step).status
    return seen
