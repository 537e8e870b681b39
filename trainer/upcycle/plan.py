"""What `moescope upcycle` asks for, and the configuration that follows from it.

No torch here: a mistake is told before anything heavy is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...platform.errors import MoescopeError
from ...platform.frozen import changed
from ..config import RunConfig
from ..without_effect import refuse_keys_without_effect

SHARED_NOISE = 1e-4
"""Source: facts: model.md section 10 (arXiv 2605.19378)."""
OPTIONS = {
    "moe.num_experts": "--experts",
    "moe.num_chosen": "--chosen",
    "moe.num_shared": "--shared",
    "moe.every": "--every",
}
"""Options that stand for a key."""


@dataclass(frozen=True, slots=True)
class UpcyclePlan:
    """How the experts are made out of the dense MLP. Raises MoescopeError where an option does
    nothing beside the others."""

    num_experts: int
    num_chosen: int = 2
    num_shared: int = 1
    every: int | None = None
    """As moe.every; None: as the dense run has it."""
    shared_from: str = "noise"
    """noise: the shared expert starts at next to nothing. dense: it is the dense MLP, too."""
    noise: float | None = None
    """Standard deviation of the shared expert's weights; None: SHARED_NOISE."""
    drop_share: float = 0.0
    """Share of each expert's hidden channels that is drawn anew; 0: clones."""

    def __post_init__(self) -> None:
        if self.shared_from not in ("noise", "dense"):
            raise MoescopeError(f"--shared-from is {self.shared_from}: use noise or dense")
        if self.shared_from == "dense" and self.num_shared != 1:
            raise MoescopeError(
                f"--shared is {self.num_shared}, but one expert is as wide as the dense MLP: "
                "with --shared-from dense use --shared 1"
            )
        if self.noise is not None and self.shared_from == "dense":
            raise MoescopeError("--noise has no effect: the shared expert is the dense MLP")
        if self.noise is not None and not self.num_shared:
            raise MoescopeError("--noise has no effect: --shared is 0")
        if self.noise is not None and not 0 < self.noise <= 1:
            raise MoescopeError(
                f"--noise is {self.noise}, but it must be above 0 and at most 1: a shared expert "
                "of zeros has no gradient"
            )
        if not 0 <= self.drop_share <= 1:
            raise MoescopeError(f"--drop-share is {self.drop_share}, but a share is from 0 to 1")

    @property
    def shared_noise(self) -> float:
        return SHARED_NOISE if self.noise is None else self.noise


def upcycled_config(
    dense: RunConfig, plan: UpcyclePlan, asked: Mapping[str, Any], run_name: str
) -> RunConfig:
    """Returns the configuration of the same network with experts: those that the dense MLP fits,
    weighted so that they add up to it.

    asked: {dotted key: value} of what else is to change. Raises MoescopeError where the run has
    experts already and where a key would make another network of it.
    """
    if dense.moe.num_experts:
        raise MoescopeError(
            f"run {run_name} has experts already (moe.num_experts is {dense.moe.num_experts}): "
            "upcycling wants a run that was trained dense"
        )
    if asked.get("moe.layer") == "latent":
        raise MoescopeError(
            "Multi-Head LatentMoE cannot be upcycled: its experts work on parts of a token, and "
            "the dense MLP fits none of them"
        )
    router = asked.get("moe.router", dense.moe.router)
    if changed(dense.moe, {"router": router}).experts_choose:
        raise MoescopeError(
            f"moe.router is {router}, but there experts choose their tokens, whose weights do not "
            "add up to 1, so that the dense answer would be lost: with --set moe.router=... use "
            "sigmoid, softmax, mlp or cross_attention"
        )
    given = {
        "moe.num_experts": plan.num_experts,
        "moe.num_chosen": plan.num_chosen,
        "moe.num_shared": plan.num_shared,
        "moe.every": dense.moe.every if plan.every is None else plan.every,
    }
    laws = {
        "moe.layer": "routed",
        "moe.hidden": dense.mlp_hidden,
        "moe.expert": dense.model.mlp,
        "moe.has_expert_bias": True,
        "moe.is_normalised": True,
        "moe.routed_scale": 1.0,
    }
    for key, value in asked.items():
        if key in given:
            raise MoescopeError(f"{key} is given by an option: use {OPTIONS[key]}, not --set")
        if key in laws and value != laws[key]:
            raise MoescopeError(
                f"{key} is {value}, but upcycled experts are the dense MLP with weights that add "
                f"up to 1: it is {laws[key]}"
            )
        if key.startswith(("model.", "noise_experts.")) or key == "objective.prediction":
            raise MoescopeError(f"{key} cannot change: upcycling keeps the network as it is")
    config = changed(dense, {**asked, **given, **laws})
    refuse_keys_without_effect(config, asked)
    return config
