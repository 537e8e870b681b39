"""Experts by noise level on a device that holds one of them at a time: for making clips, which
never needs two at once.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from ..model.noise_experts import NoiseExperts


class Mover(Protocol):
    """Moves an expert's weights. Called from one thread, each call after the other."""

    def place(self, expert: int) -> None:
        """To the device."""

    def remove(self, expert: int) -> None:
        """From the device."""


class OneAtATime:
    """Keeps at most one expert on the device: the one before leaves before the next comes.

    Where a level is blended, the one that is there answers first, so that a stretch of blended
    steps costs one move per step, not two.
    """

    def __init__(self, mover: Mover, device: torch.device) -> None:
        self.device = device
        self.resident: int | None = None
        self._mover = mover

    def order(self, experts: Iterable[int]) -> list[int]:
        """Returns the resident first, then the others, ascending."""
        return sorted(experts, key=lambda expert: (expert != self.resident, expert))

    def bring(self, expert: int) -> None:
        if expert == self.resident:
            return
        self.leave()
        self._mover.place(expert)
        self.resident = expert

    def leave(self) -> None:
        """Frees the device of whoever is there."""
        if self.resident is not None:
            self._mover.remove(self.resident)
        self.resident = None


class HostCopies:
    """Holds the weights of all experts in host memory, pinned on CUDA; the device gets copies.

    Nothing is copied back: the weights must not change meanwhile. A copy to the device is queued
    behind the work that is there, and the host does not wait for it. Host memory: the experts', in
    their own dtype.
    """

    def __init__(self, experts: Iterable[nn.Module], device: torch.device) -> None:
        self._device = device
        self._tensors = [[*chain(e.parameters(), e.buffers())] for e in experts]
        self._host = [[_on_host(t, device) for t in tensors] for tensors in self._tensors]
        for expert in range(len(self._tensors)):
            self.remove(expert)

    def place(self, expert: int) -> None:
        for tensor, host in zip(self._tensors[expert], self._host[expert], strict=True):
            tensor.data = host.to(self._device, non_blocking=True)

    def remove(self, expert: int) -> None:
        for tensor, host in zip(self._tensors[expert], self._host[expert], strict=True):
            tensor.data = host


@contextmanager
def offloaded(model: NoiseExperts, device: torch.device) -> Iterator[OneAtATime]:
    """Lets the model compute on the device with one expert there at a time; what the experts share
    is there all along. On leaving, the experts' weights are on the host.
    """
    residence = OneAtATime(HostCopies(model.experts, device), device)
    shared = [*model.parameters(recurse=False), *model.buffers(recurse=False)]
    if model.trunk is not None:
        shared += [*model.trunk.parameters(), *model.trunk.buffers()]
    for tensor in shared:
        tensor.data = tensor.data.to(device)
    model.residence = residence
    try:
        yield residence
    finally:
        residence.leave()
        model.residence = None


def _on_host(tensor: Tensor, device: torch.device) -> Tensor:
    host = tensor.detach().cpu()
    return host.pin_memory() if device.type == "cuda" else host
