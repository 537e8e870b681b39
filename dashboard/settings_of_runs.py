"""Pure: what runs were asked to do, key by key, and which are the same but for their seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..platform.history.points import flat
from ..platform.records import DamagedConfig, Run
from .configurations import ABSENT, differing

DAMAGED = "(cannot be read)"
_SEEDS = frozenset({"seed", "random_seed", "rng_seed", "manual_seed"})
_MOST_TOLD = 4
"""Keys that a group's name has; the rest is in the table of differences."""
_LOG_FROM = 8.0
_PARAMS = "imported/params/"
"""Where an imported run keeps what its source said of it."""

Configs = Mapping[str, Mapping[str, Any]]
"""{run id: {dotted key: value}}"""


def flat_config(run: Run) -> dict[str, Any]:
    """Returns {dotted key: value} of a run's configuration, and on what it ran with which program.

    Of an imported run the parameters, under the names that its source has.
    """
    values = dict(flat(run.config))
    if "imported" in run.config:
        values = {
            key.removeprefix(_PARAMS): value
            for key, value in values.items()
            if key.startswith(_PARAMS)
        }
    found = {key.replace("/", "."): value for key, value in values.items()}
    if isinstance(run.config, DamagedConfig):
        found["(configuration)"] = DAMAGED
    return found | {"(device)": run.device, "(program)": run.code_version}


def text_of(value: Any) -> str:
    """Says a value as `configurations.flattened` does, on one line."""
    return "none" if value is None else " ".join(str(value).split())


def is_seed(key: str) -> bool:
    return key.rpartition(".")[2].lower() in _SEEDS


def by_key(configs: Configs, key: str) -> dict[str, list[str]]:
    """Returns {value of the key, in words: ids of the runs that have it}, in order of the runs."""
    groups: dict[str, list[str]] = {}
    for run_id, config in configs.items():
        value = text_of(config[key]) if key in config else ABSENT
        groups.setdefault(f"{key} = {value}", []).append(run_id)
    return groups


def by_all_but_the_seed(configs: Configs) -> dict[str, list[str]]:
    """Returns {what tells a group from the others: ids of runs that differ in their seed only}."""
    telling = [key for key in differing(configs) if not is_seed(key)]
    groups: dict[tuple[str, ...], list[str]] = {}
    for run_id, config in configs.items():
        said = tuple(f"{k} = {text_of(config[k]) if k in config else ABSENT}" for k in telling)
        groups.setdefault(said, []).append(run_id)
    named: dict[str, list[str]] = {}
    for said, run_ids in groups.items():
        name = ", ".join(said[:_MOST_TOLD]) + (", …" if len(said) > _MOST_TOLD else "")
        name = name or "the same but for the seed"
        named[name if name not in named else f"{name} ({len(named) + 1})"] = run_ids
    return named


def numbers_of(values: Sequence[Any]) -> list[float] | None:
    """Returns the values as numbers; None where one is none. True and False are words."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return None
    return [float(value) for value in values]


def wants_log(values: Sequence[float]) -> bool:
    """Says whether numbers lie so far apart that an axis of theirs should be logarithmic."""
    return min(values) > 0 and max(values) / min(values) >= _LOG_FROM
