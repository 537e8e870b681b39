"""What the page of studies draws: how far each is, what it cost, its trials, its newest report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from ..platform import reports, skipped_trials, trials
from ..platform.records import Study, StudyReport, Trial, TrialState
from ..platform.store import Store

STATES: tuple[TrialState, ...] = ("done", "running", "waiting", "failed")


@dataclass(frozen=True, slots=True)
class StudyNow:
    """A study as it stands at this moment."""

    study: Study
    counts: Mapping[TrialState, int]
    flops: float
    """Of all trials that it asks for."""
    done_flops: float
    busy_s: float
    """That its finished trials trained for, one after the other."""
    verdicts: Mapping[str, int]

    @property
    def num_trials(self) -> int:
        return sum(self.counts.values())

    @property
    def left_s(self) -> float | None:
        """What its other trials would train for, one after the other; None before the first."""
        if not self.done_flops or not self.busy_s:
            return None
        given_up = self.counts["failed"] / max(1, self.num_trials)
        return max(0.0, self.flops * (1 - given_up) - self.done_flops) * (
            self.busy_s / self.done_flops
        )


def studies_now(store: Store) -> list[StudyNow]:
    """Newest first."""
    return [study_now(study, trials.trials(store, study.name)) for study in trials.studies(store)]


def study_now(study: Study, found: list[Trial]) -> StudyNow:
    states = Counter(trial.state for trial in found)
    done = [trial for trial in found if trial.state == "done"]
    return StudyNow(
        study,
        {state: states[state] for state in STATES},
        sum(_flops(trial) for trial in found),
        sum(_flops(trial) for trial in done),
        sum(float(trial.result.get("seconds") or 0.0) for trial in done),
        Counter(str(trial.result.get("verdict")) for trial in done),
    )


def _flops(trial: Trial) -> float:
    return float(trial.cost.get("flops", 0.0))


def find_study(store: Store, name: str) -> Study | None:
    return next((study for study in trials.studies(store) if study.name == name), None)


def trials_of(store: Store, name: str) -> list[Trial]:
    return trials.trials(store, name)


def skipped_of(store: Store, name: str) -> list[Trial]:
    return skipped_trials.skipped(store, name)


def trial_rows(found: list[Trial]) -> pd.DataFrame:
    """One row for each trial, in the order of the plan."""
    return pd.DataFrame(
        [
            {
                "trial": trial.label,
                "state": trial.state,
                "loss": trial.result.get("loss"),
                "verdict": trial.result.get("verdict") or trial.result.get("reason") or "",
                "active parameters": trial.cost.get("active_params"),
                "tokens": trial.cost.get("tokens"),
                "FLOPs": trial.cost.get("flops"),
                "attempts": trial.num_attempts,
                "run": f"/run?run={trial.run_id}" if trial.run_id else None,
            }
            for trial in found
        ]
    )


def last_words(store: Store, trial: Trial) -> tuple[str, str]:
    """Returns (reason, end of the log) of a trial's last attempt that has ended."""
    ended = [one for one in trials.attempts(store, trial.study, trial.key) if one.ended_s]
    return (ended[-1].exit_reason, ended[-1].log_tail) if ended else ("", "")


def report_of(store: Store, name: str) -> StudyReport | None:
    made_s = reports.made_at(store, name)
    return None if made_s is None else _report(store, store.url, name, made_s)


@st.cache_data(show_spinner=False, max_entries=16)
def _report(_store: Store, store_url: str, name: str, made_s: float) -> StudyReport | None:
    return reports.newest(_store, name)


def page_of(report: StudyReport) -> bytes | None:
    """The report's page, to be downloaded; None where its folder is on another machine."""
    try:
        return (Path(report.folder) / "report.html").read_bytes()
    except OSError:
        return None


def numbers_of(report: StudyReport) -> Mapping[str, Any]:
    numbers: Mapping[str, Any] = report.content.get("numbers", {})
    return numbers
