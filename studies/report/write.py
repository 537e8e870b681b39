"""Makes a study's report: reads, answers, draws, writes the files in one piece, and keeps it."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

import pandas as pd

from ...platform import reports, trials
from ...platform.errors import MoescopeError
from ...platform.records import StudyReport
from ...platform.settings import Settings
from ...platform.store import Store
from .answers import answers_of
from .content import content_of, numbers
from .figures import CAPTIONS, TITLES, as_plain, figures_of
from .page import page
from .stories import Story, story_of
from .table import AT, trial_table
from .to_mlflow import log_report

PAGE, NUMBERS, TRIALS = "report.html", "report.json", "trials.parquet"
FILES = (PAGE, NUMBERS, TRIALS)


def make_report(
    store: Store,
    settings: Settings,
    name: str,
    now_s: float,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> StudyReport:
    """Makes the report of what a study has found so far, in place of an older one.

    It writes `report.html`, `report.json` and `trials.parquet` into home/studies/NAME/report, keeps
    numbers and figures in the store, and gives MLflow the files. say: told where MLflow does not
    take them. Raises MoescopeError where the study is not there or the folder cannot be written.
    """
    study = trials.study(store, name)
    asked = trials.trials(store, name)
    frame = trial_table(asked)
    has_run = [trial for trial in asked if trial.state in ("done", "failed")]
    stories: dict[str, Story] = {trial.key: story_of(store, trial) for trial in has_run}
    answers = answers_of(study, frame, stories)
    attempts = {trial.key: trials.attempts(store, name, trial.key) for trial in asked}
    content = content_of(study, frame, answers, attempts, now_s)
    told = numbers(content)
    figures = {key: as_plain(figure) for key, figure in figures_of(frame, answers).items()}
    folder = settings.home_path / "studies" / name / "report"
    files = {
        PAGE: lambda path: path.write_text(page(content, figures), encoding="utf-8"),
        NUMBERS: lambda path: path.write_text(_json(told), encoding="utf-8"),
        TRIALS: lambda path: for_parquet(frame).to_parquet(path, index=False),
    }
    write_files(folder, files)
    report = StudyReport(
        name,
        now_s,
        str(folder),
        {
            "numbers": told,
            "figures": figures,
            "titles": {key: TITLES[key] for key in figures},
            "captions": {key: CAPTIONS[key] for key in figures},
        },
    )
    reports.save(store, report)
    failure = log_report(settings, name, content.headline, [folder / file for file in FILES])
    if failure:
        say(failure)
    return report


def write_files(folder: Path, files: Mapping[str, Callable[[Path], object]]) -> None:
    """Writes files so that none is ever half there: first beside the folder, then each takes its
    place at once. Where one cannot be written the old ones stay. Raises MoescopeError."""
    new = folder.with_name(f".{folder.name}-{os.getpid()}-{token_hex(3)}")
    try:
        new.mkdir(parents=True)
        for name, write in files.items():
            write(new / name)
        folder.mkdir(exist_ok=True)
        for name in files:
            (new / name).replace(folder / name)
    except OSError as error:
        raise MoescopeError(
            f"report folder {folder} cannot be written ({error.strerror}): choose another home"
        ) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def for_parquet(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the table with one type for each column: a coordinate of several types is text."""
    plain = frame.copy()
    for name in plain.columns:
        if not name.startswith(AT):
            continue
        values = plain[name]
        is_number = values.map(
            lambda value: isinstance(value, int | float) and not isinstance(value, bool)
        )
        if is_number.all():
            plain[name] = values.astype(float)
        else:
            plain[name] = [None if _is_missing(value) else str(value) for value in values]
    return plain


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _json(told: dict[str, Any]) -> str:
    return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
