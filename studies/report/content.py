"""What a report holds: the answer in words and numbers, its trials, and how it came about."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import pandas as pd

from ... import __version__
from ...platform.records import Attempt, Study
from .answers import Answers
from .headline import headline
from .method import METHOD
from .strict import strict
from .table import AT, counted

PACKAGES = ("torch", "numpy", "scipy", "pandas", "plotly")


class Content(NamedTuple):
    """One report, before it is drawn."""

    study: Study
    made_s: float
    headline: str
    frame: pd.DataFrame
    answers: Answers
    failures: tuple[Attempt, ...]
    """The last attempt of each trial that failed."""
    times: dict[str, float | None]
    versions: dict[str, str]


def content_of(
    study: Study,
    frame: pd.DataFrame,
    answers: Answers,
    attempts: Mapping[str, Sequence[Attempt]],
    made_s: float,
) -> Content:
    """Puts a report together. attempts: {key of a trial: its attempts}."""
    failed = set(frame.loc[frame["state"] == "failed", "key"]) if len(frame) else set()
    every = [attempt for of_trial in attempts.values() for attempt in of_trial]
    ends = [attempt.ended_s for attempt in every if attempt.ended_s is not None]
    return Content(
        study,
        made_s,
        headline(answers, len(frame), len(counted(frame))),
        frame,
        answers,
        tuple(of_trial[-1] for key, of_trial in attempts.items() if key in failed and of_trial),
        {
            "asked_s": study.created_s,
            "first_attempt_s": min((attempt.started_s for attempt in every), default=None),
            "last_attempt_s": max(ends, default=None),
            "training_s": float(frame["seconds"].sum()) if len(frame) else 0.0,
        },
        versions(),
    )


def numbers(content: Content) -> dict[str, Any]:
    """Returns all numbers of a report as strict JSON values."""
    frame, spec = content.frame, content.study.spec
    excluded = frame[frame["excluded"] != ""] if len(frame) else frame
    told: dict[str, Any] = strict(
        {
            "study": content.study.name,
            "kind": content.answers.kind,
            "question": str(spec.get("question", "")),
            "headline": content.headline,
            "made_s": content.made_s,
            "made_at": moment(content.made_s),
            "states": frame["state"].value_counts().to_dict() if len(frame) else {},
            "num_counted": len(counted(frame)),
            "answers": content.answers,
            "excluded": [
                {"key": row["key"], "label": row["label"], "reason": row["excluded"]}
                for _, row in excluded.iterrows()
            ],
            "failures": [
                {"key": one.key, "reason": one.exit_reason, "log_tail": one.log_tail}
                for one in content.failures
            ],
            "trials": rows_of(frame),
            "spec": spec,
            "method": METHOD,
            "times": content.times,
            "versions": content.versions,
        }
    )
    return told


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the trials as plain rows: a coordinate that a trial has not is left out."""
    plain: list[dict[str, Any]] = strict(frame.to_dict("records"))
    return [
        {name: value for name, value in row.items() if value is not None or not name.startswith(AT)}
        for row in plain
    ]


def versions() -> dict[str, str]:
    """Returns what this was made with; torch is asked for its version without being loaded."""
    found = {"moescope": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def moment(time_s: float | None) -> str:
    """Returns a time as `2026-03-01 12:00 UTC`."""
    if time_s is None:
        return "-"
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
