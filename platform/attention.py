"""How the worst of all runs is, in one cheap look: what a browser's tab says of them."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sqlalchemy import select

from . import tables
from .watchman import SILENT_AFTER_S, is_stalled

if TYPE_CHECKING:
    from .store import Store

Worst = Literal["critical", "silent", "warning", "fine"]
_ORDER: tuple[Worst, ...] = ("critical", "silent", "warning")


@dataclass(frozen=True, slots=True)
class Attention:
    worst: Worst
    num_runs: int
    """How many runs are that bad; 0 where all is fine."""


def attention(store: "Store", now_s: float) -> Attention:
    """Looks at the runs that are not archived.

    A training one is silent, or as bad as its worst open alert; of one that has ended, an open
    alert still wants somebody.
    """
    run, alert = tables.runs.c, tables.alerts.c
    beats = select(run.id, run.heartbeat_s).where(run.status == "running", ~run.is_archived)
    alerts = (
        select(alert.run_id, alert.severity)
        .join(tables.runs, run.id == alert.run_id)
        .where(alert.state == "open", ~run.is_archived)
        .distinct()
    )
    training, opened = store.database.read(
        lambda c: (c.execute(beats).all(), c.execute(alerts).all())
    )
    severities: dict[str, set[str]] = {}
    for run_id, severity in opened:
        severities.setdefault(run_id, set()).add(severity)
    states: dict[str, Worst] = {}
    for run_id, found in severities.items():
        if found & {"critical", "warning"}:
            states[run_id] = "critical" if "critical" in found else "warning"
    for run_id, heartbeat_s in training:
        if is_stalled(heartbeat_s, now_s, SILENT_AFTER_S):
            states[run_id] = "silent"
    counts = Counter(states.values())
    worst = next((state for state in _ORDER if counts[state]), None)
    return Attention("fine", 0) if worst is None else Attention(worst, counts[worst])
