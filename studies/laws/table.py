"""A table of runs as columns of numbers, checked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...platform.errors import MoescopeError, did_you_mean
from .forms import Array

DERIVED = {
    "flops": ("params", "tokens"),
    "tokens_per_param": ("params", "tokens"),
    "density": ("sparsity",),
}
"""Columns that are made of others where a table lacks them."""


def read_columns(frame: Any, wanted: Sequence[str]) -> dict[str, Array]:
    """Returns columns by name; fp64, all of one length.

    frame: a DataFrame, or a mapping of names to arrays or numbers. flops is 6 params tokens and
    density 1 - sparsity where they are not given. Raises MoescopeError where a column is missing,
    holds what is no positive number, or has another length.
    """
    names = [str(name) for name in frame]
    found = {name: _column(frame, name, names) for name in wanted}
    lengths = {len(values) for values in found.values()} - {1}
    if len(lengths) > 1:
        told = ", ".join(f"{name} {len(values)}" for name, values in found.items())
        raise MoescopeError(f"the columns are of different lengths: {told}")
    num_runs = max(lengths, default=1)
    columns = {name: np.broadcast_to(values, num_runs) for name, values in found.items()}
    for name, values in columns.items():
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise MoescopeError(
                f"{name} of row {bad[0]} is {values[bad[0]]:g}, but must be a positive number"
            )
    return columns


def _column(frame: Any, name: str, names: list[str]) -> Array:
    if name in names:
        return _numbers(frame[name], name)
    if name == "flops" and {"params", "tokens"} <= set(names):
        return 6 * _numbers(frame["params"], "params") * _numbers(frame["tokens"], "tokens")
    if name == "tokens_per_param" and {"params", "tokens"} <= set(names):
        return _numbers(frame["tokens"], "tokens") / _numbers(frame["params"], "params")
    if name == "density" and "sparsity" in names:
        return 1 - _numbers(frame["sparsity"], "sparsity")
    made = f", nor {' and '.join(DERIVED[name])}" if name in DERIVED else ""
    raise MoescopeError(
        f"the table has no column {name}{made}{did_you_mean(name, names)}; it has "
        f"{', '.join(names[:12]) or 'none'}"
    )


def _numbers(values: Any, name: str) -> Array:
    try:
        return np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        raise MoescopeError(f"the column {name} holds what is no number") from None


def seeds_of(columns: Mapping[str, Array]) -> list[NDArray[np.intp]]:
    """Returns the rows of each set of runs that differ in nothing but their seed and loss."""
    names = [name for name in columns if name != "loss"]
    _, group_R = np.unique(
        np.stack([columns[name] for name in names], -1), axis=0, return_inverse=True
    )
    groups = [np.flatnonzero(group_R.reshape(-1) == group) for group in range(group_R.max() + 1)]
    return [rows for rows in groups if len(rows) > 1]
