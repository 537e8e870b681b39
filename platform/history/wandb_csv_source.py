"""CSV files of Weights & Biases: what a chart's menu exports, what `run.history()` gives, and the
table of runs.

A chart has one column per run, `RUN - METRIC`, beside its `__MIN` and `__MAX`, which are the band
of a smoothed or sampled curve and are left out. A history has `_step` and `_timestamp` and a column
per metric. Several charts of a run add up to one run. An empty cell is a step at which the metric
was not logged. Files are read row by row.
"""

import csv
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from ..errors import MoescopeError, did_you_mean
from ..records import RunStatus
from .jsonl_source import numeric, time_of, whole
from .points import Point, Source, Told, key_of, plain_of

_STEP_NAMES = ("_step", "Step", "step", "global_step", "trainer/global_step", "train/global_step")
_TIME_NAMES = ("_timestamp", "Wall Time", "timestamp", "Timestamp")
_BETWEEN = " - "
_BANDS = ("__MIN", "__MAX")
_NO_METRICS = ("_step", "_runtime", "_timestamp", "_wandb", "Unnamed: 0", "")
_STATES: dict[str, RunStatus] = {
    "finished": "finished",
    "crashed": "crashed",
    "failed": "crashed",
    "killed": "stopped",
    "running": "stopped",
}
_OWN_COLUMNS = ("Name", "State", "Notes", "User", "Tags", "Created", "Runtime", "Sweep", "ID")


@dataclass(frozen=True, slots=True)
class _Column:
    file: Path
    at: int
    metric: str


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What the head of a file says. of_run: {run: its columns}; one nameless run of a history."""

    file: Path
    step_at: int
    time_at: int | None
    of_run: dict[str, list[_Column]]
    is_chart: bool
    num_bands: int


def wandb_csv_sources(
    files: Sequence[Path],
    project: str,
    name: str = "",
    wanted: Sequence[str] = (),
    table: Path | None = None,
    step_name: str = "",
    time_name: str = "",
) -> list[Source]:
    """The runs of all files. wanted: only these, names or patterns. name: of the one run that the
    files hold. table: a CSV of the table of runs, for configurations, tags and states. Raises
    MoescopeError where a file has no step or no metric, or a wanted run is in none."""
    csv.field_size_limit(sys.maxsize)
    sheets = [_sheet(file, step_name, time_name) for file in files]
    runs: dict[str, list[_Sheet]] = {}
    for sheet in sheets:
        for run in sheet.of_run:
            runs.setdefault(run or name or sheet.file.stem, []).append(sheet)
    for pattern in wanted:
        if not any(fnmatchcase(run, pattern) for run in runs):
            raise MoescopeError(
                f"run {pattern} is in none of the files{did_you_mean(pattern, runs)} (they hold "
                f"{', '.join(list(runs)[:8])})"
            )
    chosen = [run for run in runs if not wanted or any(fnmatchcase(run, w) for w in wanted)]
    if name and len(chosen) > 1:
        raise MoescopeError(
            f"--name {name} is for one run, and the files hold {', '.join(list(runs)[:8])}: "
            "say which with --run"
        )
    rows = {} if table is None else _table(table)
    return [_source(run, name or run, project, runs[run], rows.get(run)) for run in chosen]


def _source(
    run: str, name: str, project: str, sheets: Sequence[_Sheet], row: dict[str, str] | None
) -> Source:
    columns = [c for sheet in sheets for c in sheet.of_run.get(run, sheet.of_run.get("", []))]
    return Source(
        "wandb-csv",
        key_of(project, name),
        name,
        project,
        str(sheets[0].file.absolute()),
        partial(_points, run, sheets, row),
        names=list(dict.fromkeys(column.metric for column in columns)),
        # each chart of a run is a file of its own
        is_of_one_place=not sheets[0].is_chart,
        # Weights & Biases takes no step below the last one
        can_go_back=False,
    )


def _points(
    run: str, sheets: Sequence[_Sheet], row: dict[str, str] | None, told: Told
) -> Iterator[Point]:
    if row is not None:
        _tell(told, row)
    num_stepless = 0
    for sheet in sheets:
        told.made_s = sheet.file.stat().st_mtime
        columns = sheet.of_run.get(run, sheet.of_run.get("", []))
        for cells in _rows(sheet.file):
            step = whole(cells[sheet.step_at]) if sheet.step_at < len(cells) else None
            if step is None:
                num_stepless += any(cells)
                continue
            time_s = None
            if sheet.time_at is not None and sheet.time_at < len(cells):
                time_s = time_of(cells[sheet.time_at])
            for column in columns:
                text = cells[column.at] if column.at < len(cells) else ""
                if not text.strip():
                    continue
                number = numeric(text)
                if number is None:
                    told.left.setdefault(column.metric, "text, or a histogram or picture")
                else:
                    told.left.pop(column.metric, None)
                    at_s = math.nan if time_s is None else time_s
                    yield Point(column.metric, step, at_s, number)
        if sheet.num_bands:
            told.left["__MIN and __MAX"] = "the band of a sampled curve"
    if num_stepless:
        told.notes.append(f"{num_stepless:,} rows without a whole step were left out")
    if any(sheet.is_chart for sheet in sheets):
        told.notes.append(
            "Weights & Biases samples long curves for its charts: `run.scan_history()` gives all"
        )


def _sheet(file: Path, step_name: str, time_name: str) -> _Sheet:
    head = next(_rows(file, with_head=True), None)
    if not head:
        raise MoescopeError(f"{file} is empty: a line of column names is expected")
    names = (step_name,) if step_name else _STEP_NAMES
    step_at = next((head.index(name) for name in names if name in head), None)
    if step_at is None:
        raise MoescopeError(
            f"{file} has no column {' or '.join(names[:2])} (it begins with {head[0]!r}): export "
            "the chart with Step as its x axis, or name the column with --step"
        )
    times = (time_name,) if time_name else _TIME_NAMES
    time_at = next((head.index(name) for name in times if name in head), None)
    if time_name and time_at is None:
        raise MoescopeError(f"{file} has no column {time_name}{did_you_mean(time_name, head)}")
    of_run: dict[str, list[_Column]] = {}
    others = [(at, name) for at, name in enumerate(head) if at not in (step_at, time_at)]
    bands = [name for _, name in others if name.endswith(_BANDS)]
    is_chart = any(name.removesuffix(end) in head for name in bands for end in _BANDS)
    is_chart = is_chart or all(_BETWEEN in name for _, name in others)
    for at, name in others:
        run, between, metric = name.rpartition(_BETWEEN) if is_chart else ("", "", name)
        if name in bands or metric in _NO_METRICS or (is_chart and not between):
            continue
        of_run.setdefault(run, []).append(_Column(file, at, metric))
    if not of_run:
        raise MoescopeError(f"{file} has no column of a metric beside {head[step_at]}")
    return _Sheet(file, step_at, time_at, of_run, is_chart, len(bands) if is_chart else 0)


def _rows(file: Path, *, with_head: bool = False) -> Iterator[list[str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
            rows = csv.reader(lines)
            if not with_head:
                next(rows, None)
            yield from rows
    except OSError as error:
        raise MoescopeError(f"{file} cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise MoescopeError(f"{file} is no CSV ({error})") from None


def _table(file: Path) -> dict[str, dict[str, str]]:
    """{run: its row} of the table of runs."""
    head, *rows = list(_rows(file, with_head=True)) or [[]]
    if "Name" not in head:
        raise MoescopeError(f"{file} has no column Name: the table of runs is expected")
    found = {}
    for row in rows:
        told = dict(zip(head, row, strict=False))
        found[told["Name"]] = told
    return found


def _tell(told: Told, row: dict[str, str]) -> None:
    told.status = _STATES.get(row.get("State", "").lower(), "finished")
    if row.get("State", "").lower() == "running":
        told.notes.append("it was still running: import it again to bring in more")
    told.note = row.get("Notes", "").strip("- ")
    told.tags = tuple(tag.strip() for tag in row.get("Tags", "").split(",") if tag.strip())
    told.created_s = time_of(row.get("Created", ""))
    told.params = {
        name: plain_of(text) for name, text in row.items() if name not in _OWN_COLUMNS and text
    }
