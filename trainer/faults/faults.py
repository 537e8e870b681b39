"""The table of faults: what goes wrong, how it is planted, and which alerts ought to name it.

A fault acts from outside, at step boundaries, or through the configuration and the clips; nothing
that watches a run knows of it.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..model.make import watched_blocks
from ..moe.steps import moe_layers

if TYPE_CHECKING:
    from ..data.batches import Batch, Batches
    from ..loop import Trainer

Plant = Callable[["Trainer"], None]

LAYER, EXPERT, BLOCK = 0, 1, 1
"""Where faults of one expert, or of one block, are planted."""
SLEEP_TIMES = 5.0
"""How many steps' time a slow step waits in addition."""


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    about: str
    named_by: tuple[str, ...]
    """Rules any of which names it rightly; none: nothing need be seen."""
    within_steps: int
    """From the onset to the first of these alerts."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the configuration, from the start."""
    plant: Plant | None = None
    """Called at every step boundary from the onset on."""
    is_in_clips: bool = False
    """Whether a stretch of the clips is spoiled at the onset."""


def ten_times_the_rate(trainer: "Trainer") -> None:
    trainer.state.damp_scale, trainer.state.damp_until = 10.0, trainer.state.step + 1


@torch.no_grad()
def _round_router(trainer: "Trainer") -> None:
    for layer in moe_layers(trainer.state.model):
        for parameter in layer.router.parameters():
            parameter.copy_(parameter.half().float())


@torch.no_grad()
def favour(trainer: "Trainer") -> None:
    _bias(trainer)[EXPERT] = 10.0


@torch.no_grad()
def _starve(trainer: "Trainer") -> None:
    _bias(trainer)[EXPERT] = -10.0


class _Growing:
    """Makes what a block returns a tenth larger at every step."""

    def __init__(self) -> None:
        self._scale = 1.0

    def __call__(self, trainer: "Trainer") -> None:
        if self._scale == 1.0:
            block = watched_blocks(trainer.state.model)[BLOCK]
            block.register_forward_hook(lambda module, args, output: output * self._scale)
        self._scale *= 1.1


class _InBf16:
    """Keeps weights as bf16 would, rounded by every update, while the rate is what it is late in a
    training."""

    def __init__(self) -> None:
        self._is_planted = False

    def __call__(self, trainer: "Trainer") -> None:
        trainer.state.damp_scale, trainer.state.damp_until = 0.01, trainer.state.step + 1
        if not self._is_planted:
            self._is_planted = True
            parameters = list(trainer.state.model.parameters())
            _round(parameters)
            trainer.state.optimizer.register_step_post_hook(lambda *_: _round(parameters))


@torch.no_grad()
def _round(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.copy_(parameter.bfloat16().float())


class _Frozen:
    """Hides an expert from the optimizer: no gradient, no momentum, no weight decay."""

    def __init__(self) -> None:
        self._is_planted = False

    @torch.no_grad()
    def __call__(self, trainer: "Trainer") -> None:
        if self._is_planted:
            return
        self._is_planted = True
        weights_EDG = moe_layers(trainer.state.model)[LAYER].w_in_EDG
        weights_EDG.register_hook(_without_gradient)
        optimizer = trainer.state.optimizer
        for moment in optimizer.state[weights_EDG].values():
            if isinstance(moment, Tensor) and moment.shape == weights_EDG.shape:
                moment[EXPERT] = 0.0
        for group in optimizer.param_groups:
            if any(p is weights_EDG for p in group["params"]):
                group["weight_decay"] = 0.0


def _without_gradient(gradient_EDG: Tensor) -> Tensor:
    cut_EDG = gradient_EDG.clone()
    cut_EDG[EXPERT] = 0.0
    return cut_EDG


class _Slow:
    """Waits at every step, as for a device that throttles or a neighbour on the machine."""

    def __init__(self) -> None:
        self._wait_s = 0.0

    def __call__(self, trainer: "Trainer") -> None:
        if not self._wait_s:
            self._wait_s = SLEEP_TIMES * trainer.median_step_s()
            trainer.batches = cast("Batches", _Late(trainer.batches, self._wait_s))


class _Late:
    """The stream of batches, each of which comes late."""

    def __init__(self, batches: "Batches", wait_s: float) -> None:
        self._batches, self._wait_s = batches, wait_s

    def get(self, index: int) -> "Batch":
        time.sleep(self._wait_s)
        return self._batches.get(index)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def keep_in_bf16() -> Plant:
    """Returns a plant that keeps weights in bf16 at a small rate."""
    return _InBf16()


def no_number_once() -> Plant:
    """Returns a plant that makes one gradient of one step not a number."""
    has_happened = False

    def once(trainer: "Trainer") -> None:
        nonlocal has_happened
        if not has_happened:
            has_happened = True
            _no_number(trainer)

    return once


def _no_number(trainer: "Trainer") -> None:
    parameter = next(p for p in trainer.state.model.parameters() if p.requires_grad)
    handle: Any = None

    def spoil(gradient: Tensor) -> Tensor:
        handle.remove()
        return torch.full_like(gradient, float("nan"))

    handle = parameter.register_hook(spoil)


def _bias(trainer: "Trainer") -> Tensor:
    bias_E = moe_layers(trainer.state.model)[LAYER].router.bias_E
    assert isinstance(bias_E, Tensor), "the fault wants a router that balances by a bias"
    return bias_E


def faults() -> tuple[Fault, ...]:
    """Returns the table; each call gives faults that have not been planted yet."""
    return (
        Fault("none", "nothing: what is raised here is false", (), 0),
        Fault(
            "learning_rate",
            "the learning rate is ten times what it was",
            ("update_ratio_rise", "loss_spike", "gradient_spike", "activation_rise"),
            60,
            plant=ten_times_the_rate,
        ),
        Fault(
            "beta2",
            "AdamW's second moment remembers a thousand steps (beta2 0.999)",
            (),
            0,
            changes={"optim.beta2": 0.999},
        ),
        Fault(
            "rounded_router",
            "the routers' weights are rounded to fp16 after every step",
            (),
            0,
            plant=_round_router,
        ),
        Fault(
            "poisoned_clips",
            "a stretch of the clips decodes, and shows something else than its captions say",
            ("loss_spike",),
            20,
            is_in_clips=True,
        ),
        Fault(
            "monopoly",
            "the bias of one expert is so high that every token chooses it",
            ("expert_monopoly", "layer_deadlock"),
            170,
            # a second chosen expert would share the work with whomever
            changes={"moe.num_chosen": 1},
            plant=favour,
        ),
        Fault(
            "dead_expert",
            "the bias of one expert is so low that no token chooses it",
            ("dead_experts",),
            80,
            plant=_starve,
        ),
        Fault(
            "frozen_expert",
            "the optimizer does not reach one expert",
            ("frozen_experts",),
            50,
            plant=_Frozen(),
        ),
        Fault(
            "growing_block",
            "what one block returns is a tenth larger at every step",
            ("activation_rise", "activation_outliers", "loss_spike", "gradient_spike"),
            80,
            plant=_Growing(),
        ),
        Fault(
            "lost_updates",
            "weights are kept in bf16 while the rate is small",
            ("lost_updates",),
            60,
            plant=_InBf16(),
        ),
        Fault(
            "not_a_number",
            "gradients are not a number",
            ("non_finite_gradient", "non_finite_lasting"),
            5,
            plant=_no_number,
        ),
        Fault(
            "slow_steps",
            "every step waits five steps' time for its batch",
            ("slow_steps",),
            60,
            plant=_Slow(),
        ),
    )
