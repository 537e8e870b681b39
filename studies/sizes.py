"""Models of a wanted size: a recipe, grown until so many parameters work on a token."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from ..platform.errors import MoescopeError
from ..platform.frozen import changed
from ..trainer.config import RunConfig
from ..trainer.counts.parameters import count_parameters

TOLERANCE = 0.01
"""Share by which a size may miss what was asked."""


def sized(config: RunConfig, active_params: float, grow: Literal["width", "hidden"]) -> RunConfig:
    """Returns the configuration with a size of its own.

    width: heads of the same width each, as many as come nearest; hidden widths, the routers', and
    the heads of latent experts go along. Then the hidden width of the experts (of the MLPs where
    there are none) takes up what is left: the count is linear in it. Raises MoescopeError, with the
    nearest size, where that does not come within 1%.
    """
    grown = [config]
    if grow == "width":
        grown = [_of_heads(config, heads) for heads in _heads_around(config, active_params)]
    fitted = [_with_hidden_for(one, active_params) for one in grown]
    met = [pair for pair in zip(grown, fitted, strict=True) if meets(pair[1], active_params)]
    if not met:
        nearest = min(fitted, key=lambda one: abs(count_parameters(one).active - active_params))
        raise MoescopeError(
            f"sizes.active_params {active_params:.4g} cannot be met within 1%: the nearest is "
            f"{count_parameters(nearest).active:.4g} (width {nearest.model.width}, "
            f"{nearest.model.layers} layers)"
        )
    # of two that meet the size the one whose proportions were bent less
    return min(met, key=lambda pair: abs(math.log(_hidden(pair[1]) / _hidden(pair[0]))))[1]


def meets(config: RunConfig, active_params: float) -> bool:
    """Whether a size is met within the tolerance."""
    return abs(count_parameters(config).active / active_params - 1) <= TOLERANCE


def _heads_around(config: RunConfig, active_params: float) -> tuple[int, int]:
    """Returns the most heads below the size and the fewest above: the count rises with them."""

    def is_below(heads: int) -> bool:
        return count_parameters(_of_heads(config, heads)).active < active_params

    high = 1
    while is_below(high):
        high *= 2
    low = max(1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low, high


def _of_heads(config: RunConfig, heads: int) -> RunConfig:
    m, e = config.model, config.moe
    share = heads / m.heads
    changes: dict[str, Any] = {
        "model.heads": heads,
        "model.width": heads * (m.width // m.heads),
        "moe.hidden": max(1, round(e.hidden * share)),
    }
    if m.kv_heads:
        # a group of queries shares a head of keys: of an odd number of heads all do
        groups = max(1, round(m.kv_heads * share))
        changes["model.kv_heads"] = next(g for g in range(groups, 0, -1) if heads % g == 0)
    if e.layer == "latent":
        changes["moe.latent_heads"] = max(1, round(e.latent_heads * share))
    if e.router == "mlp":
        changes["moe.router_hidden"] = max(1, round(e.router_hidden * share))
    return _changed(config, changes)


def _hidden(config: RunConfig) -> int:
    return config.moe.hidden if config.moe_blocks else config.mlp_hidden


def _with_hidden_for(config: RunConfig, active_params: float) -> RunConfig:
    hidden = _hidden(config)
    here = count_parameters(config).active
    more = count_parameters(_with_hidden(config, hidden + 1)).active
    wanted = hidden + round((active_params - here) / (more - here))
    return _with_hidden(config, max(1, wanted))


def _with_hidden(config: RunConfig, hidden: int) -> RunConfig:
    if config.moe_blocks:
        return _changed(config, {"moe.hidden": hidden})
    return _changed(config, {"model.mlp_ratio": hidden / config.model.width})


def _changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    try:
        return changed(config, changes)
    except MoescopeError as error:
        keys = ", ".join(f"{key} {value}" for key, value in changes.items())
        raise MoescopeError(f"no model of that size ({keys}): {error}") from None
