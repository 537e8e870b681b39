"""Recipes: functions that return a configuration. A variant calls another one and changes it."""

from collections.abc import Callable, Mapping
from typing import Any

from ..platform.errors import MoescopeError, did_you_mean
from ..platform.frozen import changed
from .coherence import refuse_keys_without_effect
from .config import RunConfig


def tiny() -> RunConfig:
    """About three million parameters: learns on two CPU cores in a minute or two."""
    return RunConfig(recipe="tiny")


def tiny_dense() -> RunConfig:
    """`tiny` without experts, for comparison."""
    return changed(tiny(), {"recipe": "tiny_dense", "moe.num_experts": 0})


RECIPES: dict[str, Callable[[], RunConfig]] = {"tiny": tiny, "tiny_dense": tiny_dense}


def recipe(name: str, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Returns a recipe with dotted keys changed.

    Raises MoescopeError on unknown names and on keys without effect.
    """
    known = name.replace("-", "_")
    if known not in RECIPES:
        raise MoescopeError(
            f"unknown recipe {name}{did_you_mean(known, RECIPES)} (there are: {', '.join(RECIPES)})"
        )
    config = changed(RECIPES[known](), changes or {})
    refuse_keys_without_effect(config, changes or {})
    return config
