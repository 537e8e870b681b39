"""Configurations side by side: every key with its dotted path, and those that differ."""

from collections.abc import Mapping
from typing import Any

ABSENT = "-"
"""What a run has whose configuration does not know the key."""


def flattened(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Returns {dotted path: value as text}, lists as one value.

    >>> flattened({"optim": {"learning_rate": 0.001}, "steps": 5})
    {'optim.learning_rate': '0.001', 'steps': '5'}
    """
    found: dict[str, str] = {}
    for name, value in config.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping) and value:
            found |= flattened(value, path)
        else:
            found[path] = "none" if value is None else str(value)
    return found


def differing(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Returns {path: {run: value}} of the paths whose values are not the same in all runs."""
    flat = {run: flattened(config) for run, config in configs.items()}
    paths = list(dict.fromkeys(path for found in flat.values() for path in found))
    rows = {path: {run: found.get(path, ABSENT) for run, found in flat.items()} for path in paths}
    return {path: row for path, row in rows.items() if len(set(row.values())) > 1}
