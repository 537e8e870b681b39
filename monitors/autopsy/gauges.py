"""Gauges: what was measured in a step, on one scale: spreads from where it was before the onset.

M modalities  B batch
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...platform import catalogue
from ..loss_signals import LossNormaliser, Residuals
from .record import Entry

Floats = NDArray[np.float64]

OFF_SCALE = 99.0
"""What a value that is not finite counts as."""
LONGEST_BASELINE = 120
"""Newest steps before the onset that say what is usual: older ones lie elsewhere on the course of a
training."""
FEWEST_IN_BASELINE = 8
NEWEST = 10
"""Values before the onset whose median is the middle."""
LEAST_SPREADS_OF_A_BATCH = 3.0
"""From which on a stretch of batches is odd in another run, as a mean."""
_MAD_TO_SIGMA = 1.4826
_LEAST_SPREAD = 0.05
"""Of a share, or of a logarithm: less than 5% is no news, however still a signal was before."""


class LossGauge:
    """The losses of a step's samples against those before the onset, with noise levels accounted
    for."""

    def __init__(self, baseline: Sequence[Entry]) -> None:
        self._normaliser: LossNormaliser | None = None
        for entry in baseline[-LONGEST_BASELINE:]:
            if catalogue.LOSS_PER_SAMPLE not in entry.values:
                continue
            loss_MB = entry.values[catalogue.LOSS_PER_SAMPLE]
            if self._normaliser is None:
                self._normaliser = LossNormaliser(len(loss_MB))
            found = self._normaliser.residuals(loss_MB, entry.values[catalogue.LOSS_SIGMA])
            if found is not None:
                self._normaliser.learn(found, np.ones(len(loss_MB)))

    def residuals(self, entry: Entry) -> Residuals | None:
        """None where no loss is usable."""
        if self._normaliser is None or catalogue.LOSS_PER_SAMPLE not in entry.values:
            return None
        values = entry.values
        return self._normaliser.residuals(
            values[catalogue.LOSS_PER_SAMPLE], values[catalogue.LOSS_SIGMA]
        )

    def score(self, entry: Entry) -> float | None:
        """About a unit spread while nothing is odd; OFF_SCALE where a loss is not finite."""
        if catalogue.LOSS_PER_SAMPLE not in entry.values:
            return None
        if not np.isfinite(entry.values[catalogue.LOSS_PER_SAMPLE]).all():
            return OFF_SCALE
        found = self.residuals(entry)
        return None if found is None else found.pooled


class SignalGauge:
    """Each element of a signal against its own median and spread before the onset.

    What is positive throughout is taken as a logarithm, so that twice as much weighs the same
    everywhere; expert counts are taken as shares of their row.
    """

    def __init__(
        self, signal: str, baseline: Sequence[Entry], *, is_of_newest: bool = True
    ) -> None:
        """is_of_newest: whether the newest values say where the signal is, or all of them."""
        self.signal = signal
        rows = [e.values[signal] for e in baseline if signal in e.values][-LONGEST_BASELINE:]
        self.is_ready = len(rows) >= FEWEST_IN_BASELINE
        if not self.is_ready:
            return
        past = np.stack([self._taken(row) for row in rows])
        self._is_share = signal == catalogue.EXPERT_TOKENS or signal.endswith("share")
        self._is_log = not self._is_share and bool((past > 0).all())
        past = np.log(past) if self._is_log else past
        # what has no value before has no spread either
        past = np.where(np.isfinite(past), past, np.nan)
        is_known = np.isfinite(past).any(0)
        safe = np.where(is_known, past, 0.0)
        # a training moves on: the newest rows say where a signal is, and its steps how it varies
        self._middle = np.median(safe[-NEWEST:] if is_of_newest else safe, axis=0)
        near = safe[-3 * NEWEST :]
        spread = _MAD_TO_SIGMA * np.median(np.abs(near - np.median(near, axis=0)), axis=0)
        steps = np.median(np.abs(np.diff(safe, axis=0)), axis=0) * _MAD_TO_SIGMA / math.sqrt(2)
        spread = np.maximum(spread, steps)
        least: float | Floats = _LEAST_SPREAD
        if self._is_share:
            least = 0.02
        elif not self._is_log:
            least = _LEAST_SPREAD * np.maximum(np.abs(self._middle), 1e-6)
        self._spread = np.maximum(spread, least)

    def scores(self, entry: Entry) -> Floats | None:
        """Spreads above (+) or below (-), in the signal's dimensions; None where not measured."""
        if not self.is_ready or self.signal not in entry.values:
            return None
        value = self._taken(entry.values[self.signal])
        if value.shape != self._middle.shape:
            return None
        is_finite = np.isfinite(value)
        if self._is_log:
            value = np.log(np.maximum(np.where(is_finite, value, 1.0), 1e-30))
        found = (np.where(is_finite, value, 0.0) - self._middle) / self._spread
        return np.where(is_finite, np.clip(found, -OFF_SCALE, OFF_SCALE), OFF_SCALE)

    def _taken(self, value: NDArray[np.float32]) -> Floats:
        taken: Floats = np.asarray(value, np.float64)
        if self.signal == catalogue.EXPERT_TOKENS:
            taken = taken / np.maximum(taken.sum(-1, keepdims=True), 1.0)
        return taken


class Gauge:
    """What an alert is about, as one number per step: of the losses, or of its own signal."""

    def __init__(self, signal: str, baseline: Sequence[Entry]) -> None:
        self.signal = signal
        self.is_of_loss = signal.startswith(("loss/", "probe/"))
        self._loss = LossGauge(baseline)
        self._own = SignalGauge(signal, baseline)
        self.is_ready = self.is_of_loss or self._own.is_ready

    def score(self, entry: Entry) -> float | None:
        if self.is_of_loss:
            return self._loss.score(entry)
        found = self._own.scores(entry)
        return None if found is None or not found.size else float(np.abs(found).max())


def excursion(scores: Sequence[float | None], num_steps: int = 3) -> float:
    """How far a stretch goes away at its worst, over a few steps in a row: one odd step among good
    ones counts a third. NaN where nothing was measured."""
    known = [score for score in scores if score is not None]
    if not known:
        return math.nan
    width = min(num_steps, len(known))
    means = np.convolve(known, np.ones(width) / width, mode="valid")
    return float(means.max())
