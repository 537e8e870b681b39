"""Values that are not numbers: they fire at once and enter no window."""

import numpy as np
from numpy.typing import NDArray


def non_finite_score(value: NDArray[np.generic]) -> float:
    """Share of the values that are NaN or infinite; 0 for an empty array. Anything above 0 is an
    alarm."""
    array = np.asarray(value, dtype=np.float64)
    return float(np.count_nonzero(~np.isfinite(array)) / array.size) if array.size else 0.0
