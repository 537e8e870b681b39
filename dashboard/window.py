"""What of a run a person looks at, and in which measure; and the points that lie in it."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..platform.records import Bands, Series
from .clock import STEPS, Clock

StepRange = tuple[int, int] | None
"""First and last step, both included; None is the whole run."""


@dataclass(frozen=True, slots=True)
class Window:
    step_range: StepRange = None
    is_log: bool = False
    """Of values."""
    is_log_x: bool = False
    smoothing: int = 0
    """Steps of the moving mean that lines follow; 0: none."""
    clock: Clock = field(default=STEPS, compare=False)
    """What the horizontal axis counts."""
    on_zoom: Callable[[tuple[float, float] | None], None] | None = field(
        default=None, compare=False
    )
    """Takes up what a person zoomed to, in the clock's measure; None: the whole run."""

    @property
    def view(self) -> str:
        """Says what is looked at: while it stays the same, the browser keeps its zoom."""
        return f"{self.step_range} {self.is_log} {self.is_log_x} {self.clock.axis}"

    def linear(self) -> "Window":
        """The same with a linear scale of values."""
        return replace(self, is_log=False)

    def logarithmic(self) -> "Window":
        return replace(self, is_log=True)


def kept(series: Series, is_kept: NDArray[np.bool_]) -> Series:
    """Returns the points of a series where the mask is true. is_kept: (points,)."""
    return Series(
        series.signal,
        series.segments[is_kept],
        series.steps[is_kept],
        series.times_s[is_kept],
        series.values[is_kept],
    )


@dataclass(frozen=True, slots=True)
class Branches:
    """A signal by buckets: those that count, and those of branches that a rollback abandoned."""

    living: Bands
    ghosts: Bands
    version: Hashable = None
    """Another one where anything of them differs; None: not known."""

    def column(self, index: int) -> "Branches":
        """The same of one of a vector's numbers."""
        return Branches(column(self.living, index), column(self.ghosts, index))


def column(bands: Bands, index: int) -> Bands:
    """Returns one number of each bucket. The result's arrays are (B, 1)."""
    here = slice(index, index + 1)
    return Bands(
        bands.signal,
        bands.width,
        bands.segments,
        bands.steps,
        bands.num_points,
        bands.low[:, here],
        bands.high[:, here],
        bands.mean[:, here],
        bands.num_finite[:, here],
    )


def selected(bands: Bands, is_kept: NDArray[np.bool_] | NDArray[np.signedinteger]) -> Bands:
    """Returns the buckets where the mask is true, or those of these places. is_kept: (B,)."""
    return Bands(
        bands.signal,
        bands.width,
        bands.segments[is_kept],
        bands.steps[is_kept],
        bands.num_points[is_kept],
        bands.low[is_kept],
        bands.high[is_kept],
        bands.mean[is_kept],
        bands.num_finite[is_kept],
    )


def as_wide(bands: Bands, other: Bands) -> Bands:
    """Returns the buckets; where there are none, with as many numbers each as the other's, so that
    a branch that is not in sight has columns as any."""
    if len(bands.steps):
        return bands
    none = np.empty((0, other.low.shape[1]), np.float32)
    return replace(
        bands, width=other.width, low=none, high=none, mean=none,
        num_finite=np.empty(none.shape, bands.num_finite.dtype),
    )  # fmt: skip


def middles(bands: Bands) -> NDArray[np.float64]:
    """Returns the step in the middle of each bucket. Returns (B,)."""
    return bands.steps.astype(np.float64) + (bands.width - 1) / 2


def without_zeros(bands: Bands) -> Bands:
    """Returns the buckets with 0, which stands for "none yet", as a gap."""
    is_zero = bands.low <= 0
    return replace(
        bands,
        low=np.where(is_zero, np.inf, bands.low).astype(np.float32),
        high=np.where(is_zero, -np.inf, bands.high).astype(np.float32),
        mean=np.where(is_zero, np.nan, bands.mean).astype(np.float32),
    )


def is_in(step: int, step_range: StepRange) -> bool:
    return step_range is None or step_range[0] <= step <= step_range[1]


def moving_mean(bands: Bands, num_steps: int) -> NDArray[np.float32]:
    """Returns the mean over the steps around each bucket, of full data and in whole buckets.

    Row b is the mean of all finite values of the buckets of its segment whose middles are at most
    num_steps / 2 away: exact wherever the window ends between buckets. Returns (B, K), NaN where
    there is no finite value.
    """
    finite = bands.num_finite.astype(np.float64)
    sums = np.where(bands.num_finite > 0, bands.mean, 0).astype(np.float64) * finite
    out = np.empty_like(bands.mean)
    for segment in np.unique(bands.segments):
        here = np.flatnonzero(bands.segments == segment)
        at = middles(bands)[here]
        first = np.searchsorted(at, at - num_steps / 2, side="left")
        last = np.searchsorted(at, at + num_steps / 2, side="right")
        total = np.vstack([np.zeros(sums.shape[1]), np.cumsum(sums[here], axis=0)])
        count = np.vstack([np.zeros(sums.shape[1]), np.cumsum(finite[here], axis=0)])
        number = count[last] - count[first]
        with np.errstate(invalid="ignore", divide="ignore"):
            out[here] = (total[last] - total[first]) / number
    return out
