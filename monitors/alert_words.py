"""How an alert is told: the unit and the words of its score, where it was found, how it ended."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from ..platform.alert_kinds import ENDED, NEW_BASELINE
from ..platform.catalogue import signal_spec
from ..platform.records import Alert, Event
from ..platform.signals.spec import Dimension
from .rules import Rule
from .scoring import Score

_UNITS = {
    "spike": "sigma",
    "drift": "sigma",
    "burst": "sigma",
    "level_shift": "sigma",
    "divergence": "times",
    "non_finite": "share",
    "dead_experts": "experts",
    "monopoly": "share",
    "deadlock": "layers",
    "collapse": "share",
    "rise": "sigma",
    "fall": "sigma",
    "multiple": "times",
}
"""Unit of each detector's score, which is an alert's value and threshold; of `above` it is the
signal's own."""
HARDENS_IN = ("sigma",)
"""Units of scores without an upper end: a limit on them can rise without blinding its rule."""

_SCORE_WORDS = {
    "spike": "{:.1f} sigma",
    "drift": "score {:.1f}",
    "burst": "score {:.1f}",
    "level_shift": "{:.1f} sigma",
    "divergence": "{:.2f} times where it began",
    "non_finite": "share {:.2f}",
    "dead_experts": "{:.0f} experts",
    "monopoly": "share {:.2f}",
    "deadlock": "{:.0f} layers",
    "collapse": "entropies fallen by {:.0%}",
    "rise": "{:.1f} sigma above its own past",
    "fall": "{:.1f} sigma below its own past",
    "multiple": "{:.2f} times the usual",
    "above": "{:.4g}",
}


def unit_of(rule: Rule) -> str:
    """Unit of the score of a rule, of its threshold and of its alerts' value."""
    return _UNITS.get(rule.detector) or signal_spec(rule.signal).unit


def alert_of(
    run_id: str,
    rule: Rule,
    found: Score,
    onset: int,
    onset_batch: int | None,
    step: int,
    segment: int,
    time_s: float,
) -> Alert:
    """The alert that a rule raises with a step, for a score that has lasted since the onset."""
    lasting = f" in {rule.patience} of {rule.of_last} steps" if rule.of_last > 1 else ""
    since = f", since step {onset}" if onset < step else ""
    evidence: dict[str, Any] = {
        "signal": rule.signal,
        "detector": rule.detector,
        "unit": unit_of(rule),
    }
    if onset_batch is not None:
        evidence["onset_batch"] = onset_batch
    told = {"meaning": rule.meaning, "advice": rule.advice}
    evidence |= {name: words for name, words in told.items() if words}
    return Alert(
        id=f"{run_id}-{segment}-{step}-{rule.name}",
        run_id=run_id,
        segment=segment,
        rule=rule.name,
        severity=rule.severity,
        onset_step=onset,
        fired_step=step,
        value=found.value,
        threshold=rule.threshold,
        message=f"{rule.message}{_where(found.evidence)}: "
        f"{_SCORE_WORDS[rule.detector].format(found.value)} "
        f"(limit {rule.threshold:g}){lasting}{since}",
        created_s=time_s,
        dedupe_key=f"{run_id}/{rule.name}",
        evidence=evidence | dict(found.evidence),
    )


def ended_alert(alert: Alert, is_explained_away: bool, time_s: float) -> Alert:
    """An alert that no longer holds; its evidence says where only a new baseline has ended it."""
    evidence = {**alert.evidence, ENDED: NEW_BASELINE} if is_explained_away else alert.evidence
    return replace(alert, state="resolved", changed_s=time_s, evidence=evidence)


def note_of(alert: Alert, rule: Rule) -> Event:
    """What is noted where a rule raises no alert: it only informs, or is tried."""
    would = ""
    if rule.is_dry_run:
        asked = "" if rule.action == "observe" else f" and ask for {rule.action}"
        would = f"dry run of {rule.name}: would raise {rule.severity}{asked}: "
    found = {"rule": alert.rule, "value": alert.value, "threshold": alert.threshold}
    return Event(
        alert.run_id,
        alert.segment,
        alert.fired_step,
        alert.created_s,
        "note",
        f"{would}{alert.message}",
        found | {"onset_step": alert.onset_step} | dict(alert.evidence),
    )


def _where(evidence: Mapping[str, Any]) -> str:
    """Says in which entry of a vector it was found."""
    told = [
        f"{name.replace('_', ' ')} {evidence[name]}"
        for name in (*get_args(Dimension), "layers")
        if isinstance(evidence.get(name), int | str | list)
    ]
    return f" ({', '.join(told)})" if told else ""
