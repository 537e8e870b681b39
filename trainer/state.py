"""Everything that computes: what a checkpoint holds and a rollback restores, as one value.

What must remember (the policy's budget, cooldowns, skipped batches, the alerts) is not here, on
purpose.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..monitors.guard import Guard
from ..monitors.judge import Judge
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
            "random": _random_state(),
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
        _set_random_state(state["random"])


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


def _random_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": {
            "kind": kind,
            "keys": np.asarray(keys, dtype=np.int64),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state["numpy"]
    np.random.set_state(
        (
            numpy["kind"],
            np.asarray(numpy["keys"]).astype(np.uint32),
            numpy["position"],
            numpy["has_gauss"],
            numpy["gauss"],
        )
    )
    torch.set_rng_state(state["torch"].clone())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([word.clone() for word in state["cuda"]])
