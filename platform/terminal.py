"""How a command shows what it found: a table for a person, one JSON value for a program."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

# wide enough that a pipe gets whole lines: what reads them cuts by itself
_WIDTH_OF_A_PIPE = 240


def plain(value: Any) -> Any:
    """Turns records, paths, tuples, sets and numpy values into what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers, and a program that reads a bare NaN would stop
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def say_json(value: Any) -> None:
    """Prints one JSON value on stdout, whole and alone."""
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def say_rows(rows: Sequence[Mapping[str, Any]], nothing: str) -> None:
    """Prints rows as a table headed by the first row's keys, or `nothing` where there is none."""
    console = console_for(sys.stdout)
    if not rows:
        console.print(nothing, highlight=False, markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        # rich reads markup in cells: a note like [old] must stay what it is
        table.add_row(*(str(value).replace("[", r"\[") for value in row.values()))
    console.print(table)


def say(text: str) -> None:
    """Prints a plain line on stdout, never wrapped."""
    console_for(sys.stdout).print(text, highlight=False, markup=False, soft_wrap=True)


def console_for(stream: Any) -> Console:
    """A console on the stream: as wide as the terminal, or wide and without colours in a pipe."""
    is_terminal = bool(getattr(stream, "isatty", lambda: False)())
    return Console(file=stream, width=None if is_terminal else _WIDTH_OF_A_PIPE)


def one_line(text: object) -> str:
    """The text on a single line."""
    return " ".join(str(text).split())


def ago(then_s: float, now_s: float) -> str:
    """A time span in the largest fitting unit: `40 s`, `3 min`, `5 h`, `12 d`."""
    span_s = max(0.0, now_s - then_s)
    for unit, size_s in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if span_s >= size_s:
            return f"{span_s / size_s:.0f} {unit}"
    return f"{span_s:.0f} s"
