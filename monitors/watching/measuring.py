"""What a watched step measures: the step tier always, taps and weights on sampled steps; one packed
copy each, as in a run of our own.

B batch  M routers  E experts
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...platform import catalogue
from ...platform.catalogue import MODALITIES
from ..collect import Packed
from ..expert_signals import avg_violation, max_violation, min_violation
from ..since_sample import SinceSample
from ..step_record import Values
from ..taps import Taps, load_signals
from ..weight_taps import WeightTaps
from .answers import read_answer
from .find_blocks import FoundBlocks
from .find_routers import FoundRouter
from .loads import Loads

MOST_ALIKE = 2
"""Of a block's parameters of one shape so many are looked at: foreign experts are modules each."""
UNKNOWN_SIGMA = 0.5
"""The noise level of samples that have none: one curve for all of them."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Losses of a step's samples and their noise levels, (B,) each, on any device."""

    loss_B: Tensor
    sigma_B: Tensor | None


@dataclass
class Sent:
    """A step that is on its way to the host."""

    is_sampled: bool
    samples: Packed | None
    has_sigma: bool
    seen_ME: NDArray[np.int64]
    by_experts: list[bool]
    num_updates: int


class WatchMeasure:
    """Hooks on a model and its optimizers. Nothing here waits for the device but `read`.

    has_hooks: whether forward hooks fire at all, which they do not in a compiled model. tell: says
    what cannot be measured, once each.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        routers: Sequence[FoundRouter],
        blocks: FoundBlocks,
        device: torch.device,
        *,
        has_hooks: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._model = model
        self._optimizers = list(optimizers)
        self._device = device
        self._tell = tell
        self._told: set[str] = set()
        self._has_hooks = has_hooks
        self._routers = list(routers) if has_hooks else []
        self._loads = Loads(
            self._routers, device, is_counted=self._is_training, on_fault=self._fault
        )
        watched = blocks if has_hooks else FoundBlocks((), (), False)
        self._taps = Taps(
            watched.modules,
            [router.module for router in self._routers],
            num_experts=self._routers[0].num_experts if self._routers else 0,
            is_one_network=watched.is_one_stack,
            readers=[self._reader(m) for m in range(len(self._routers))],
            is_counted=self._is_training,
            on_fault=self._fault,
            device=device,
        )
        self._weight_taps = _weight_taps(optimizers, routers, blocks, device)
        layout: dict[str, tuple[int, ...]] = {
            catalogue.LOSS_TOTAL: (),
            catalogue.GRAD_NORM: (),
            catalogue.GUARD_HELD: (),
        }
        if self._routers:
            layout[catalogue.EXPERT_TOKENS] = (len(routers), routers[0].num_experts)
        self._step = Packed(layout, device)
        self._samples: dict[int, Packed] = {}
        self._since_sample = SinceSample(has_bias=False)
        self._sampling: ExitStack | None = None
        self._norm: Tensor | None = None
        self._num_updates = 0
        self._is_weighing = True
        self.is_norm_given = False
        """Whether the loop tells the gradient norm itself; then it is not computed here."""
        self._handles: list[Any] = []
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_update))
            self._handles.append(optimizer.register_step_post_hook(self._after_update))

    def begin(self, is_sampled: bool) -> None:
        """Prepares for the forwards of the next step; taps hang in the model only where it is
        sampled."""
        self._loads.begin()
        self._norm = None
        self._num_updates = 0
        if is_sampled:
            self._sampling = ExitStack()
            self._sampling.enter_context(self._taps.watching())

    def norm_now(self) -> Tensor:
        """The norm of all gradients as they are, 0-d on the device; kept as the step's."""
        self._norm = self._total_norm()
        return self._norm

    def take(
        self,
        loss: Tensor | float,
        grad_norm: Tensor | float | None,
        is_held: bool,
        samples: Samples | None,
    ) -> Sent:
        """Packs the step's measurements and starts their copy to the host."""
        packed = self._step
        packed[catalogue.LOSS_TOTAL].copy_(torch.as_tensor(loss).detach().reshape(()))
        norm = grad_norm if grad_norm is not None else self._norm
        self.is_norm_given = grad_norm is not None
        packed[catalogue.GRAD_NORM].copy_(torch.as_tensor(0.0 if norm is None else norm).detach())
        packed[catalogue.GUARD_HELD].fill_(float(is_held))
        counts_ME, seen_ME, by_experts = self._loads.take()
        if self._routers:
            packed[catalogue.EXPERT_TOKENS].copy_(counts_ME)
        packed.send()
        is_sampled = self._sampling is not None
        if self._sampling is not None:
            self._sampling.close()
            self._sampling = None
            self._taps.send()
            if self._num_updates and self._is_weighing:
                self._weight_taps.send()
        sent = self._send_samples(samples)
        has_sigma = samples is not None and samples.sigma_B is not None
        return Sent(is_sampled, sent, has_sigma, seen_ME, by_experts, self._num_updates)

    def read(self, sent: Sent) -> Values:
        """Returns the step that was taken, under catalogue names."""
        values = self._step.read()
        if self._routers:
            tokens = values[catalogue.EXPERT_TOKENS]
            for m, is_seen in enumerate(sent.by_experts):
                if is_seen:
                    tokens[m] = sent.seen_ME[m]
        if sent.samples is not None:
            values |= self._read_samples(sent.samples)
            if sent.has_sigma:
                self._since_sample.take(values)
        if sent.is_sampled:
            values |= self._read_sampled(values, sent)
        return values

    def forget(self) -> None:
        """Drops what belongs to a branch that is being abandoned."""
        self._step.drop()
        self._taps.drop()
        self._weight_taps.drop()
        for packed in self._samples.values():
            packed.drop()

    def close(self) -> None:
        """Takes every hook out of the model and the optimizers."""
        if self._sampling is not None:
            self._sampling.close()
            self._sampling = None
        self._loads.close()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _read_sampled(self, values: Values, sent: Sent) -> Values:
        found = self._taps.read()
        if self._routers:
            tokens = values[catalogue.EXPERT_TOKENS]
            # of the whole step, and of what the experts saw where they are modules
            found |= load_signals(tokens)
            found[catalogue.GLOBAL_MAX_VIOLATION] = max_violation(tokens)
            found[catalogue.GLOBAL_MIN_VIOLATION] = min_violation(tokens)
            found[catalogue.GLOBAL_AVG_VIOLATION] = avg_violation(tokens)
        if not found.get(catalogue.ACTIVATION_RMS, np.zeros(0)).any():
            if self._has_hooks:
                self._say_once(
                    "no forward in training mode was seen in a sampled step: activations are not "
                    "watched (is the model compiled, or in eval mode?)"
                )
            found = {}
        if sent.num_updates:
            found |= self._weight_taps.read()
        if sent.has_sigma:
            found |= self._since_sample.read()
        return found

    def _send_samples(self, samples: Samples | None) -> Packed | None:
        if samples is None:
            return None
        size = samples.loss_B.numel()
        if size not in self._samples:
            shape = (len(MODALITIES), size)
            layout = {catalogue.LOSS_PER_SAMPLE: shape, catalogue.LOSS_SIGMA: shape}
            self._samples[size] = Packed(layout, self._device)
        packed = self._samples[size]
        # one loss for each sample: the second modality is absent, which a loss of 0 says
        packed[catalogue.LOSS_PER_SAMPLE].zero_()[0].copy_(samples.loss_B.detach().reshape(-1))
        packed[catalogue.LOSS_SIGMA].fill_(UNKNOWN_SIGMA)
        if samples.sigma_B is not None:
            packed[catalogue.LOSS_SIGMA].copy_(samples.sigma_B.detach().reshape(1, -1))
        packed.send()
        return packed

    @staticmethod
    def _read_samples(packed: Packed) -> Values:
        return packed.read()

    def _before_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer is not self._optimizers[0]:
            return
        norm = None
        try:
            if self._is_weighing and self._sampling is not None and not self._num_updates:
                norm = self._weight_taps.before()
        except Exception as error:  # sparse gradients, weights of several devices
            self._weigh_no_more(error)
        try:
            if self._norm is None and not self.is_norm_given:
                self._norm = self._total_norm() if norm is None else norm
        except Exception as error:
            self._fault(f"gradients: {type(error).__name__}: {error}")

    def _after_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # with several optimizers the update is whole after the last one
        if optimizer is not self._optimizers[-1]:
            return
        try:
            if self._is_weighing and self._sampling is not None and not self._num_updates:
                self._weight_taps.after(torch.ones((), device=self._device))
        except Exception as error:
            self._weigh_no_more(error)
        self._num_updates += 1

    def _weigh_no_more(self, error: Exception) -> None:
        self._is_weighing = False
        self._weight_taps.drop()
        self._fault(f"updates of weights: {type(error).__name__}: {error}")

    @torch.no_grad()
    def _total_norm(self) -> Tensor:
        grads = [
            # entries of a sparse gradient that are given twice count as their sum
            p.grad.coalesce().values() if p.grad.is_sparse else p.grad
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        if not grads:
            return torch.zeros((), device=self._device)
        return torch.nn.utils.get_total_norm(grads).to(self._device)

    def _is_training(self) -> bool:
        if torch.compiler.is_compiling():
            # a graph that is made after `watch` must hold nothing of ours
            return False
        # a checkpointed block is computed again in the backward pass: that is no second forward
        return self._model.training and torch._C._current_graph_task_id() == -1

    def _reader(self, m: int) -> Callable[[nn.Module, Any, Any], Any]:
        router = self._routers[m]

        def read(module: nn.Module, args: Any, output: Any) -> Any:
            answer = read_answer(
                module,
                args,
                output,
                num_experts=router.num_experts,
                num_chosen=self._loads.num_chosen[m],
                scores=router.scores,
            )
            if answer is None:
                self._fault(f"{router.name}: its answer has no logits of {router.num_experts}")
            return answer

        return read

    def _fault(self, text: str) -> None:
        self._say_once(f"not measured: {text}")

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)


def _weight_taps(
    optimizers: Sequence[torch.optim.Optimizer],
    routers: Sequence[FoundRouter],
    blocks: FoundBlocks,
    device: torch.device,
) -> WeightTaps:
    """Of the parameters that the optimizers move: those of blocks, all others, and experts."""
    moved = {id(p): p for o in optimizers for group in o.param_groups for p in group["params"]}
    rows = [[p for p in block.parameters() if id(p) in moved] for block in blocks.modules]
    known = {id(p) for row in rows for p in row}
    rest = [p for key, p in moved.items() if key not in known]
    experts = [
        router.matrices[0]
        for router in routers
        if len(router.matrices) == 1 and id(router.matrices[0]) in moved
    ]
    if len(experts) < len(routers):
        # rows are routers: a row that is missing would move the others
        experts = []
    num_experts = routers[0].num_experts if routers and experts else 1
    return WeightTaps(rows, rest, device, experts, num_experts, MOST_ALIKE)
