"""Planted causes of every kind of verdict, for the score of the autopsy: what is planted is known
here, and nowhere in what judges it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..model.make import watched_blocks
from ..moe.steps import moe_layers
from .faults import BLOCK, Plant, favour, keep_in_bf16, no_number_once, ten_times_the_rate

if TYPE_CHECKING:
    from ..loop import Trainer

SHORT_STEPS = 4
"""Steps for which a one-off corruption lasts: long enough for a rule that wants three of five."""


@dataclass(frozen=True, slots=True)
class PlantedCause:
    name: str
    about: str
    verdict: frozenset[str]
    """The causes that an autopsy ought to name; empty: no cause."""
    named_by: tuple[str, ...]
    """Rules whose alert is examined: the first of them from the onset on."""
    within_steps: int
    plants: tuple[Callable[[], Plant], ...] = ()
    """Each makes a plant of its own for a run, called at every step boundary from the onset on."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    is_in_clips: bool = False
    has_hair_trigger: bool = False
    """Whether a rule is set that chance alone sets off."""


class _SpoiledMoments:
    """Once divides AdamW's second moments by a million: as a bad restore, or memory that failed."""

    def __init__(self) -> None:
        self._is_done = False

    @torch.no_grad()
    def __call__(self, trainer: "Trainer") -> None:
        if self._is_done:
            return
        self._is_done = True
        for moments in trainer.state.optimizer.state.values():
            moments["exp_avg_sq"].mul_(1e-6)


class ForSomeSteps:
    """Spoils something by a hook for a few steps, as a failing device would."""

    def __init__(self, hook_up: Callable[["Trainer", torch.Generator], Any]) -> None:
        self._hook_up = hook_up
        self._left = SHORT_STEPS
        self._handle: Any = None

    def __call__(self, trainer: "Trainer") -> None:
        if self._handle is None:
            self._handle = self._hook_up(trainer, torch.Generator().manual_seed(0))
        elif self._left == 0:
            self.end()
        self._left = max(-1, self._left - 1)

    def end(self) -> None:
        if self._handle is not None:
            self._handle.remove()


def spoil_answers(trainer: "Trainer", chance: torch.Generator) -> Any:
    """Mixes noise into what the network's last layer returns."""
    last = [m for m in trainer.state.model.modules() if isinstance(m, nn.Linear)][-1]

    def spoil(module: object, args: object, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=chance)
        return output + 2.0 * noise.to(output)

    return last.register_forward_hook(spoil)


def _spoil_gradients(trainer: "Trainer", chance: torch.Generator) -> Any:
    """Mixes noise into the gradient of one block's largest matrix."""
    block = watched_blocks(trainer.state.model)[BLOCK]
    largest = max(block.parameters(), key=lambda p: p.numel())

    def spoil(gradient: Tensor) -> Tensor:
        noise = torch.randn(gradient.shape, generator=chance).to(gradient)
        return gradient + 0.05 * noise

    return largest.register_hook(spoil)


class _CommonLogits:
    """Once adds the same vector to the row of every expert of the routers. A softmax does not see
    it: every logit of a token goes up alike. Logits in bf16 do: their steps become coarse."""

    def __init__(self) -> None:
        self._is_done = False

    @torch.no_grad()
    def __call__(self, trainer: "Trainer") -> None:
        if self._is_done:
            return
        self._is_done = True
        for layer in moe_layers(trainer.state.model):
            weight_ED = layer.router.weight_ED
            assert isinstance(weight_ED, Tensor)
            chance = torch.Generator().manual_seed(0)
            common_D = torch.randn(weight_ED.shape[1], generator=chance)
            weight_ED.add_(400.0 * common_D.to(weight_ED))


def _rate() -> Plant:
    return ten_times_the_rate


def causes() -> tuple[PlantedCause, ...]:
    """Returns the table."""
    loss = ("loss_spike",)
    of_rate = ("update_ratio_rise", "loss_spike", "gradient_spike", "activation_rise")
    return (
        PlantedCause(
            "poisoned_clips",
            "a stretch of the clips decodes, and shows something else than its captions say",
            frozenset({"data"}),
            loss,
            20,
            is_in_clips=True,
        ),
        PlantedCause(
            "learning_rate",
            "the learning rate is ten times what it was",
            frozenset({"state"}),
            of_rate,
            60,
            (_rate,),
        ),
        PlantedCause(
            "spoiled_moments",
            "AdamW's second moments are divided by a million, once",
            frozenset({"state"}),
            of_rate,
            20,
            (_SpoiledMoments,),
        ),
        PlantedCause(
            "monopoly",
            "the bias of one expert is so high that every token chooses it",
            frozenset({"state"}),
            ("expert_monopoly", "layer_deadlock"),
            170,
            (lambda: favour,),
            # a second chosen expert would share the work with whomever
            {"moe.num_chosen": 1},
        ),
        PlantedCause(
            "bf16_router",
            "the routers compute in bf16, and their logits have drifted to where it is coarse",
            frozenset({"precision"}),
            ("routing_flips", "loss_spike", "expert_monopoly", "layer_deadlock", "dead_experts"),
            170,
            (_CommonLogits,),
            {
                "compute.precision": "bf16",
                "compute.has_exact_router": False,
                "moe.router": "softmax",
                "moe.bias_update_speed": 0.0,
                "moe.balance_weight": 0.1,
                "watch.probe_every": 20,
            },
        ),
        PlantedCause(
            "noisy_answers",
            f"for {SHORT_STEPS} steps noise is mixed into what the last layer returns",
            frozenset({"not_reproducible"}),
            ("loss_spike", "gradient_spike"),
            12,
            (lambda: ForSomeSteps(spoil_answers),),
        ),
        PlantedCause(
            "noisy_gradients",
            f"for {SHORT_STEPS} steps noise is mixed into the gradient of one block",
            frozenset({"not_reproducible"}),
            ("loss_spike", "gradient_spike"),
            12,
            (lambda: ForSomeSteps(_spoil_gradients),),
        ),
        PlantedCause(
            "no_number_once",
            "one gradient is not a number, once",
            frozenset({"not_reproducible"}),
            ("non_finite_gradient",),
            5,
            (no_number_once,),
        ),
        # the last of its family, as its hook stays in the optimizer
        PlantedCause(
            "bf16_weights",
            "weights are kept in bf16 while the rate is small",
            frozenset({"precision"}),
            ("lost_updates",),
            60,
            (keep_in_bf16,),
        ),
        PlantedCause(
            "clips_and_rate",
            "poisoned clips at ten times the learning rate",
            frozenset({"data", "state"}),
            of_rate,
            20,
            (_rate,),
            is_in_clips=True,
        ),
        PlantedCause(
            "clips_and_moments",
            "poisoned clips, and the second moments divided by a million",
            frozenset({"data", "state"}),
            of_rate,
            20,
            (_SpoiledMoments,),
            is_in_clips=True,
        ),
        PlantedCause(
            "false_alarm",
            "nothing; a rule is so tight that chance sets it off",
            frozenset(),
            ("hair_trigger",),
            170,
            has_hair_trigger=True,
        ),
    )
