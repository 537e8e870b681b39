"""Files of a run's history: JSON Lines, CSV and Parquet, written stretch by stretch and put in
place whole.

JSON Lines: a head (the run, its segments, what was asked for), a line per point, with vectors as
lists, and at the end how many there were. CSV and Parquet are in long form: a row per number, with
the vector's indices in `row` and `column` (empty where the signal has no such dimension). A file
that was thinned says so in each row (`is_thinned`) and in its head.
"""

import csv
import io
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import MoescopeError
from ..terminal import plain
from .exporting import Export, Part
from .number_words import word_of

Format = Literal["parquet", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = ("parquet", "csv", "jsonl")
STDOUT = "-"
END = "moescope_export_end"
"""Of the last line of JSON Lines: without it the file was cut off."""
_COLUMNS = ("signal", "segment", "step", "time_s", "is_living", "row", "column", "value")
_NUMBERS_AT_ONCE = 1 << 18
"""Numbers of one batch of rows: a stretch of a matrix may be several."""


@dataclass(frozen=True, slots=True)
class Written:
    file: str
    num_points: int
    num_signals: int
    is_thinned: bool


def write_export(
    export: Export, format: Format, file: Path | None, *, is_replacing: bool = False
) -> Written:
    """Writes a run's history into a file, or onto stdout where `file` is None.

    Raises MoescopeError where the file is there already (unless it is to be replaced), its folder
    cannot be written, or the format cannot go to stdout.
    """
    if file is None and format == "parquet":
        raise MoescopeError("--out - does not go with parquet, whose end is written last: name one")
    write = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}[format]
    if file is None:
        num_points = write(export, sys.stdout.buffer)
    else:
        with _put_in_place(file, is_replacing) as half:
            num_points = write(export, half)
    is_thinned = export.wanted.thin_to is not None
    return Written(
        STDOUT if file is None else str(file), num_points, len(export.signals), is_thinned
    )


@contextmanager
def _put_in_place(file: Path, is_replacing: bool) -> Iterator[IO[bytes]]:
    if file.exists() and not is_replacing:
        raise MoescopeError(f"{file} is there already: choose another with --out, or --overwrite")
    half = file.with_name(f".{file.name}.{secrets.token_hex(4)}.half")
    try:
        with half.open("wb") as opened:
            yield opened
        os.replace(half, file)
    except OSError as error:
        why = error.strerror or str(error)
        raise MoescopeError(
            f"{file} cannot be written ({why}): choose another with --out"
        ) from None
    finally:
        half.unlink(missing_ok=True)


def _write_jsonl(export: Export, out: IO[bytes]) -> int:
    num_points = 0
    out.write(_line(plain(export.head())))
    for part in export.parts():
        series = part.series
        is_scalar = series.values.ndim == 1
        rows = zip(
            series.segments.tolist(),
            series.steps.tolist(),
            series.times_s.tolist(),
            part.is_living.tolist(),
            series.values.tolist(),
            strict=True,
        )
        for segment, step, time_s, living, value in rows:
            told = {
                "signal": series.signal,
                "segment": segment,
                "step": step,
                "time_s": word_of(time_s),
                "is_living": living,
                "value": word_of(value) if is_scalar else _words(value),
            }
            out.write(_line(told))
        num_points += len(series.steps)
    out.write(_line({END: num_points}))
    return num_points


def _words(value: Any) -> Any:
    return [_words(inner) for inner in value] if isinstance(value, list) else word_of(value)


def _line(told: dict[str, Any]) -> bytes:
    text = json.dumps(told, ensure_ascii=False, allow_nan=False)
    # an undecodable byte of a file name must not end the export
    return text.encode("utf-8", "replace") + b"\n"


def _write_csv(export: Export, out: IO[bytes]) -> int:
    text = io.TextIOWrapper(out, "utf-8", errors="replace", newline="", write_through=False)
    is_thinned = export.wanted.thin_to is not None
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*_COLUMNS, *(["is_thinned"] if is_thinned else [])])
    num_points = 0
    for part in export.parts():
        for num_rows, columns in _long(part):
            plain_columns = [
                [""] * num_rows if column is None else [_cell(value) for value in column.tolist()]
                for column in columns.values()
            ]
            if is_thinned:
                plain_columns.append(["true"] * num_rows)
            signal = part.series.signal
            lines.writerows((signal, *row) for row in zip(*plain_columns, strict=True))
        num_points += len(part.series.steps)
    text.flush()
    text.detach()  # who opened the stream closes it
    return num_points


def _cell(value: bool | int | float) -> str | int | float:
    if isinstance(value, bool):
        return "true" if value else "false"
    return word_of(value) if isinstance(value, float) else value


def _write_parquet(export: Export, out: IO[bytes]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_thinned = export.wanted.thin_to is not None
    types = {
        "signal": pa.dictionary(pa.int32(), pa.string()),
        "segment": pa.int32(),
        "step": pa.int64(),
        "time_s": pa.float64(),
        "is_living": pa.bool_(),
        "row": pa.int32(),
        "column": pa.int32(),
        "value": pa.float32(),
        **({"is_thinned": pa.bool_()} if is_thinned else {}),
    }
    head = json.dumps(plain(export.head()), ensure_ascii=False)
    metadata = {"moescope": head.encode("utf-8", "replace")}
    schema = pa.schema(types.items(), metadata=metadata)
    num_points = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for part in export.parts():
            for num_rows, columns in _long(part):
                indices = pa.array(np.zeros(num_rows, np.int32))
                arrays = [pa.DictionaryArray.from_arrays(indices, [part.series.signal])]
                for name, column in columns.items():
                    # an index that a signal does not have is null, a NaN stays a NaN
                    nothing = column is None
                    arrays.append(
                        pa.nulls(num_rows, types[name])
                        if nothing
                        else pa.array(column, types[name], from_pandas=False)
                    )
                if is_thinned:
                    arrays.append(pa.array(np.ones(num_rows, bool)))
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            num_points += len(part.series.steps)
    return num_points


def _long(part: Part) -> Iterator[tuple[int, dict[str, NDArray[Any] | None]]]:
    """Yields (rows, columns) of a part, a row per number, without the signal's name; None of an
    index that the signal does not have."""
    series = part.series
    shape = series.values.shape[1:]
    per_point = int(np.prod(shape)) if shape else 1
    points_at_once = max(1, _NUMBERS_AT_ONCE // max(1, per_point))
    indices = np.indices(shape, np.int32).reshape(len(shape), per_point)

    def each(column: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(column, per_point)

    for start in range(0, len(series.steps), points_at_once):
        here = slice(start, start + points_at_once)
        num_here = len(series.steps[here])
        columns: dict[str, NDArray[Any] | None] = {
            "segment": each(series.segments[here]),
            "step": each(series.steps[here]),
            "time_s": each(series.times_s[here]),
            "is_living": each(part.is_living[here]),
            "row": np.tile(indices[0], num_here) if len(shape) > 0 else None,
            "column": np.tile(indices[1], num_here) if len(shape) > 1 else None,
            "value": series.values[here].reshape(-1),
        }
        yield num_here * per_point, columns
