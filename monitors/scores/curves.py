"""Recorded curves: read from CSV, grouped by their file names, split into tuning and held out.

Runs that saw the same batches in the same order have the same odd batches: they are no independent
evidence, and a split between them would tune on what it reports. So whole orders of data are split.
"""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...platform.errors import MoescopeError
from ..windows import Floats

Part = Literal["tuning", "held-out"]

LOSS_COLUMNS = ("train_loss", "lm_loss", "loss")
"""What the loss of a step may be called; the first is what documentation names."""

SPLIT: dict[str, tuple[str, Part]] = {
    "llmc": ("llmc", "tuning"),
    "QuantizedFP4": ("quantized", "tuning"),
    "SOAP": ("first", "held-out"),
    "Muon": ("first", "held-out"),
    "ModernArch": ("first", "held-out"),
    "DistributedMuon": ("first", "held-out"),
    "PyTorch25": ("first", "held-out"),
    "UntieEmbed": ("first", "held-out"),
    "CastBf16": ("first", "held-out"),
    "Replicateleloykun": ("first", "held-out"),
    "ScaleShortcuts": ("first", "held-out"),
    "UNetDoubleLr": ("first", "held-out"),
    "FlexAttention": ("first", "held-out"),
    "ValueEmbed": ("first", "held-out"),
}
"""{group: (order of the data, part)} of the recorded curves of modded-nanogpt. Orders are measured:
residuals of two runs at the same steps correlate by .98 to 1.00 within `first`, by .22 or less
between orders (docs/detectors.md). A group that is not here is an order of its own, and held out:
no threshold has seen it."""

_DATED_NAME = re.compile(r"\d{4}-\d{2}-\d{2}_([A-Za-z0-9]+)")


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The losses of one run, in the order of its steps. A gradient norm that was not recorded is
    NaN."""

    name: str
    group: str
    loss: Floats
    grad_norm: Floats

    @property
    def order(self) -> str:
        """Which order of data the run saw; runs of one order are not independent."""
        return SPLIT.get(self.group, (self.group, "held-out"))[0]

    @property
    def part(self) -> Part:
        return SPLIT.get(self.group, (self.group, "held-out"))[1]


def group_of(stem: str) -> str:
    """The group that a file's name tells: what follows its date, or else the whole name.

    `track_1_short_2024-12-04_ValueEmbed_00008ea0-...` is of the group `ValueEmbed`.
    """
    found = _DATED_NAME.search(stem)
    return found.group(1) if found else stem


def read_curves(paths: Sequence[Path]) -> list[Curve]:
    """Reads files, and the files `*.csv` of folders, in the order of their names.

    Raises MoescopeError for what is no such table, and for two files with the same name.
    """
    curves: dict[str, Curve] = {}
    for path in csv_files(paths):
        if path.stem in curves:
            raise MoescopeError(f"{path}: a curve of this name was given before: leave one out")
        curves[path.stem] = read_curve(path)
    return list(curves.values())


def csv_files(paths: Iterable[Path]) -> list[Path]:
    """The files that are meant: those that are named, and all `*.csv` of folders that are."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("*.csv"))
            if not inside:
                raise MoescopeError(f"{path}: no CSV file lies in this folder")
            found += inside
        else:
            found.append(path)
    return found


def read_curve(path: Path) -> Curve:
    """Reads a table with the columns step, train_loss and, where there is one, grad_norm.

    `nan` and `inf` are kept as values that are not finite, and an empty gradient norm as one that
    was not recorded; steps must rise.
    """
    rows = read_table(path)
    loss_column = next((name for name in LOSS_COLUMNS if name in rows[0]), None)
    missing = [] if "step" in rows[0] else ["step"]
    missing += [] if loss_column else [LOSS_COLUMNS[0]]
    if missing or loss_column is None:
        raise MoescopeError(
            f"{path}: column {' and '.join(missing)} is missing (there are: {', '.join(rows[0])}); "
            "a curve has step, train_loss and perhaps grad_norm"
        )
    steps = numbers(path, rows, "step")
    if not (np.diff(steps) > 0).all():
        line = int(np.argmin(np.diff(steps) > 0)) + 3
        raise MoescopeError(f"{path}, line {line}: steps must rise, one row for each")
    loss = numbers(path, rows, loss_column)
    if not np.isfinite(loss).any():
        raise MoescopeError(f"{path}: no loss in it is a finite number")
    has_grad_norm = "grad_norm" in rows[0]
    if has_grad_norm:
        grad_norm = numbers(path, rows, "grad_norm", is_optional=True)
    else:
        grad_norm = np.full(loss.size, np.nan)
    return Curve(path.stem, group_of(path.stem), loss, grad_norm)


def read_table(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file with a header. Raises MoescopeError where there is none."""
    try:
        # a byte order mark is no part of the first column's name
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            header = reader.fieldnames
    except OSError as error:
        raise MoescopeError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise MoescopeError(f"{path} is no CSV file: {error}") from None
    if not header:
        raise MoescopeError(f"{path} is empty: a curve has a header and a row for each step")
    if not rows:
        raise MoescopeError(f"{path} has a header and no rows")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise MoescopeError(f"{path}, line {line}: not {len(header)} cells as in the header")
    return rows


def numbers(
    path: Path, rows: list[dict[str, str]], column: str, *, is_optional: bool = False
) -> Floats:
    """The column as numbers; an empty cell is NaN where the column is optional, else an error."""
    values = np.empty(len(rows))
    for index, row in enumerate(rows):
        is_left_out = is_optional and not row[column].strip()
        try:
            values[index] = math.nan if is_left_out else float(row[column])
        except ValueError:
            raise MoescopeError(
                f"{path}, line {index + 2}: {column} is {row[column]!r}, which is no number"
            ) from None
    return values


def curves_of(curves: Sequence[Curve], part: str) -> list[Curve]:
    """Those of a part (tuning, held-out, or all). Raises MoescopeError where none is."""
    chosen = [curve for curve in curves if part in ("all", curve.part)]
    if not chosen:
        other = "held-out" if part == "tuning" else "tuning"
        raise MoescopeError(f"all curves are of the {other} part: ask for it with --part {other}")
    return chosen
