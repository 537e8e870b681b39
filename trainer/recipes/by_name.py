"""Recipes: functions that return a configuration, each in the file of its family. A variant calls
another one and changes it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ...platform.errors import MoescopeError, did_you_mean
from ...platform.frozen import changed
from ..config import RunConfig
from ..without_effect import refuse_keys_without_effect
from . import class_dit, noise_experts, stream, wan

_OF_STREAM = (
    stream.tiny,
    stream.tiny_dense,
    stream.video_moe_tiny,
    stream.video_moe_s,
    stream.video_moe_b,
    stream.video_moe_l,
    stream.video_moe_3b,
    stream.latent_moe_tiny,
    stream.latent_moe_s,
    stream.latent_moe_b,
)

_OF_CLASS = (
    class_dit.dsmoe_tiny,
    class_dit.dsmoe_s_e16,
    class_dit.dsmoe_s_e48,
    class_dit.dsmoe_b_e16,
    class_dit.dsmoe_b_e48,
    class_dit.dsmoe_l_e16,
    class_dit.dsmoe_l_e48,
    class_dit.dsmoe_3b_e16,
    class_dit.jitmoe_tiny,
    class_dit.jitmoe_b16_e16,
    class_dit.jitmoe_l16_e16,
)

_OF_WAN = (
    wan.wan_tiny,
    wan.wan_token_moe_tiny,
    wan.wan_token_moe,
    wan.wan_5b,
    wan.wan_14b,
)

_BY_NOISE_LEVEL = (
    noise_experts.noise_experts_tiny,
    noise_experts.wan22_two_expert_tiny,
    noise_experts.wan22_two_expert,
    noise_experts.wan22_shared,
)

RECIPES: dict[str, Callable[[], RunConfig]] = {
    function.__name__: function
    for function in (*_OF_STREAM, *_OF_CLASS, *_OF_WAN, *_BY_NOISE_LEVEL)
}


def recipe(name: str, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Returns a recipe with dotted keys changed.

    Raises MoescopeError on unknown names and on keys without effect.
    """
    known = name.replace("-", "_")
    if known not in RECIPES:
        hint = did_you_mean(known, RECIPES) or f" (there are: {', '.join(RECIPES)})"
        raise MoescopeError(f"unknown recipe {name}{hint}")
    config = changed(RECIPES[known](), changes or {})
    refuse_keys_without_effect(config, changes or {})
    return config
