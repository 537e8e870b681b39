"""Averaged weights, which are the ones to generate and evaluate with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Keeps an exponential average of a model's parameters, on their device.

    average += (1 - decay_n) * (parameter - average), decay_n = min(decay, (1 + n) / (10 + n)), n =
    updates so far: the first steps count little. Buffers are not averaged: the router's bias
    belongs to the current weights' balance, and is used as it is. Source: facts: model.md 6.2.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = dict(model.named_parameters())
        self._average = {name: p.detach().clone() for name, p in self._live.items()}
        device = next(iter(self._live.values())).device
        self._num_updates = torch.zeros((), dtype=torch.float32, device=device)

    @torch.no_grad()
    def update(self, keep: Tensor) -> None:
        """Takes in the current weights. keep: 0/1 tensor on the device; 0 changes nothing (a step
        that was held back).
        """
        n = self._num_updates
        weight = keep * (1 - torch.clamp((1 + n) / (10 + n), max=self.decay))
        for name, average in self._average.items():
            average.lerp_(self._live[name], weight)
        self._num_updates += keep

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Lends the averaged weights to the model; on leaving, the model has its own again, bit for
        bit.
        """
        kept = {name: p.data for name, p in self._live.items()}
        try:
            for name, p in self._live.items():
                p.data = self._average[name]
            yield
        finally:
            for name, p in self._live.items():
                p.data = kept[name]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns all tensors of the state (not copies): the averages by parameter name, and
        `num_updates`.
        """
        return {
            **{f"average.{k}": v for k, v in self._average.items()},
            "num_updates": self._num_updates,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copies a state in. Raises KeyError where a name is missing."""
        for name, average in self._average.items():
            average.copy_(state[f"average.{name}"])
        self._num_updates.copy_(state["num_updates"])
