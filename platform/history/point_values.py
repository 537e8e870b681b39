"""Values of points as the store holds them, and whether it has them already."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..catalogue import signal_spec

Value = np.float32 | NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)


def is_too_large(given: Any) -> bool:
    """Whether a finite number becomes infinite in the store."""
    return isinstance(given, float | int) and _LARGEST < abs(given) < math.inf


def as_value(signal: str, given: Any) -> Value:
    """A number, or the nested lists of a vector, as float32; of more than two dimensions the
    further ones are one, as the store keeps and exports them."""
    if isinstance(given, float):
        return np.float32(math.copysign(math.inf, given) if is_too_large(given) else given)
    with np.errstate(over="ignore"):
        value = np.asarray(given, np.float32)
    num_dimensions = len(signal_spec(signal).dimensions)
    if value.ndim == 2 and num_dimensions > 2:
        value = value.reshape(len(value), *(1,) * (num_dimensions - 2), -1)
    return value


def is_same(there: Value | None, value: Value) -> bool:
    """Whether the store's value is this one, bit for bit; any NaN is like another."""
    if there is None:
        return False
    if isinstance(value, np.float32):
        return bool(there == value or (np.isnan(there) and np.isnan(value)))
    if value.ndim > 2:
        value = value.reshape(len(value), -1)
    if there.ndim != value.ndim or any(map(int.__lt__, there.shape, value.shape)):
        return False
    # vectors that are read together are filled up to the longest
    part = np.asarray(there)[tuple(map(slice, value.shape))]
    num_more = int(np.isfinite(there).sum() - np.isfinite(part).sum())
    return num_more == 0 and np.array_equal(part, value, equal_nan=True)
