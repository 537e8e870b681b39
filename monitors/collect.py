"""One packed copy from the device to the host: measured during a step, read a step later, never
waited for."""

import math
from collections import deque
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Packed:
    """A flat fp32 buffer on the device with a named view for each measurement.

    Write into the views (`packed["grad/norm"].copy_(norm)`), call `send()` once, go on training,
    and call `read()` when the next step has been launched. On CUDA the copy is non-blocking into
    pinned memory and `read()` waits for that copy alone, not for the steps behind it. Two sendings
    may be under way at once; one more before a `read()` is a programming error. Values must be
    exact in fp32: token counts are below 2^24.
    """

    def __init__(self, layout: Mapping[str, tuple[int, ...]], device: torch.device | str) -> None:
        self.layout = dict(layout)
        self._offsets: dict[str, int] = {}
        size = 0
        for name, shape in self.layout.items():
            self._offsets[name] = size
            size += math.prod(shape)
        self.device = torch.device(device)
        self._is_cuda = self.device.type == "cuda"
        self._buffer = torch.zeros(size, dtype=torch.float32, device=self.device)
        self.buffer: dict[str, Tensor] = {
            name: self._cut(self._buffer, name).view(shape) for name, shape in self.layout.items()
        }
        self._hosts = [
            torch.zeros(size, dtype=torch.float32, pin_memory=self._is_cuda) for _ in range(2)
        ]
        self._events = [torch.cuda.Event() if self._is_cuda else None for _ in range(2)]
        self._free = deque([0, 1])
        self._sent: deque[int] = deque()

    def __getitem__(self, name: str) -> Tensor:
        return self.buffer[name]

    @property
    def is_pending(self) -> bool:
        """Whether something was sent and not yet read."""
        return bool(self._sent)

    def send(self) -> None:
        """Starts the copy of the whole buffer; the views may be written again right after it (same
        stream)."""
        assert self._free, "two packed copies are under way: read() one before the next send()"
        slot = self._free.popleft()
        self._hosts[slot].copy_(self._buffer, non_blocking=True)
        event = self._events[slot]
        if event is not None:
            event.record()
        self._sent.append(slot)

    def read(self) -> dict[str, NDArray[np.float32]]:
        """Returns the oldest sending that was not yet read, as arrays of its own; empty where there
        is none."""
        if not self._sent:
            return {}
        slot = self._sent.popleft()
        event = self._events[slot]
        if event is not None:
            event.synchronize()
        flat: NDArray[np.float32] = self._hosts[slot].numpy().copy()
        self._free.append(slot)
        return {
            name: flat[self._offsets[name] : self._offsets[name] + math.prod(shape)].reshape(shape)
            for name, shape in self.layout.items()
        }

    def drop(self) -> None:
        """Forgets what was sent and not read: after a rollback those steps are an abandoned
        branch."""
        while self._sent:
            self._free.append(self._sent.popleft())

    def _cut(self, flat: Tensor, name: str) -> Tensor:
        start = self._offsets[name]
        return flat[start : start + math.prod(self.layout[name])]
