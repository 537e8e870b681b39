"""Taps: forward hooks that measure activations and routers of one sampled step, on the device only.

L blocks  M MoE layers  E experts
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..platform import catalogue
from .activation_signals import rms_and_absmax, router_entropy_nats
from .collect import Packed
from .expert_signals import expert_load, load_entropy_nats, max_violation


class Taps:
    """Measures the output of each block and the answer of each router while `watching()`; hooks are
    absent otherwise.

        with taps.watching():        # only on sampled steps
            loss = model(...)
        taps.send()                  # one non-blocking copy
        ...                          # the next step is launched
        values = taps.read()         # catalogue signals of the sampled step, as host arrays; empty
        if none was sent

    blocks: modules that return a tensor, or a tuple that starts with one. routers: modules that
    return kernels' `Routing` (`score_TE`, `counts_E`); a router's `bias_E` buffer, where there is
    one, gives the bias range. Of several forwards in one `watching()` the last counts. Hooks do not
    fire in a graph that was compiled without them.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        routers: Sequence[nn.Module],
        *,
        num_experts: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._blocks = list(blocks)
        self._routers = list(routers)
        if device is None:
            parameter = next((p for block in self._blocks for p in block.parameters()), None)
            device = "cpu" if parameter is None else parameter.device
        biases = [getattr(router, "bias_E", None) for router in self._routers]
        self._has_bias = bool(biases) and all(isinstance(bias, Tensor) for bias in biases)
        if num_experts is None:
            num_experts = int(biases[0].shape[0]) if self._has_bias and biases[0] is not None else 0
        num_moe = len(self._routers) if num_experts else 0
        self._packed = Packed(
            {
                "activation_L2": (len(self._blocks), 2),
                "tokens_ME": (num_moe, num_experts),
                "entropy_M": (num_moe,),
                "bias_range_M": (num_moe,),
            },
            device,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Attaches the hooks for the forwards inside the block and takes them away again, also
        after an error."""
        handles = [
            block.register_forward_hook(self._block_hook(i)) for i, block in enumerate(self._blocks)
        ]
        if self._packed["entropy_M"].numel():
            handles += [
                router.register_forward_hook(self._router_hook(i))
                for i, router in enumerate(self._routers)
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def send(self) -> None:
        self._packed.send()

    def drop(self) -> None:
        """Forgets a sampled step that was sent and not read, as after a rollback."""
        self._packed.drop()

    def read(self) -> dict[str, NDArray[np.float32]]:
        """Returns the sampled tier of the step that was sent, under catalogue names; empty where
        nothing was sent."""
        host = self._packed.read()
        if not host:
            return {}
        rms, absmax = host["activation_L2"][:, 0], host["activation_L2"][:, 1]
        values = {
            catalogue.ACTIVATION_RMS: rms,
            catalogue.ACTIVATION_ABSMAX: absmax,
            catalogue.ACTIVATION_OUTLIER_RATIO: np.divide(
                absmax, rms, out=np.zeros_like(absmax), where=rms != 0
            ),
        }
        if host["entropy_M"].size:
            tokens = host["tokens_ME"]
            values |= {
                catalogue.EXPERT_LOAD: expert_load(tokens),
                catalogue.MAX_VIOLATION: max_violation(tokens),
                catalogue.LOAD_ENTROPY_NATS: load_entropy_nats(tokens),
                catalogue.ROUTER_ENTROPY_NATS: host["entropy_M"],
            }
            if self._has_bias:
                values[catalogue.BIAS_RANGE] = host["bias_range_M"]
        return values

    def _block_hook(self, index: int) -> Any:
        place_2 = self._packed["activation_L2"][index]

        @torch.no_grad()
        def measure(module: nn.Module, args: Any, output: Any) -> None:
            place_2.copy_(rms_and_absmax(output[0] if isinstance(output, tuple) else output))

        return measure

    def _router_hook(self, index: int) -> Any:
        tokens_E = self._packed["tokens_ME"][index]
        entropy = self._packed["entropy_M"][index]
        bias_range = self._packed["bias_range_M"][index]

        @torch.no_grad()
        def measure(module: nn.Module, args: Any, output: Any) -> None:
            tokens_E.copy_(output.counts_E)
            entropy.copy_(router_entropy_nats(output.score_TE))
            if self._has_bias:
                low, high = torch.aminmax(module.bias_E)  # type: ignore[arg-type]
                bias_range.copy_(high - low)

        return measure
