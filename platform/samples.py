"""Writes frames. Idempotent: rows are upserted on their natural key, and scalars of one step
that come in two frames end up side by side in one row, whichever came first.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Table, bindparam, select

from . import tables
from .engines import Database, unknown_run
from .packing import GroupKey, PackedFrames, pack, pack_scalars, unpack_scalars
from .records import Frame
from .row_writing import write_rows
from .spans import widen_spans
from .upserts import insert_into

_ROWS_AT_ONCE = 2000
"""Rows of one transaction: about 10 ms."""
_SCALAR_COLUMNS = ("run_number", "group_id", "segment", "step", "time_s", "layout_id", "data")
_VECTOR_COLUMNS = ("run_number", "signal_id", "row", "segment", "step", "data")
_scalars = tables.scalar_rows.c
_EXISTING = (
    select(_scalars.step, tables.layouts.c.name, _scalars.data)
    .join(tables.layouts, tables.layouts.c.id == _scalars.layout_id)
    .where(
        _scalars.run_number == bindparam("run"),
        _scalars.group_id == bindparam("group"),
        _scalars.segment == bindparam("segment"),
        _scalars.step.between(bindparam("first"), bindparam("last")),
    )
)


def write_frames(database: Database, frames: Sequence[Frame], *, is_durable: bool = False) -> None:
    """Writes frames in their order, in transactions of about 10 ms each. Durable: on disk when it
    returns, also if the machine loses power a moment later.

    Raises MoescopeError on an unknown signal or a wrong shape (then nothing was written),
    UnknownRun, or StoreAway.
    """
    for packed in [pack(batch) for batch in _batches(frames)]:
        if not packed.times_s:  # frames without values
            continue
        work = partial(_write, database=database, packed=packed)
        new = database.write(work, is_durable=is_durable)
        database.names.update(new)


def _batches(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    num_rows = 0
    for frame in frames:
        batch.append(frame)
        num_rows += sum(len(v) if getattr(v, "ndim", 0) > 1 else 1 for v in frame.values.values())
        if num_rows >= _ROWS_AT_ONCE:
            yield batch
            batch, num_rows = [], 0
    if batch:
        yield batch


def _write(
    connection: Connection, database: Database, packed: PackedFrames
) -> dict[tuple[str, str], int]:
    """Writes one batch; returns the names that it had to add, to be remembered once the
    transaction is through.
    """
    number = _run_numbers(connection, {run_id for run_id, *_ in packed.times_s})
    known = dict(database.names)
    group_id = _ids(
        connection, known, tables.groups, {group: {} for _, group, *_ in packed.times_s}
    )
    signal_id = _ids(
        connection,
        known,
        tables.signals,
        {
            name: {"group_name": spec.group, "num_dimensions": len(spec.dimensions)}
            for name, spec in packed.specs.items()
        },
    )
    scalars = _merged(connection, packed.scalars, number, group_id)
    rows = {key: pack_scalars(values) for key, values in scalars.items()}
    layout_id = _ids(connection, known, tables.layouts, {layout: {} for layout, _ in rows.values()})
    write_rows(
        connection,
        tables.scalar_rows,
        _SCALAR_COLUMNS,
        [
            (
                number[run_id],
                group_id[group],
                segment,
                step,
                packed.times_s[run_id, group, segment, step],
                layout_id[layout],
                data,
            )
            for (run_id, group, segment, step), (layout, data) in rows.items()
        ],
    )
    write_rows(
        connection,
        tables.vector_rows,
        _VECTOR_COLUMNS,
        [
            (number[run_id], signal_id[signal], row, segment, step, data)
            for (run_id, signal, row, segment, step), data in packed.vectors.items()
        ],
    )
    widen_spans(
        connection,
        {
            (number[run_id], signal_id[signal], segment): span
            for (run_id, signal, segment), span in packed.spans.items()
        },
    )
    return known


def _run_numbers(connection: Connection, run_ids: set[str]) -> dict[str, int]:
    found = connection.execute(
        select(tables.runs.c.id, tables.runs.c.number).where(tables.runs.c.id.in_(sorted(run_ids)))
    )
    number = {row.id: row.number for row in found}
    for run_id in run_ids - number.keys():
        raise unknown_run(run_id)
    return number


def _ids(
    connection: Connection,
    known: dict[tuple[str, str], int],
    table: Table,
    wanted: Mapping[str, Mapping[str, Any]],
) -> dict[str, int]:
    """The ids of names in a dictionary table; new names are added to it and to `known`."""
    new = sorted(name for name in wanted if (table.name, name) not in known)
    if new:
        connection.execute(
            insert_into(connection.dialect.name, table).on_conflict_do_nothing(),
            [{"name": name, **wanted[name]} for name in new],
        )
        rows = connection.execute(select(table.c.name, table.c.id).where(table.c.name.in_(new)))
        known.update({(table.name, row.name): row.id for row in rows})
    return {name: known[table.name, name] for name in wanted}


def _merged(
    connection: Connection,
    scalars: Mapping[GroupKey, dict[str, float]],
    number: Mapping[str, int],
    group_id: Mapping[str, int],
) -> Mapping[GroupKey, dict[str, float]]:
    """The scalars, with those of an earlier frame of the same step that this one leaves out."""
    steps: defaultdict[tuple[str, str, int], list[int]] = defaultdict(list)
    for run_id, group, segment, step in scalars:
        steps[run_id, group, segment].append(step)
    merged = dict(scalars)
    for (run_id, group, segment), some in steps.items():
        there = connection.execute(
            _EXISTING,
            {
                "run": number[run_id],
                "group": group_id[group],
                "segment": segment,
                "first": min(some),
                "last": max(some),
            },
        )
        for step, layout, data in there:
            key = run_id, group, segment, step
            if key in merged:
                merged[key] = {**unpack_scalars(layout, data), **merged[key]}
    return merged
