"""What a finished run answers: its loss, the tokens that it saw, and how it fared."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.alert_kinds import HEARTBEAT_LOST, STALLED
from ..platform.errors import MoescopeError
from ..platform.records import Trial
from ..platform.series import is_living, read_series
from ..platform.store import Store

LAST_SHARE, FEWEST_STEPS = 0.1, 5
"""Of a run's steps whose mean is its loss: single steps differ by their batch."""
TOKEN_TOLERANCE = 0.01
LOST = 3.0
"""Times what it began with; single batches of a few samples lie up to 2.5 times apart."""


class Verdict(NamedTuple):
    word: str
    """healthy, healed, rolled back, unstable, stopped early."""
    alerts: tuple[str, ...]
    """Rules that warned, without those that only inform."""
    num_rollbacks: int


def result_of(
    store: Store, trial: Trial, status: str, *, verdict: str = "", reason: str = ""
) -> dict[str, Any]:
    """Returns a trial's result as plain values.

    status: how its run ended. verdict, reason: why it was ended before its last step; left out: it
    came to its end by itself. Raises MoescopeError where a finished run did not see the tokens that
    it was to see, within 1%: steps of an abandoned branch do not count.
    """
    series = read_series(store, trial.run_id, catalogue.LOSS_TOTAL)
    living = is_living(series, store.segments(trial.run_id))
    losses = series.values[living].ravel()
    wanted = int(trial.cost["tokens"])
    steps = int(trial.config["steps"]) - trial.branch_at
    tokens = round(wanted / steps * len(losses))
    found = verdict_of(store, trial.run_id, status)
    if verdict:
        found = found._replace(word=verdict)
    is_whole = found.word not in ("unstable", "stopped early")
    if is_whole and abs(tokens / wanted - 1) > TOKEN_TOLERANCE:
        raise MoescopeError(f"it saw {tokens:,} tokens of {wanted:,}")
    last = losses[-max(FEWEST_STEPS, round(LAST_SHARE * len(losses))) :]
    finite = last[np.isfinite(last)]
    if is_whole and has_lost_all(losses, finite):
        found = found._replace(word="unstable")
        reason = "its loss is far above what it began with"
    times = series.times_s
    return {
        "loss": float(finite.mean()) if len(finite) else None,
        "tokens": tokens,
        "steps": len(losses),
        "seconds": float(times[-1] - times[0]) if len(times) else 0.0,
        "verdict": found.word,
        "reason": reason,
        "alerts": list(found.alerts),
        "num_rollbacks": found.num_rollbacks,
    }


def has_lost_all(losses: NDArray[np.float32], last: NDArray[np.float32]) -> bool:
    """Whether a run ended far above the loss it began with, or without a finite one: then it has
    diverged, however calm it is by now.

    losses: of all steps. last: the finite ones of its last steps.
    """
    if not len(losses):
        return False
    if not len(last):
        return True
    # the first steps, unless they went up at once
    began = min(np.nanmedian(losses[:FEWEST_STEPS]), LOST * losses[0])
    return bool(np.isfinite(began) and last.mean() > LOST * began)


def verdict_of(store: Store, run_id: str, status: str) -> Verdict:
    """unstable: it was halted by the policy, or a critical alert stood at its end. rolled back: it
    went back and came to its end. healed: alerts that were resolved by themselves."""
    alerts = [
        alert
        for alert in store.alerts(run_id)
        # that a process or its machine died says nothing of the training
        if alert.severity != "info" and alert.rule not in (HEARTBEAT_LOST, STALLED)
    ]
    rollbacks = len([s for s in store.segments(run_id) if s.reason == "rollback"])
    rules = tuple(sorted({alert.rule for alert in alerts}))
    standing = any(alert.severity == "critical" and alert.state != "resolved" for alert in alerts)
    if status == "halted" or (standing and not rollbacks):
        return Verdict("unstable", rules, rollbacks)
    if rollbacks:
        return Verdict("rolled back", rules, rollbacks)
    return Verdict("healed" if alerts else "healthy", rules, 0)
