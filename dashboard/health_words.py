"""How a run is, in words: healthy since when, or what happened to it last."""

from collections.abc import Mapping, Sequence

from ..platform.records import Alert, Event, Incident, Segment
from .theme import LampWord
from .words import age

_CAUSES: Mapping[str, str] = {
    "data": "data",
    "state": "state",
    "precision": "precision",
    "not_reproducible": "not reproducible",
    "no_cause": "no cause found",
    "unexamined": "not examined yet",
}
RECENT_S = 24 * 3600.0
"""A rollback younger than this is told of a healthy run too."""


def in_words(
    word: LampWord,
    step: int | None,
    alerts: Sequence[Alert],
    segments: Sequence[Segment],
    verdicts: Mapping[str, str],
    now_s: float,
) -> str:
    """Says a run's health in a line: "healthy for 3,120 steps; rolled back 2 h ago for loss
    spike: data".

    step: the newest; None before the first. alerts: of the run, of all states. verdicts: {alert:
    verdict} of its incidents. Steps are counted on the branch that training is on.
    """
    if step is None:
        return "nothing measured yet"
    said = []
    is_open = [a for a in alerts if a.state == "open" and a.severity != "info"]
    if word in ("warning", "critical") and is_open:
        worst = min(is_open, key=lambda a: (a.severity != "critical", a.created_s))
        said.append(f"{worst.rule.replace('_', ' ')} since step {worst.onset_step:,}")
    elif word == "healthy":
        said.append(f"healthy for {_healthy_steps(step, alerts, segments):,} steps")
    back = [s for s in segments if s.reason == "rollback"]
    if back and (now_s - back[-1].created_s < RECENT_S or word != "healthy"):
        verdict = verdicts.get(back[-1].alert_id or "", "")
        causes = " and ".join(_CAUSES.get(part, part) for part in verdict.split(" and ") if part)
        rules = [a.rule.replace("_", " ") for a in alerts if a.id == back[-1].alert_id]
        for_what = f" for {rules[0]}" if rules else ""
        ago = age(now_s - back[-1].created_s)
        said.append(f"rolled back {ago} ago{for_what}" + (f": {causes}" if causes else ""))
    return "; ".join(said)


def _healthy_steps(step: int, alerts: Sequence[Alert], segments: Sequence[Segment]) -> int:
    """Steps since the last alert that called for a look, or since the rollback that answered it."""
    newest = max((s.index for s in segments), default=0)
    since = [a.fired_step for a in alerts if a.severity != "info" and a.segment == newest]
    since += [s.start_step for s in segments if s.reason == "rollback" and s.index == newest]
    return max(0, step - max(since) if since else step + 1)


def halted(events: Sequence[Event]) -> str:
    """Returns why a run halted; empty where it did not say."""
    reasons = [event.text for event in events if event.kind == "halt"]
    return reasons[-1] if reasons else ""


def verdicts_of(incidents: Sequence[Incident]) -> dict[str, str]:
    return {incident.alert_id: incident.verdict for incident in incidents}
