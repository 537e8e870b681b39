"""A run as a row of the fleet: plain values that the browser's table draws, sorts and keeps apart.

Pure. Text of a run goes in as it is: the table writes it as text, never as markup.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..platform import catalogue
from ..platform.fleet import Doings
from ..platform.records import Alert, Severity
from ..platform.summaries import Summary
from .doing import TRAINING, Doing, doing
from .reads import SHOWN_OF_A_RUN, RunNow
from .run_search import Facts
from .sparkline import Sparkline
from .theme import LAMPS, LampWord
from .words import age, number, short

SHOWN = (*SHOWN_OF_A_RUN, catalogue.UTILISATION)
"""Scalars whose newest values a row has."""
MOST_TAGS, MOST_CHARACTERS = 6, 160

WORST_FIRST: tuple[LampWord, ...] = (
    "critical", "halted", "crashed", "silent", "warning", "healthy", "finished", "stopped",
)  # fmt: skip
TROUBLED: tuple[LampWord, ...] = WORST_FIRST[:5]
"""Those that want a person."""
_SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class FleetRun:
    """What is known of a run that is drawn in a row."""

    now: RunNow
    summary: Mapping[str, Summary] = field(default_factory=dict)
    open_alerts: Sequence[Alert] = ()
    about: Doings = field(default_factory=Doings)
    spark: Sparkline | None = None

    @property
    def utilisation(self) -> float | None:
        found = self.summary.get(catalogue.UTILISATION)
        return None if found is None else found.last


def row(one: FleetRun, now_s: float) -> dict[str, Any]:
    """What the table is sent of a run. Moments are sent, not ages: an idle row stays as it is."""
    now, run = one.now, one.now.run
    at = doing(now, one.about, now_s)
    return {
        "id": run.id,
        "name": _line(run.name) or run.id,
        "project": _line(run.project),
        "tags": [_line(tag) for tag in run.tags[:MOST_TAGS]],
        "note": _line(run.note),
        "lamp": now.lamp,
        "groups": groups(now),
        "live": now.is_live and now.lamp != "silent",
        "doing": _doing(at),
        "step": _step(now, is_training=at.text == TRAINING),
        "loss": _loss(one),
        "spark": None if one.spark is None else [one.spark.line, one.spark.band],
        "speed": _cell(now.tokens_per_s, short),
        "use": _cell(one.utilisation, lambda share: f"{share:.0%}"),
        "alerts": _alerts(one.open_alerts),
        "beat_s": run.heartbeat_s if now.is_live else None,
        "start_s": run.created_s,
        "took": _took(now),
    }


def groups(now: RunNow) -> list[str]:
    """The lists that a run is in, besides that of all."""
    found = ["live"] if now.is_live else ["ended"]
    return [*found, "trouble"] if now.lamp in TROUBLED else found


def facts(one: FleetRun, now_s: float) -> Facts:
    """What a run is searched by, besides its words and its configuration."""
    now, run = one.now, one.now.run
    return {
        "id": run.id,
        "name": run.name,
        "project": run.project,
        "tag": run.tags,
        "status": run.status,
        "health": now.lamp,
        "doing": doing(now, one.about, now_s).text,
        "device": run.device,
        "mode": run.mode,
        "code_version": run.code_version,
        "step": now.step,
        "loss": now.loss,
        "tokens_per_s": now.tokens_per_s,
        "utilisation": one.utilisation,
        "alerts": len(one.open_alerts),
    }


def looks() -> dict[str, dict[str, Any]]:
    """{lamp: word, colour and rank, the worst first}; the table has a sign for each."""
    return {
        lamp: {"word": LAMPS[lamp].word, "colour": LAMPS[lamp].badge, "rank": rank}
        for rank, lamp in enumerate(WORST_FIRST)
    }


def _doing(at: Doing) -> dict[str, Any]:
    return {
        "text": at.text,
        "since_s": at.since_s,
        "is_over": at.is_over,
        "more": _line(at.more),
        "more_s": at.more_s,
    }


def _step(now: RunNow, *, is_training: bool) -> dict[str, Any]:
    if now.step is None:
        return {"value": None, "text": "", "share": None, "of": "", "left": ""}
    done = now.step + 1
    share = min(1.0, done / now.num_steps) if now.num_steps else None
    left_s = now.time_left_s if is_training else None
    return {
        "value": done,
        "text": f"{done:,}",
        "share": None if share is None else round(share, 4),
        "of": f"{now.num_steps:,}" if now.num_steps else "",
        "left": "" if not left_s else f"{_rough_age(left_s)} left",
    }


def _loss(one: FleetRun) -> dict[str, Any]:
    found = one.summary.get(catalogue.LOSS_TOTAL)
    cell = _cell(one.now.loss, number)
    if found is not None and found.low is not None:
        cell["help"] = f"lowest {number(found.low)} at step {found.low_step:,}"
    return cell


def _cell(value: float | None, said: Any) -> dict[str, Any]:
    if value is None:
        return {"value": None, "text": ""}
    # JSON has no NaN, and there is no order in it: such a row stands last
    if not math.isfinite(value):
        return {"value": None, "text": number(value)}
    return {"value": float(f"{value:.6g}"), "text": said(value)}


def _alerts(open_alerts: Sequence[Alert]) -> dict[str, Any] | None:
    counts = {s: sum(a.severity == s for a in open_alerts) for s in _SEVERITIES}
    worst = next((severity for severity in _SEVERITIES if counts[severity]), None)
    if worst is None:
        return None
    said = [f"{count} {severity}" for severity, count in counts.items() if count]
    # as a number that sorts by severity first
    value = sum(count * 1000 ** (2 - i) for i, count in enumerate(counts.values()))
    return {"worst": worst, "count": len(open_alerts), "value": value, "text": ", ".join(said)}


def _took(now: RunNow) -> str:
    run = now.run
    return "" if run.finished_s is None else f"took {_rough_age(run.finished_s - run.created_s)}"


def _rough_age(seconds: float) -> str:
    return age(seconds if seconds < 60 else seconds // 60 * 60)


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…"
