"""Taps: forward hooks that measure activations and routers of one sampled step, on the device only.

L blocks  M routers' rows  R rows of one router (its heads)  T tokens  E experts  C columns
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..platform import catalogue
from .activation_signals import (
    kurtosis,
    mutual_information_nats,
    rms_and_absmax,
    router_balance,
    router_entropy_nats,
    router_margin,
    router_z,
    sampled_tokens,
    shape_of_tail,
)
from .collect import Packed
from .expert_signals import (
    avg_violation,
    effective_experts,
    expert_load,
    load_cv,
    load_entropy_nats,
    max_violation,
    min_violation,
)

Array = NDArray[np.float32]

_OF_ROUTER = (
    catalogue.ROUTER_ENTROPY_NATS,
    catalogue.MUTUAL_INFORMATION_NATS,
    catalogue.ROUTER_BALANCE,
    catalogue.ROUTER_Z,
    catalogue.ROUTER_MARGIN,
    catalogue.ROUTER_LOGIT_ABSMAX,
)
"""What each router's scores and logits give, in the order of their columns."""


class Taps:
    """Measures the output of each block and the answer of each router while `watching()`; hooks are
    absent otherwise.

        with taps.watching():        # only on sampled steps
            loss = model(...)
        taps.send()                  # one non-blocking copy
        ...                          # the next step is launched
        values = taps.read()         # catalogue signals of the sampled step, as host arrays; empty
        if none was sent

    blocks: modules that return a tensor, or a tuple that starts with one.
    routers: modules that return kernels' `Routing` or `ExpertChoice` (`score_TE`, `logit_TE`,
        `counts_E`); a `bias_E` or `bias_HE` buffer, where all have one, gives the bias range.
    num_rows: rows that each router has, its heads; one where it is left out.
    bounded: for each block its modules that clamp what goes into activations: while watched they
        add the numbers of clamped and of all elements to their `clamped_2`, a tensor (2,), which is
        None otherwise. Each block's share is a signal, where there is such a module at all.
    attentions: for each block its modules that bound their logits: while watched they raise their
        `logit_bound_1`, a tensor (1,), likewise. The largest of each block is a signal.
    mixtures: for each row the modules that add what shared and routed experts answer: while watched
        they add the squares of both to their `squares_2`, likewise. The root of their ratio is a
        signal.
    modality_tokens: how many tokens of each modality stand at the end of what a block returns, (B,
        S, D), in the catalogue's order; where there are several, each has its own RMS, absmax,
        ratio of both and kurtosis.
    is_one_network: whether the blocks follow each other, so that the stream can grow over them.
    readers: for each router what makes a value with those three fields out of (module, args,
        output), or None where there is nothing to read; left out, the output is one itself.
    is_counted: asked at each forward whether it is one of the training; left out, all are.
    on_fault: told when a hook fails, which is then passed over; left out, its error is raised.

    A block or router that did not run while it was watched has what it had when it last did, and
    zeros before: an expert by noise level that sat a step out is no news. What modules fill
    themselves is 0 then. Of several forwards in one `watching()` the last counts. Hooks do not fire
    in a graph that was compiled without them.
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
        mixtures: Sequence[Sequence[nn.Module]] = (),
        modality_tokens: Sequence[int] = (),
        is_one_network: bool = True,
        readers: Sequence[Callable[[nn.Module, Any, Any], Any]] = (),
        is_counted: Callable[[], bool] | None = None,
        on_fault: Callable[[str], None] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._blocks = list(blocks)
        self._routers = list(routers)
        self._bounded = [list(modules) for modules in bounded] if any(bounded) else []
        self._attentions = [list(modules) for modules in attentions] if any(attentions) else []
        self._mixtures = [list(modules) for modules in mixtures] if any(mixtures) else []
        self._is_one_network = is_one_network
        self._readers = list(readers)
        self._is_counted = is_counted
        self._on_fault = on_fault
        self._modality_tokens = list(modality_tokens) if len(modality_tokens) > 1 else []
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
                "tail_L2": (len(self._blocks), 2),
                "modality_LN3": (
                    len(self._blocks) if self._modality_tokens else 0,
                    len(self._modality_tokens),
                    3,
                ),
                "tokens_ME": (num_moe, num_experts),
                "router_MC": (num_moe, len(_OF_ROUTER)),
                "bias_range_M": (num_moe,),
                "squares_M2": (len(self._mixtures), 2),
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
            block.register_forward_hook(self._minded(self._block_hook(i)))
            for i, block in enumerate(self._blocks)
        ]
        if self._packed["bias_range_M"].numel():
            handles += [
                router.register_forward_hook(self._minded(self._router_hook(i)))
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

    def read(self) -> dict[str, Array]:
        """Returns the sampled tier of the step that was sent, under catalogue names; empty where
        nothing was sent."""
        host = self._packed.read()
        if not host:
            return {}
        return self._of_blocks(host) | self._of_routers(host)

    def _of_blocks(self, host: Mapping[str, Array]) -> dict[str, Array]:
        rms, absmax = host["activation_L2"].T
        tail, saturated = host["tail_L2"].T
        values = {
            catalogue.ACTIVATION_RMS: rms,
            catalogue.ACTIVATION_ABSMAX: absmax,
            catalogue.ACTIVATION_OUTLIER_RATIO: _ratio(absmax, rms),
            catalogue.ACTIVATION_KURTOSIS: tail,
            catalogue.ACTIVATION_SATURATED_SHARE: saturated,
        }
        if self._is_one_network and rms.size:
            growth = rms[-1] / rms[0] if rms[0] else 0.0
            values[catalogue.ACTIVATION_DEPTH_GROWTH] = np.asarray(growth, np.float32)
        if self._modality_tokens:
            rms_LN, absmax_LN, kurtosis_LN = np.moveaxis(host["modality_LN3"], -1, 0)
            values |= {
                catalogue.ACTIVATION_MODALITY_RMS: rms_LN,
                catalogue.ACTIVATION_MODALITY_ABSMAX: absmax_LN,
                catalogue.ACTIVATION_MODALITY_OUTLIER_RATIO: _ratio(absmax_LN, rms_LN),
                catalogue.ACTIVATION_MODALITY_KURTOSIS: kurtosis_LN,
            }
        if self._bounded:
            values[catalogue.ACTIVATION_CLAMPED_SHARE] = _ratio(*host["clamped_L2"].T)
        if self._attentions:
            values[catalogue.ATTENTION_LOGIT_BOUND] = host["logit_bound_L1"][:, 0]
        return values

    def _of_routers(self, host: Mapping[str, Array]) -> dict[str, Array]:
        tokens = host["tokens_ME"]
        if not tokens.size:
            return {}
        values = {
            **load_signals(tokens),
            **dict(zip(_OF_ROUTER, host["router_MC"].T, strict=True)),
        }
        if self._has_bias:
            values[catalogue.BIAS_RANGE] = host["bias_range_M"]
        if self._mixtures:
            values[catalogue.SHARED_TO_ROUTED] = np.sqrt(_ratio(*host["squares_M2"].T))
        return values

    def _fill_from_inside(self, is_on: bool) -> None:
        """Hands modules, or takes from them, the row that they write to themselves."""
        for name, modules_L, row_L in (
            ("clamped_2", self._bounded, self._packed["clamped_L2"]),
            ("logit_bound_1", self._attentions, self._packed["logit_bound_L1"]),
            ("squares_2", self._mixtures, self._packed["squares_M2"]),
        ):
            for modules, row in zip(modules_L, row_L, strict=True):
                if is_on:
                    row.zero_()
                for module in modules:
                    setattr(module, name, row if is_on else None)

    def _minded(self, hook: Any) -> Any:
        """The hook itself; where a training is somebody else's, one that costs it nothing but time,
        and that passes over forwards that do not count."""
        if self._is_counted is None and self._on_fault is None:
            return hook

        def measure(module: nn.Module, args: Any, output: Any) -> None:
            if self._is_counted is not None and not self._is_counted():
                return
            try:
                hook(module, args, output)
            except Exception as error:
                if self._on_fault is None:
                    raise
                self._on_fault(f"{type(module).__name__}: {type(error).__name__}: {error}")

        return measure

    def _block_hook(self, index: int) -> Any:
        place_2, tail_2 = self._packed["activation_L2"][index], self._packed["tail_L2"][index]
        parts = self._modality_tokens
        places = (
            [(row_3[:2], row_3[2]) for row_3 in self._packed["modality_LN3"][index]]
            if parts
            else []
        )

        @torch.no_grad()
        def measure(module: nn.Module, args: Any, output: Any) -> None:
            x = _stream_of(output)
            if x is None:
                return
            place_2.copy_(rms_and_absmax(x))
            tail_2.copy_(shape_of_tail(x))
            if parts:
                last_BSD = x[:, x.shape[1] - sum(parts) :]
                for (size_2, tail), part in zip(places, last_BSD.split(parts, dim=1), strict=True):
                    size_2.copy_(rms_and_absmax(part))
                    tail.copy_(kurtosis(part))

        return measure

    def _router_hook(self, index: int) -> Any:
        rows = slice(*self._row_ends[index : index + 2])
        tokens_RE = self._packed["tokens_ME"][rows]
        found_RC = self._packed["router_MC"][rows]
        bias_range_R = self._packed["bias_range_M"][rows]

        @torch.no_grad()
        def measure(module: nn.Module, args: Any, output: Any) -> None:
            if self._readers:
                output = self._readers[index](module, args, output)
                if output is None:
                    return
            tokens_RE.copy_(output.counts_E.view_as(tokens_RE))
            score_RTE, logit_RTE = map(sampled_tokens, (output.score_TE, output.logit_TE))
            columns = (
                router_entropy_nats(score_RTE),
                mutual_information_nats(score_RTE),
                router_balance(score_RTE, tokens_RE),
                router_z(logit_RTE),
            )
            both = torch.stack(columns, dim=-1)
            found_RC.copy_(torch.cat((both, router_margin(logit_RTE)), dim=-1))
            bias = _bias_of(module)
            if self._has_bias and bias is not None:
                bias_range_R.copy_(bias.amax(-1) - bias.amin(-1))

        return measure


def load_signals(tokens_ME: Array) -> dict[str, Array]:
    """What follows from how many tokens each expert got, under catalogue names."""
    return {
        catalogue.EXPERT_LOAD: expert_load(tokens_ME),
        catalogue.MAX_VIOLATION: max_violation(tokens_ME),
        catalogue.MIN_VIOLATION: min_violation(tokens_ME),
        catalogue.AVG_VIOLATION: avg_violation(tokens_ME),
        catalogue.LOAD_CV: load_cv(tokens_ME),
        catalogue.LOAD_ENTROPY_NATS: load_entropy_nats(tokens_ME),
        catalogue.EFFECTIVE_EXPERTS: effective_experts(tokens_ME),
    }


def _stream_of(output: Any) -> Tensor | None:
    """The hidden states among what a block returned: the tensor, or the first of a tuple, a list or
    a mapping."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    x = output[0] if isinstance(output, tuple | list) and output else output
    return x if isinstance(x, Tensor) and x.is_floating_point() and x.dim() else None


def _ratio(above: Array, below: Array) -> Array:
    """0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _bias_of(router: nn.Module) -> Tensor | None:
    for name in ("bias_E", "bias_HE"):
        bias = getattr(router, name, None)
        if isinstance(bias, Tensor):
            return bias
    return None
