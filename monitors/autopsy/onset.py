"""The onset, looked for in the record itself: a rule with a long memory tells of a change late."""

from collections.abc import Sequence

import numpy as np

from ...platform.records import Alert
from .gauges import SignalGauge
from .record import Entry

WITH_MEMORY = ("dead_experts", "monopoly", "deadlock", "collapse")
"""Detectors that look back over many steps; of others the onset is a change point already."""
LEAST_CHANGE = 6.0
"""Spreads between the level before and that at the alarm from which on a change point is looked
for."""
NEWEST = 10
"""Values at the alarm whose median is the level there."""
EARLY_SHARE = 0.25
"""Of the values before the alarm: those that say what was usual."""
FEWEST_EARLY = 12


def onset_of(alert: Alert, branch: Sequence[Entry]) -> int:
    """Returns the step in which the alert's signal changed: that of the alert, or an earlier one
    from which on the signal lies nearer to what it is at the alarm than to what it was, of the
    element that has moved farthest. Of a signal that is not measured at every step it is the step
    after the last one that was measured before: it may have changed at once.
    """
    signal = str(alert.evidence.get("signal", ""))
    measured = [e for e in branch if signal in e.values and e.step <= alert.fired_step]
    change = _change_point(alert, measured)
    seen_before = max((e.step for e in measured if e.step < change), default=None)
    return change if seen_before is None else seen_before + 1


def _change_point(alert: Alert, measured: Sequence[Entry]) -> int:
    if alert.evidence.get("detector") not in WITH_MEMORY or not measured:
        return alert.onset_step
    signal = str(alert.evidence["signal"])
    early = measured[: max(FEWEST_EARLY, int(EARLY_SHARE * len(measured)))]
    gauge = SignalGauge(signal, early, is_of_newest=False)
    rows = [gauge.scores(e) for e in measured]
    if len(measured) <= len(early) or any(row is None for row in rows):
        return alert.onset_step
    scores = np.stack([row.ravel() for row in rows if row is not None])
    level = np.median(scores[-NEWEST:], axis=0)
    farthest = int(np.abs(level).argmax())
    if abs(level[farthest]) < LEAST_CHANGE:
        return alert.onset_step
    is_near_before = np.abs(scores[:, farthest]) < np.abs(scores[:, farthest] - level[farthest])
    last_before = int(np.flatnonzero(is_near_before).max(initial=-1))
    if last_before < len(early) // 2 or last_before + 1 >= len(measured):
        return alert.onset_step
    return min(alert.onset_step, measured[last_before + 1].step)
