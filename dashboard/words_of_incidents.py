"""The story of an incident in words and in order: onset, first movers, alarm, action, recovery."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..platform.incident_story import WATCHED_STEPS, Recovery
from ..platform.records import RunStatus
from .before_and_after import Row
from .reads_of_incidents import IncidentNow
from .words import number, plain

FIRST_TOLD = 3


class Chapter(NamedTuple):
    what: str
    step: int | None
    text: str
    """Of runs and clips: not yet escaped."""


def spreads(score: float) -> str:
    return "not finite" if abs(score) >= 99 else f"{score:+.1f}"


def story(now: IncidentNow) -> list[Chapter]:
    """The chapters of an incident; without an account, what the alert and the events tell."""
    content = now.content
    chapters = [_onset(now) if content is None else _examined_onset(content)]
    first = [] if content is None else content["movers"][:FIRST_TOLD]
    if first:
        told = ", ".join(f"{mover['what']} ({spreads(mover['score'])})" for mover in first)
        chapters.append(Chapter("First to move", first[0]["step"], told))
    chapters.append(Chapter("Alarm", now.alert.fired_step, now.alert.rule))
    chapters += [Chapter(f.what.capitalize(), f.step, f.text) for f in now.followed]
    if not any(f.what == "action" for f in now.followed):
        at = next((i for i, c in enumerate(chapters) if c.what == "Recovery"), len(chapters))
        chapters.insert(at, Chapter("Action", None, "none was taken"))
    if not any(f.what == "recovery" for f in now.followed):
        text = not_recovered(now.recovery, now.run.status)
        chapters.append(Chapter("Recovery", None, text))
    return chapters


def _onset(now: IncidentNow) -> Chapter:
    return Chapter("Onset", now.alert.onset_step, "the signal leaves its course, says the rule")


def _examined_onset(content: Mapping[str, Any]) -> Chapter:
    onset = content["onset"]
    batch = "" if onset["batch"] is None else f", batch {onset['batch']:,}"
    told = onset.get("told_by_the_rule", onset["step"])
    looks_back = ""
    if told != onset["step"]:
        looks_back = f"; the rule, which looks back, says step {told:,}"
    return Chapter("Onset", onset["step"], f"the signal leaves its course{batch}{looks_back}")


def not_recovered(recovery: Recovery | None, status: RunStatus) -> str:
    """Why there is no recovery to tell of."""
    if recovery is None:
        return "too little was measured before the onset, or since, to say whether it is healthy"
    at = (
        f"{recovery.num_steps:,} steps since the alarm, and the loss is at "
        f"{number(recovery.loss, 3)}; before the onset it was {number(recovery.loss_before, 3)}"
    )
    if recovery.num_steps >= WATCHED_STEPS:
        return f"not within {at}"
    return f"not yet: {at}" if status == "running" else f"the run has {status} before: {at}"


def table(rows: list[Row], is_recovered: bool) -> str:
    """The rows as a table in Markdown, which a screen reader reads and a phone wraps."""
    after = "after recovery" if is_recovered else "now"
    lines = [f"| | before | at the worst | {after} |", "| :-- | --: | --: | --: |"]
    for row in rows:
        worst = _value(row.worst)
        if row.worst_step is not None:
            worst = f"**{worst}** :gray[step {row.worst_step:,}]"
        cells = (plain(row.words, 60), _value(row.before), worst, _value(row.after))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _value(value: float | None) -> str:
    return "not measured" if value is None else number(value, 3)
