"""The flip rate of any forward, as the probe has it of its own."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...kernels.routing.reference import Routing
from ..moe.steps import moe_layers
from .routing_probe import flips


class FlipCount:
    """Counts while it watches a model.

    count = FlipCount(model)
    with count.watching():
        model(...)
    count.read()
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = moe_layers(model)
        self._seen: list[list[Tensor]] = [[] for _ in self._layers]

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for index, layer in enumerate(self._layers):
                hooks.enter_context(layer.router.register_forward_hook(self._hook(index)))
            yield

    def read(self) -> NDArray[np.float32]:
        """Returns `router/flip_rate` of all tokens so far, a value for each router that was asked;
        waits for the device."""
        found = [torch.stack(seen).sum(0) for seen in self._seen if seen]
        if not found:
            return np.zeros(0, np.float32)
        both_M2 = torch.cat(found).cpu().numpy()
        rate_M: NDArray[np.float32] = both_M2[:, 0] / np.maximum(both_M2[:, 1], 1.0)
        return rate_M

    def _hook(self, index: int) -> Any:
        @torch.no_grad()
        def count(router: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            if isinstance(output, Routing):
                self._seen[index].append(flips(self._layers[index], args))

        return count
