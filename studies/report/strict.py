"""Answers as JSON that any program reads: no NaN, no tuples with names, no numpy."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def strict(value: Any) -> Any:
    """Returns nested plain values; what is no finite number becomes None."""
    if hasattr(value, "_asdict"):
        return strict(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: strict(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [strict(inner) for inner in value]
    if isinstance(value, np.generic | np.ndarray):
        return strict(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
