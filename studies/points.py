"""From a study to its points: every combination of size, axes, ablation, budget and seed, each as a
configuration."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..platform.errors import MoescopeError
from ..platform.frozen import changed, leaves
from ..trainer.config import RunConfig
from ..trainer.counts.flops import count_flops
from ..trainer.counts.parameters import count_parameters
from ..trainer.recipes.by_name import recipe
from ..trainer.without_effect import refuse_keys_without_effect
from .sizes import meets, sized
from .spec import PowerRule, StudySpec

Rate = Mapping[int, float]
"""{active parameters: training FLOPs per second}, as calibrated."""


@dataclass(frozen=True, slots=True)
class Point:
    """A trial's place in the study, and what it is to run."""

    coordinates: Mapping[str, Any]
    """{axis, size, budget or seed: value}, of those that the study varies or names."""
    config: RunConfig


def points(spec: StudySpec, rate: Rate) -> Iterator[Point]:
    """Yields the study's points in the order of its file.

    Raises MoescopeError on a key that is not there or has no effect, a size that cannot be met, a
    budget that is less than a step, and hours where nothing was calibrated.
    """
    for size, shape in shapes(spec):
        for budget, seed in itertools.product(spec.budget.values, spec.seeds):
            coordinates = {**size, spec.budget.unit: budget, "seed": seed}
            try:
                config = changed(_with_budget(shape, spec, budget, rate), {"seed": seed})
            except MoescopeError as error:
                raise MoescopeError(f"{_words(coordinates)}: {error}") from None
            yield Point(coordinates, config)


def shapes(spec: StudySpec) -> Iterator[tuple[dict[str, Any], RunConfig]]:
    """Yields (coordinates, configuration) of each combination of size, axes and ablation, before
    budget and seed."""
    names = spec.sizes.recipes if spec.sizes else ()
    wanted = spec.sizes.active_params if spec.sizes else ()
    ablations: dict[str, dict[str, Any]] = {"base": {}, **spec.ablations}
    if "base" in spec.ablations:
        raise MoescopeError("an ablation is called base, as is what it is compared with: rename it")
    if not spec.ablations:
        ablations = {"": {}}
    for name, params, ablation in itertools.product(names or ("",), wanted or (0.0,), ablations):
        for values in itertools.product(*spec.axes.values()):
            axes = dict(zip(spec.axes, values, strict=True))
            coordinates = {
                **({"recipe": name} if name else {}),
                **({"active_params": params} if params else {}),
                **({"ablation": ablation} if ablation else {}),
                **axes,
            }
            yield coordinates, _shape(spec, name, params, {**axes, **ablations[ablation]})


def _shape(spec: StudySpec, name: str, params: float, asked: dict[str, Any]) -> RunConfig:
    base = recipe(name or spec.recipe)
    changes = {"data.folder": spec.data, "project": spec.name, **spec.changes, **asked}
    try:
        config = changed(base, changes)
        refuse_keys_without_effect(config, changes)
        if params:
            assert spec.sizes is not None
            config = sized(config, params, spec.sizes.grow)
        followed = _followed(config, spec)
        config = changed(config, followed)
        refuse_keys_without_effect(config, followed)
    except MoescopeError as error:
        where = f"{_words({'recipe': name or spec.recipe, **asked})}: "
        raise MoescopeError(f"{where}{error}") from None
    if params and not meets(config, params):
        raise MoescopeError(
            f"follow changes the size from {params:.4g} to {count_parameters(config).active:.4g} "
            "active parameters: give sizes by recipe, or let nothing follow that has a size"
        )
    return config


def _followed(config: RunConfig, spec: StudySpec) -> dict[str, Any]:
    """Returns the values of the keys that follow others, first those that are followed."""
    known = dict(leaves(config))
    values: dict[str, Any] = {}

    def value_of(key: str) -> Any:
        if key not in spec.follow:
            return known.get(key)
        if key not in values:
            rule = spec.follow[key]
            source = value_of(rule.of)
            if isinstance(source, bool) or not isinstance(source, int | float):
                raise MoescopeError(f"follow.{key}.of is {rule.of}, which is no number")
            value = source * rule.times
            values[key] = round(value) if isinstance(known.get(key), int) else value
        return values[key]

    for key in spec.follow:
        value_of(key)
    return values


def _with_budget(config: RunConfig, spec: StudySpec, budget: float, rate: Rate) -> RunConfig:
    """Returns the configuration with steps, learning rate, batch, warm-up and decay of a budget."""
    params = count_parameters(config).active
    flops_per_token = count_flops(config).training / config.tokens_per_sample
    tokens = {
        "tokens": lambda: budget,
        "tokens_per_param": lambda: budget * params,
        "flops": lambda: budget / flops_per_token,
        "hours": lambda: budget * 3600 * flops_per_s(rate, params) / flops_per_token,
    }[spec.budget.unit]()
    batch = max(1, round(_ruled(config.data.batch, spec.batch, params, tokens)))
    steps = round(tokens / (config.tokens_per_sample * batch))
    if steps < 1:
        raise MoescopeError(
            f"budget.{spec.budget.unit} {budget:.4g} is {tokens:.3g} tokens, less than a step of "
            f"{config.tokens_per_sample * batch:,}: give more"
        )
    rate_now = _ruled(config.optim.learning_rate, spec.learning_rate, params, tokens)
    changes: dict[str, Any] = {"data.batch": batch, "optim.learning_rate": rate_now, "steps": steps}
    if spec.warmup_share is not None:
        changes["optim.warmup_steps"] = max(1, round(spec.warmup_share * steps))
    if config.optim.schedule == "wsd":
        changes["optim.decay_steps"] = max(1, round(spec.decay_share * steps))
    elif spec.has_branches:
        raise MoescopeError(
            f"has_branches needs optim.schedule wsd, not {config.optim.schedule}: set it in changes"
        )
    return changed(config, changes)


def _ruled(value: float, rule: Any, params: float, tokens: float) -> float:
    return value * rule.scale(params, tokens) if isinstance(rule, PowerRule) else value


def flops_per_s(rate: Rate, params: int) -> float:
    """Returns the training FLOP/s that a size was calibrated at, between two sizes by the line
    through their logs. Raises MoescopeError where nothing was."""
    import numpy as np

    if not rate:
        raise MoescopeError("hours need a calibration: leave --no-calibration out, and give data")
    sizes = sorted(rate)
    logs = np.interp(np.log(params), np.log(sizes), np.log([rate[size] for size in sizes]))
    return float(np.exp(logs))


def _words(coordinates: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in coordinates.items())
