"""A learning rate that is lower for a while, without a word to the schedule: scaled before each
update, put back after it."""

from collections.abc import Sequence
from typing import Any

import torch


class Damping:
    """Of some optimizers; does nothing until `start`. It never goes back with a rollback: the
    policy damps anew where it still wants to."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._scale = 1.0
        self._left = 0
        self._rates: dict[int, list[Any]] = {}
        self._handles: list[Any] = []
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._lower))
            self._handles.append(optimizer.register_step_post_hook(self._put_back))

    @property
    def scale(self) -> float:
        return self._scale

    @property
    def left(self) -> int:
        """Steps for which rates stay lower."""
        return self._left

    def start(self, scale: float, for_steps: int) -> None:
        self._scale, self._left = scale, for_steps

    def step_done(self) -> None:
        self._left = max(0, self._left - 1)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _lower(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._left:
            self._rates[id(optimizer)] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                # a new value, not in place: a rate may be a tensor that others hold
                group["lr"] = group["lr"] * self._scale

    def _put_back(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, rate in zip(
            optimizer.param_groups, self._rates.pop(id(optimizer), ()), strict=False
        ):
            group["lr"] = rate
