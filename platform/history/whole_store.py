"""The whole store as a folder that other programs read: `moescope db export FOLDER`.

    FOLDER/runs.parquet, segments.parquet, ...   a table each, a row per record
    FOLDER/history/RUN-ID.parquet                all samples of a run, as of `moescope export`

It is written beside its place and renamed when it is whole. One that was cut off is taken up again:
histories of runs that have ended since stay as they are, all else is written anew.
"""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, Column, Float, Integer, LargeBinary, Table, select

from .. import tables
from ..errors import MoescopeError
from ..records import Run
from ..store import Store
from ..tables import Json
from ..terminal import plain
from .export_files import Format, write_export
from .exporting import Wanted, prepared

HISTORY = "history"
# who does what at this moment, and the dictionary of packed rows
_NOT_RECORDS = {"leases", "layouts"}


@dataclass(frozen=True, slots=True)
class WholeExport:
    folder: str
    num_runs: int
    num_kept: int
    """Runs whose history was there from an export that was cut off."""
    num_points: int
    """Of the histories that were written now."""
    num_tables: int
    num_rows: int


def export_store(store: Store, to: Path, format: Format) -> WholeExport:
    """Writes all runs and records into a new folder, while others go on writing into the store.

    Raises MoescopeError where the folder is there already or cannot be written.
    """
    if to.exists():
        raise MoescopeError(f"export {to} is there already: choose another name")
    part = to.absolute().with_name(f".{to.name}.{format}.part")
    try:
        (part / HISTORY).mkdir(parents=True, exist_ok=True)
        # a table tells of what is in the histories, so it comes after them
        runs = store.runs(include_archived=True)[::-1]  # those that have ended longest ago first
        num_points, num_kept = 0, 0
        for run in runs:
            file = part / HISTORY / f"{run.id}.{format}"
            if _is_whole(file, run):
                num_kept += 1
                continue
            export = prepared(store, run, Wanted())
            num_points += write_export(export, format, file, is_replacing=True).num_points
        _forget_others(part / HISTORY, {f"{run.id}.{format}" for run in runs})
        rows = 0
        for table in record_tables():
            found = _rows(store, table)
            _write_table(table, found, part / f"{table.name}.{format}", format)
            rows += len(found)
        part.rename(to)
    except OSError as error:
        why = error.strerror or str(error)
        raise MoescopeError(
            f"export {to} cannot be written ({why}): free some disk or choose another folder, and "
            "it goes on from where it is"
        ) from None
    return WholeExport(str(to), len(runs), num_kept, num_points, len(record_tables()), rows)


def record_tables() -> list[Table]:
    """The tables of records; packed samples are in the histories."""
    return [
        table
        for table in tables.metadata.sorted_tables
        if table.name not in _NOT_RECORDS
        and not any(isinstance(column.type, LargeBinary) for column in table.columns)
    ]


def _is_whole(file: Path, run: Run) -> bool:
    """Whether a history was written after the run's end. It is put in place whole."""
    if run.status == "running" or not file.exists():
        return False
    return file.stat().st_mtime > max(run.heartbeat_s, run.finished_s or 0.0)


def _forget_others(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names:  # of a run deleted since, or half written
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _rows(store: Store, table: Table) -> list[dict[str, Any]]:
    statement = select(table).order_by(*table.primary_key)
    return [dict(r) for r in store.database.read(lambda c: c.execute(statement).mappings().all())]


def _write_table(
    table: Table, rows: Sequence[Mapping[str, Any]], file: Path, format: Format
) -> None:
    names = [column.name for column in table.columns]
    if format == "jsonl":
        with file.open("w", encoding="utf-8", errors="replace") as out:
            for row in rows:
                out.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")
    elif format == "csv":
        with file.open("w", encoding="utf-8", errors="replace", newline="") as out:
            lines = csv.writer(out, lineterminator="\n")
            lines.writerow(names)
            lines.writerows([_cell(table.c[name], row[name]) for name in names] for row in rows)
    else:
        _write_parquet(table, rows, file)


def _write_parquet(table: Table, rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for column in table.columns:
        values = [_flat(column, row[column.name]) for row in rows]
        arrays[column.name] = pa.array(values, _arrow_type(column), from_pandas=False)
    pq.write_table(pa.table(arrays), file, compression="zstd")


def _arrow_type(column: Column[Any]) -> Any:
    import pyarrow as pa

    kind = getattr(column.type, "impl_instance", column.type)
    if isinstance(kind, Boolean):
        return pa.bool_()
    if isinstance(kind, Integer):
        return pa.int64()
    return pa.float64() if isinstance(kind, Float) else pa.string()


def _flat(column: Column[Any], value: Any) -> Any:
    """Nested values as JSON, for a format that has none."""
    if isinstance(column.type, Json):
        return None if value is None else json.dumps(plain(value), ensure_ascii=False)
    # an undecodable byte of a file name must not end the export
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _cell(column: Column[Any], value: Any) -> Any:
    flat = _flat(column, value)
    return {True: "true", False: "false"}[flat] if isinstance(flat, bool) else flat
