"""Pure: what runs came to, as tables: one by one, and over those that differ in their seed only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..platform.records import Bands, Run
from .words import number

TAIL_SHARE = 0.05
"""Of a run's steps: the last ones, whose mean says what it came to without the noise of one."""


@dataclass(frozen=True, slots=True)
class Final:
    """What one run came to in one signal; None where it has not measured it."""

    run: Run
    label: str
    last: float | None
    low: float | None
    """Lowest finite value of what counts, and its step."""
    low_step: int | None
    tail: float | None
    """Mean of the last 5% of the steps."""
    num_steps: int
    tokens: float | None
    flops: float | None
    hours: float


def tail_range(first: int, last: int) -> tuple[int, int]:
    """Returns the last 5% of the steps, at least one; both included."""
    num_tail = max(1, math.ceil(TAIL_SHARE * (last - first + 1)))
    return last - num_tail + 1, last


def mean_of(bands: Bands) -> float | None:
    """Returns the mean of all finite values of a scalar; None where there are none."""
    finite = bands.num_finite.sum()
    if not finite:
        return None
    sums = np.where(bands.num_finite > 0, bands.mean, 0).astype(np.float64) * bands.num_finite
    return float(sums.sum() / finite)


def lowest_bucket(bands: Bands) -> tuple[int, int] | None:
    """Returns first and last step of the bucket with the lowest finite value; None without one."""
    if not np.isfinite(bands.low).any():
        return None
    step = int(bands.steps[int(np.argmin(bands.low[:, 0]))])
    return step, step + bands.width - 1


def finals_table(finals: Sequence[Final]) -> pd.DataFrame:
    """One row for each run."""
    return pd.DataFrame(
        [
            {
                "run": final.label,
                "last": final.last,
                "lowest": final.low,
                "at step": final.low_step,
                "mean of the last 5%": final.tail,
                "steps": final.num_steps,
                "tokens": final.tokens,
                "FLOPs": final.flops,
                "hours": final.hours,
                "status": final.run.status,
                "page": f"run?run={final.run.id}",
            }
            for final in finals
        ]
    )


def finals_over_seeds(groups: Mapping[str, Sequence[Final]]) -> pd.DataFrame:
    """One row for each group of runs: mean ± standard deviation over its runs."""
    return pd.DataFrame(
        [
            {
                "runs": name,
                "n": len(finals),
                "last": mean_and_spread([final.last for final in finals]),
                "lowest": mean_and_spread([final.low for final in finals]),
                "mean of the last 5%": mean_and_spread([final.tail for final in finals]),
                "steps": mean_and_spread([float(final.num_steps) for final in finals]),
                "hours": mean_and_spread([final.hours for final in finals]),
            }
            for name, finals in groups.items()
        ]
    )


def mean_and_spread(values: Sequence[float | None]) -> str:
    """Says a mean and the standard deviation (n - 1) behind it, and of how many if not of all.

    >>> mean_and_spread([1.0, 2.0, 3.0]), mean_and_spread([0.5]), mean_and_spread([2.0, None])
    ('2 ± 1', '0.5', '2 (1 of 2)')
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return "-"
    told = number(float(np.mean(known)))
    if len(known) > 1:
        told += f" ± {number(float(np.std(known, ddof=1)), 2)}"
    return told if len(known) == len(values) else f"{told} ({len(known)} of {len(values)})"
