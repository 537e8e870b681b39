"""Everything that computes: what a checkpoint holds and a rollback restores, as one value.

What must remember (the policy's budget, cooldowns, skipped batches, the alerts) is not here, on
purpose.
"""

from dataclasses import dataclass
from typing import Any

import torch

from ..monitors.guard import Guard
from ..monitors.judge import Judge
from ..monitors.states.chance import random_state, set_random_state
from .model.make import Network
from .optim.ema import Ema


@dataclass
class TrainState:
    model: Network
    optimizer: torch.optim.Optimizer
    ema: Ema
    guard: Guard
    judge: Judge
    step: int = 0
    """The next optimizer step."""
    batch: int = 0
    """The next batch of the data order."""
    damp_scale: float = 1.0
    damp_until: int = 0
    """The learning rate is scaled by damp_scale in steps below this."""

    def capture(self) -> dict[str, Any]:
        """Returns the live state: tensors are the training's own, so copy it before the next
        step."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "guard": self.guard.state_dict(),
            "judge": self.judge.state_dict(),
            "loop": {
                "step": self.step,
                "batch": self.batch,
                "damp_scale": self.damp_scale,
                "damp_until": self.damp_until,
            },
            "random": random_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Puts everything back; the given state stays untouched, so that it can be restored
        again."""
        self.model.load_state_dict(state["model"])
        # load_state_dict of an optimizer keeps the tensors it is given; the next step would
        # change the snapshot
        _restore_optimizer(self.optimizer, state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.guard.load_state_dict(state["guard"])
        self.judge.load_state_dict(state["judge"])
        loop = state["loop"]
        self.step, self.batch = loop["step"], loop["batch"]
        self.damp_scale, self.damp_until = loop["damp_scale"], loop["damp_until"]
        set_random_state(state["random"])


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    mine = optimizer.state_dict()["state"]
    theirs = state["state"]
    same = mine.keys() == theirs.keys()
    if not same:
        # before the first step, or after a fresh start, one side has no moments yet
        clones = {
            index: {name: _cloned(value) for name, value in entry.items()}
            for index, entry in theirs.items()
        }
        optimizer.load_state_dict({"state": clones, "param_groups": state["param_groups"]})
        return
    for index, entry in theirs.items():
        for name, value in entry.items():
            if isinstance(value, torch.Tensor):
                mine[index][name].copy_(value)
            else:
                mine[index][name] = value
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.update({key: value for key, value in saved.items() if key != "params"})


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
