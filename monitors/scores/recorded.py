"""Recorded spikes and divergences: excerpts that follow on a healthy curve, and whole runs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...platform.errors import MoescopeError
from ..windows import Floats
from .curves import LOSS_COLUMNS, Curve, csv_files, numbers, read_table
from .public_rules import LossRule

LONGEST_GAP_STEPS = 30
"""Longest gap between two recorded steps that is filled; a longer one ends an excerpt."""
ONSET_RISE = 0.05
"""A recorded fault begins with the first step that is so much above its first loss."""
HISTORY_STEPS, LEVEL_STEPS = 1000, 50
"""Steps of a healthy curve before an excerpt; the level is the median of the last ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A recorded fault with a value for each step; gaps are filled on the logarithm's line."""

    name: str
    loss: Floats
    grad_norm: Floats
    outcome: str
    is_whole: bool
    """A run from its first step on, which needs nothing before it."""

    @property
    def onset(self) -> int:
        """Index of the first step that is above the first loss by `ONSET_RISE`."""
        return int(np.argmax(self.loss > self.loss[0] * (1 + ONSET_RISE)))


@dataclass(frozen=True, slots=True)
class RecordedFinding:
    rule: str
    event: str
    outcome: str
    num_found: int
    num_histories: int
    """Healthy curves that the excerpt was put behind; 1 for a whole run."""
    median_delay_steps: float | None
    """From the onset; None where nothing was found."""


def read_recorded(paths: Sequence[Path]) -> list[Recorded]:
    """Reads excerpts (step, loss, and event for several in one file) and whole runs.

    What begins at step 0 or 1 is a whole run. One that is there twice is taken once.
    """
    found: list[Recorded] = []
    for path in csv_files(paths):
        rows = read_table(path)
        loss_column = next((name for name in LOSS_COLUMNS if name in rows[0]), None)
        if "step" not in rows[0] or loss_column is None:
            raise MoescopeError(
                f"{path}: column step or loss is missing (there are: {', '.join(rows[0])})"
            )
        names = [row.get("event", path.stem) for row in rows]
        step, loss = numbers(path, rows, "step"), numbers(path, rows, loss_column)
        grad_norm = _grad_norm(path, rows)
        for name in dict.fromkeys(names):
            chosen = np.array([one == name for one in names])
            outcome = rows[names.index(name)].get("outcome", "")
            if chosen.sum() < 2 or not (loss[chosen] > 0).all():
                raise MoescopeError(f"{path}: {name} needs two rows or more, with positive losses")
            new = _filled(name, step[chosen], loss[chosen], grad_norm[chosen], outcome)
            if not any(np.array_equal(new.loss, old.loss) for old in found):
                found.append(new)
    return found


def _grad_norm(path: Path, rows: list[dict[str, str]]) -> Floats:
    if "grad_norm" not in rows[0]:
        return np.full(len(rows), np.nan)
    return numbers(path, rows, "grad_norm", is_optional=True)


def _filled(name: str, step: Floats, loss: Floats, grad_norm: Floats, outcome: str) -> Recorded:
    """An event as a value for each step, up to its first long gap."""
    gap = np.diff(step)
    if not (gap > 0).all():
        raise MoescopeError(f"{name}: steps must rise, one row for each")
    too_long = np.flatnonzero(gap > LONGEST_GAP_STEPS)
    num_rows = int(too_long[0]) + 1 if too_long.size else step.size
    every = np.arange(step[0], step[num_rows - 1] + 1)
    log_loss = np.interp(every, step[:num_rows], np.log(loss[:num_rows]))
    is_whole = bool(step[0] <= 1)
    # gradient norms of an excerpt have no history: no healthy curve has any at its level
    filled_norm = np.interp(every, step, grad_norm) if is_whole else np.full(every.size, np.nan)
    return Recorded(name, np.exp(log_loss), filled_norm, outcome, is_whole)


def score_recorded(
    rule_name: str,
    make_rule: Callable[[int], LossRule],
    events: Sequence[Recorded],
    curves: Sequence[Curve],
) -> list[RecordedFinding]:
    """Scores a rule on recorded faults. An excerpt is put behind the first 1000 steps of one curve
    of each group, scaled so that the median of its last 50 is the excerpt's first loss."""
    of_group = {curve.group: curve for curve in reversed(curves) if curve.loss.size > HISTORY_STEPS}
    findings = []
    for event in events:
        delays: list[int] = []
        histories = [None] if event.is_whole else list(of_group.values())
        for curve in histories:
            before = np.zeros(0) if curve is None else _history(curve, float(event.loss[0]))
            delay = _delay(make_rule, before, event)
            delays += [] if delay is None else [delay]
        median = float(np.median(delays)) if delays else None
        findings.append(
            RecordedFinding(
                rule_name, event.name, event.outcome, len(delays), len(histories), median
            )
        )
    return findings


def _history(curve: Curve, level: float) -> Floats:
    loss = curve.loss[:HISTORY_STEPS]
    return loss * (level / float(np.median(loss[-LEVEL_STEPS:])))


def _delay(make_rule: Callable[[int], LossRule], before: Floats, event: Recorded) -> int | None:
    """Steps from the onset to the first flag at or after it."""
    rule = make_rule(before.size + event.loss.size)
    for loss in before:
        rule.update(float(loss), float("nan"))
    for index, (loss, grad_norm) in enumerate(zip(event.loss, event.grad_norm, strict=True)):
        if rule.update(float(loss), float(grad_norm)) and index >= event.onset:
            return index - event.onset
    return None


def label(name: str) -> str:
    """An event's name as a table shows it."""
    return re.sub(r"_+", " ", name)
