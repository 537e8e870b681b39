"""Taps: forward hooks that measure activations and routers of one sampled step, on the device only.

L blocks  M routers' rows  R rows of one router (its heads)  T tokens  E experts
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..platform import catalogue
from .activation_signals import (
    rms_and_absmax,
    router_balance,
    router_entropy_nats,
    router_z,
    sampled_tokens,
)
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
    return kernels' `Routing` or `ExpertChoice` (`score_TE`, `logit_TE`, `counts_E`); a `bias_E` or
    `bias_HE` buffer, where all have one, gives the bias range. num_rows: rows that each router
    has, its heads; one where it is left out. A block or router that did not run while it was
    watched has what it had when it last did, and zeros before: an expert by noise level that sat a
    step out is no news. bounded: for each block its modules that clamp what goes into activations:
    while watched they add the numbers of clamped and of all elements to their `clamped_2`, a
    tensor (2,), which is None otherwise; where there is such a module, the share of each block is a
    signal, 0 where it clamps nothing or did not run. attentions: for each block its modules that
    bound their logits: while watched they raise their `logit_bound_1`, a tensor (1,), which is None
    otherwise; the largest of each block is a signal. Of several forwards in one `watching()` the
    last counts. Hooks do not fire in a graph that was compiled without them.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        routers: Sequence[nn.Module],
        *,
        num_experts: int | None = None,
        num_rows: Sequence[int] = (),
        bounded: Sequence[Sequence[nn.Module]] = (),
        attentions: Sequence[Sequence[nn.Module]] = (),
        device: torch.device | str | None = None,
    ) -> None:
        self._blocks = list(blocks)
        self._routers = list(routers)
        self._bounded = [list(modules) for modules in bounded] if any(bounded) else []
        self._attentions = [list(modules) for modules in attentions] if any(attentions) else []
        if device is None:
            parameter = next((p for block in self._blocks for p in block.parameters()), None)
            device = "cpu" if parameter is None else parameter.device
        biases = [_bias_of(router) for router in self._routers]
        self._has_bias = bool(biases) and all(bias is not None for bias in biases)
        if num_experts is None:
            num_experts = biases[0].shape[-1] if biases and biases[0] is not None else 0
        rows = list(num_rows) or [1] * len(self._routers)
        assert len(rows) == len(self._routers), (rows, len(self._routers))
        # rows of router i: from _row_ends[i] to _row_ends[i + 1]
        self._row_ends = [sum(rows[:i]) for i in range(len(rows) + 1)]
        num_moe = self._row_ends[-1] if num_experts else 0
        self._packed = Packed(
            {
                "activation_L2": (len(self._blocks), 2),
                "tokens_ME": (num_moe, num_experts),
                "entropy_M": (num_moe,),
                "balance_M": (num_moe,),
                "z_M": (num_moe,),
                "bias_range_M": (num_moe,),
                "clamped_L2": (len(self._bounded), 2),
                "logit_bound_L1": (len(self._attentions), 1),
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
        self._fill_from_inside(True)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._fill_from_inside(False)

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
        if self._bounded:
            clamped, total = host["clamped_L2"].T
            values[catalogue.ACTIVATION_CLAMPED_SHARE] = np.divide(
                clamped, total, out=np.zeros_like(clamped), where=total != 0
            )
        if self._attentions:
            values[catalogue.ATTENTION_LOGIT_BOUND] = host["logit_bound_L1"][:, 0]
        if host["entropy_M"].size:
            tokens = host["tokens_ME"]
            values |= {
                catalogue.EXPERT_LOAD: expert_load(tokens),
                catalogue.MAX_VIOLATION: max_violation(tokens),
                catalogue.LOAD_ENTROPY_NATS: load_entropy_nats(tokens),
                catalogue.ROUTER_ENTROPY_NATS: host["entropy_M"],
                catalogue.ROUTER_BALANCE: host["balance_M"],
                catalogue.ROUTER_Z: host["z_M"],
            }
            if self._has_bias:
                values[catalogue.BIAS_RANGE] = host["bias_range_M"]
        return values

    def _fill_from_inside(self, is_on: bool) -> None:
        """Hands modules, or takes from them, the row that they write to themselves."""
        for name, modules_L, row_L in (
            ("clamped_2", self._bounded, self._packed["clamped_L2"]),
            ("logit_bound_1", self._attentions, self._packed["logit_bound_L1"]),
        ):
            for modules, row in zip(modules_L, row_L, strict=True):
                if is_on:
                    row.zero_()
                for module in modules:
                    setattr(module, name, row if is_on else None)

    def _block_hook(self, index: int) -> Any:
        place_2 = self._packed["activation_L2"][index]

        @torch.no_grad()
        def measure(module: nn.Module, args: Any, output: Any) -> None:
            place_2.copy_(rms_and_absmax(output[0] if isinstance(output, tuple) else output))

        return measure

    def _router_hook(self, index: int) -> Any:
        rows = slice(*self._row_ends[index : index + 2])
        tokens_RE = self._packed["tokens_ME"][rows]
        entropy_R = self._packed["entropy_M"][rows]
        balance_R, z_R = self._packed["balance_M"][rows], self._packed["z_M"][rows]
        bias_range_R = self._packed["bias_range_M"][rows]

        @torch.no_grad()
        def measure(module: nn.Module, args: Any, output: Any) -> None:
            tokens_RE.copy_(output.counts_E.view_as(tokens_RE))
            score_RTE = sampled_tokens(output.score_TE)
            entropy_R.copy_(router_entropy_nats(score_RTE))
            balance_R.copy_(router_balance(score_RTE, tokens_RE))
            z_R.copy_(router_z(sampled_tokens(output.logit_TE)))
            bias = _bias_of(module)
            if self._has_bias and bias is not None:
                bias_range_R.copy_(bias.amax(-1) - bias.amin(-1))

        return measure


def _bias_of(router: nn.Module) -> Tensor | None:
    for name in ("bias_E", "bias_HE"):
        bias = getattr(router, name, None)
        if isinstance(bias, Tensor):
            return bias
    return None
