"""Logs in JSON Lines: an object per line with a step and numbers, or one number with its name.

    {"step": 10, "loss": 2.5, "optim": {"lr": 3e-4}, "timestamp": "2026-01-01T10:00:00Z"}
    {"step": 10, "name": "loss", "value": 2.5}

A line without a step may hold the configuration (`config`, `params`, ...). Lines are read one by
one. Several files that belong together are read in the order in which they were given.
"""

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import MoescopeError
from .number_words import number_of
from .own_files import HEAD, own_source
from .points import Point, Source, Told, flat, key_of, seconds_of

STEP_NAMES = (
    *("step", "_step", "global_step", "trainer/global_step", "train/global_step", "iteration"),
    *("iter", "num_updates", "train_step", "Step"),
)
TIME_NAMES = (
    *("time_s", "timestamp", "_timestamp", "wall_time", "time", "ts", "datetime", "date"),
    *("created_at", "@timestamp"),
)
_PARAMS = ("config", "params", "hparams", "hyperparameters", "args")
_NAMES = ("signal", "name", "metric", "tag", "key")
_FIRST_S = 1e8
"""Times before 1973 are seconds since the start of something."""


def jsonl_sources(
    files: Sequence[Path], project: str, name: str, step_name: str = "", time_name: str = ""
) -> list[Source]:
    """A run for each file, or with a name one run out of all. Raises MoescopeError where a file
    cannot be read."""
    for file in files:
        _first_object(file)
    if name:
        return [_source(files, project, name, step_name, time_name)]
    return [_source([file], project, _stem(file), step_name, time_name) for file in files]


def _source(
    files: Sequence[Path], project: str, name: str, step_name: str, time_name: str
) -> Source:
    head = _first_object(files[0])
    if HEAD in head:
        if len(files) > 1:
            raise MoescopeError(
                f"{files[0]} is an export of moescope, which is a run of its own: leave --name out"
            )
        return own_source(head, str(files[0]), lambda: _lines(files[0]))

    def points(told: Told) -> Iterator[Point]:
        reader = _Reader(told, step_name, time_name)
        for file in files:
            told.made_s = file.stat().st_mtime
            yield from reader.read(file)
        reader.finish(files)

    place = str(files[0].absolute())
    return Source("jsonl", key_of(project, name), name, project, place, points)


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").rpartition(".")[0] or file.name


def _lines(file: Path) -> Iterator[str]:
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8", errors="replace") as lines:
            yield from lines
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MoescopeError(f"{file} cannot be read ({why})") from None


def _first_object(file: Path) -> Mapping[str, Any]:
    """The first line that is an object. Raises MoescopeError where there is none."""
    for line in _lines(file):
        found = _object(line)
        if found is not None:
            return found
    raise MoescopeError(f"{file} holds no JSON objects: a line for each is expected")


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
        if "\\u" in line:  # half a surrogate pair is no text that anything could keep
            text = json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")
            found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class _Reader:
    def __init__(self, told: Told, step_name: str, time_name: str) -> None:
        self._told = told
        self._step_names = (step_name,) if step_name else STEP_NAMES
        self._time_names = (time_name,) if time_name else TIME_NAMES
        self._num_broken = 0
        self._num_stepless = 0
        self._num_steps = 0
        self._num_relative = 0

    def read(self, file: Path) -> Iterator[Point]:
        for line in _lines(file):
            if not line.strip():
                continue
            found = _object(line)
            if found is None:
                self._num_broken += 1
            else:
                yield from self._points(found)

    def finish(self, files: Sequence[Path]) -> None:
        if not self._num_steps:
            raise MoescopeError(
                f"no line of {', '.join(map(str, files))} has a step (looked for: "
                f"{', '.join(self._step_names)}): name it with --step"
            )
        if self._num_broken:
            self._told.notes.append(f"{self._num_broken:,} lines were no JSON objects")
        if self._num_stepless:
            self._told.notes.append(f"{self._num_stepless:,} lines without a step were left out")
        if self._num_relative:
            self._told.notes.append(
                f"{self._num_relative:,} times were none since the epoch and were left out"
            )

    def _points(self, found: dict[str, Any]) -> Iterator[Point]:
        row = dict(flat(found))
        step_name = next((name for name in self._step_names if name in row), None)
        step = None if step_name is None else whole(row[step_name])
        if step is None:
            if not self._take_params(found):
                self._num_stepless += 1
            return
        self._num_steps += 1
        time_name = next((name for name in self._time_names if name in row), None)
        time_s = math.nan if time_name is None else self._time(row[time_name])
        row = {name: v for name, v in row.items() if name not in (step_name, time_name)}
        said = next((row[name] for name in _NAMES if isinstance(row.get(name), str)), None)
        if said is not None and "value" in row:
            row = {said: row["value"]}
        numbers = {name: numeric(value) for name, value in row.items()}
        self._told.meet([name for name, number in numbers.items() if number is not None])
        for name, number in numbers.items():
            if number is None:
                self._told.left.setdefault(name, _why(row[name]))
            else:
                self._told.left.pop(name, None)
                yield Point(name, step, time_s, number)

    def _take_params(self, found: dict[str, Any]) -> bool:
        for name in _PARAMS:
            if isinstance(found.get(name), dict):
                self._told.params.update(found[name])
                return True
        return False

    def _time(self, value: Any) -> float:
        time_s = time_of(value)
        if time_s is not None and time_s < _FIRST_S:
            self._num_relative += 1
            return math.nan
        return math.nan if time_s is None else time_s


def whole(value: Any) -> int | None:
    """A step: a whole number, also where it is written as 10.0 or in quotes."""
    number = numeric(value)
    return int(number) if number is not None and float(number).is_integer() else None


def numeric(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    return number_of(value) if isinstance(value, str) else None


def time_of(value: Any) -> float | None:
    """Seconds since the epoch, of a number or a date and time of ISO 8601; one without a zone is
    taken as local."""
    number = numeric(value)
    if number is not None:
        return seconds_of(number) if math.isfinite(number) else None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return moment.timestamp()


def _why(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    return "null" if value is None else f"no number: a {type(value).__name__}"
