"""The tables of the store, as the newest migration leaves them (a test compares the two).

Runs, segments, events, alerts, checkpoints, commands and leases are one row per record; a column is
named like the record's field. Samples are packed:
- `scalar_rows`: one row per (run, group, segment, step): the scalars of the group as little-endian
  float32, in the order that `layouts` names. It also carries the time of the group's vectors, so a
  group without scalars has empty rows.
- `vector_rows`: one row per (run, signal, row, segment, step): a 1-D signal is row -1, a 2-D signal
  has a row per first-dimension index, since a view draws one layer over many steps (the cost does
  not grow with depth).
- `spans`: which signal was measured in which segment, from where to where; of a scalar also its
last
  value and its lowest and highest finite one. Small integers stand for names: `signals`, `groups`
  and `layouts` only ever grow.
- `chunk_steps`, `chunks`, `rollups`: what becomes of the rows of a closed window of steps, see
  `platform/compacted/`. A row beside a chunk is newer than it.
"""

import json
import math
from typing import Any

import numpy as np
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    false,
)
from sqlalchemy.types import TypeEngine

from .errors import MoescopeError

VERSION_TABLE = "moescope_version"
"""Not Alembic's own name, which MLflow's database uses too."""

metadata = MetaData()


class Json(TypeDecorator[Any]):
    """Nested plain values as text; numpy numbers and arrays become plain ones, NaN and infinity
    survive.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return json.dumps(value, default=_plain, separators=(",", ":"))

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        try:
            return json.loads(value)
        except ValueError:
            raise MoescopeError(
                f"the store is damaged, as {str(value)[:40]!r} is no JSON: restore a backup of it"
            ) from None


class JsonIfReadable(Json):
    """Nested plain values of a row that must not hide all others: a damaged text reads as None."""

    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        try:
            return super().process_result_value(value, dialect)
        except MoescopeError:
            return None


class Words(TypeDecorator[str]):
    """Text that came from outside: a NUL or an undecodable byte of a file name must not make its
    record unwritable.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return str(value).replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class Real(TypeDecorator[float]):
    """A float that may be NaN. SQLite keeps NaN as NULL, so NULL reads as NaN: never for a value
    that may be None.
    """

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else float(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> float:
        return math.nan if value is None else float(value)


class Whole(TypeDecorator[int]):
    """An integer; numpy's become plain ones, which SQLite's driver would refuse."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


class Moment(TypeDecorator[float]):
    """Seconds since the epoch; None where it has not happened."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> float | None:
        return None if value is None else float(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> float | None:
        # SQLite's RETURNING shows a round number as an integer
        return None if value is None else float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def _key(name: str, kind: type[TypeEngine[int]] = Integer) -> Column[int]:
    """A part of a key of small whole numbers that somebody else gave."""
    return Column(name, kind, primary_key=True, autoincrement=False)


def _of_run(*, is_key: bool = False) -> Column[str]:
    owner = ForeignKey("runs.id", ondelete="CASCADE")
    return Column("run_id", Text, owner, primary_key=is_key, nullable=False)


runs = Table(
    "runs",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Words, nullable=False, index=True),
    Column("project", Words, nullable=False),
    Column("config", JsonIfReadable, nullable=False),
    Column("status", Text, nullable=False),
    Column("device", Words, nullable=False),
    Column("code_version", Words, nullable=False),
    Column("created_s", Moment, nullable=False),
    Column("heartbeat_s", Moment, nullable=False),
    Column("finished_s", Moment),
    Column("mode", Text, nullable=False),
    Column("tags", JsonIfReadable, nullable=False),
    Column("note", Words, nullable=False),
    Column("is_archived", Boolean, nullable=False),
    Column("folder", Words, nullable=False),
    sqlite_autoincrement=True,  # the number of a deleted run is never given again
)

segments = Table(
    "segments",
    metadata,
    _of_run(is_key=True),
    Column("index", Whole, primary_key=True, autoincrement=False),
    Column("start_step", Whole, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_s", Moment, nullable=False),
    Column("parent_segment", Whole),
    Column("parent_step", Whole),
    Column("alert_id", Text),
    Column("changes", Json, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("key", Text, primary_key=True),  # a hash of the whole event: see store.add_event
    _of_run(),
    Column("segment", Whole, nullable=False),
    Column("step", Whole, nullable=False),
    Column("time_s", Moment, nullable=False),
    Column("kind", Text, nullable=False),
    Column("text", Words, nullable=False),
    Column("details", Json, nullable=False),
    Index("events_of_run", "run_id", "segment", "step"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Text, primary_key=True),
    _of_run(),
    Column("segment", Whole, nullable=False),
    Column("rule", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("onset_step", Whole, nullable=False),
    Column("fired_step", Whole, nullable=False),
    Column("value", Real),
    Column("threshold", Real),
    Column("message", Words, nullable=False),
    Column("created_s", Moment, nullable=False),
    Column("dedupe_key", Words, nullable=False),
    Column("state", Text, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("changed_by", Words, nullable=False),
    Column("changed_s", Moment),
    Column("silenced_until_s", Moment),
    Column("delivered_s", Moment),
    Column("delivery_failure", Words, nullable=False, server_default=""),
    Column("num_deliveries", Whole, nullable=False, server_default="0"),
    Index("alerts_of_run", "run_id", "created_s"),
)

incidents = Table(
    "incidents",
    metadata,
    # no foreign key: the account may come before the alert's own row
    Column("alert_id", Text, primary_key=True),
    _of_run(),
    Column("made_s", Moment, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("is_replayed", Boolean, nullable=False),
    Column("content", Json, nullable=False),
    Index("incidents_of_run", "run_id", "made_s"),
)

rule_versions = Table(
    "rule_versions",
    metadata,
    # no foreign key: rules of all runs have an empty one
    Column("run_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Whole, primary_key=True, autoincrement=False),
    Column("body", Json, nullable=False),
    Column("is_on", Boolean, nullable=False),
    Column("changed_by", Words, nullable=False),
    Column("changed_s", Moment, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _of_run(is_key=True),
    Column("segment", Whole, primary_key=True, autoincrement=False),
    Column("step", Whole, primary_key=True, autoincrement=False),
    Column("path", Words, nullable=False),
    Column("batch", Whole, nullable=False),
    Column("num_bytes", Whole, nullable=False),
    Column("created_s", Moment, nullable=False),
    Column("health", Text, nullable=False),
    Column("is_on_disk", Boolean, nullable=False),
)

commands = Table(
    "commands",
    metadata,
    Column("id", Text, primary_key=True),
    _of_run(),
    Column("kind", Text, nullable=False),
    Column("args", Json, nullable=False),
    Column("asked_by", Words, nullable=False),
    Column("asked_s", Moment, nullable=False),
    Column("state", Text, nullable=False),
    Column("answer", Words, nullable=False),
    Column("answered_s", Moment),
    Index("commands_of_run", "run_id", "state"),
)

deeds = Table(
    "deeds",
    metadata,
    Column("id", Text, primary_key=True),
    Column("asked_s", Moment, nullable=False, index=True),
    Column("who", Words, nullable=False),
    Column("role", Text, nullable=False),
    Column("what", Text, nullable=False),
    # no foreign keys: what was done stays on the list when its run is deleted
    Column("about", Text, nullable=False),
    Column("about_id", Words, nullable=False),
    Column("args", Json, nullable=False),
    Column("outcome", Words, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("since_s", Moment, nullable=False),
    Column("until_s", Moment, nullable=False),
)

studies = Table(
    "studies",
    metadata,
    Column("name", Text, primary_key=True),
    Column("spec", Json, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_s", Moment, nullable=False),
    Column("is_served", Boolean, nullable=False, server_default=false()),
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("spec", Json, nullable=False),
    Column("kind", Text, nullable=False),
    Column("when", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("created_s", Moment, nullable=False),
    Column("is_paused", Boolean, nullable=False),
)

firings = Table(
    "firings",
    metadata,
    Column("schedule", Text, ForeignKey("schedules.name", ondelete="CASCADE"), primary_key=True),
    Column("due_s", Double, primary_key=True),
    Column("fired_s", Moment, nullable=False),
    Column("by", Text, nullable=False),
    Column("outcome", Words, nullable=False),
)

calibrations = Table(
    "calibrations",
    metadata,
    Column("machine", Text, primary_key=True),
    Column("shape", Text, primary_key=True),
    Column("flops_per_s", Double, nullable=False),
    Column("measured_s", Moment, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("study", Text, ForeignKey("studies.name", ondelete="CASCADE"), primary_key=True),
    Column("made_s", Moment, nullable=False),
    Column("folder", Words, nullable=False),
    Column("content", Json, nullable=False),
)

trials = Table(
    "trials",
    metadata,
    Column("study", Text, ForeignKey("studies.name", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("position", Whole, nullable=False),
    Column("label", Words, nullable=False),
    Column("coordinates", Json, nullable=False),
    Column("config", Json, nullable=False),
    Column("cost", Json, nullable=False),
    Column("trunk", Text, nullable=False),
    Column("branch_at", Whole, nullable=False),
    Column("state", Text, nullable=False),
    Column("is_wanted", Boolean, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("num_attempts", Whole, nullable=False),
    Column("num_failures", Whole, nullable=False),
    Column("not_before_s", Moment, nullable=False),
    Column("worker", Text, nullable=False),
    Column("until_s", Moment, nullable=False),
    Column("result", Json, nullable=False),
    Index("trials_of_study", "study", "state", "position"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("study", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("number", Whole, primary_key=True, autoincrement=False),
    Column("worker", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("started_s", Moment, nullable=False),
    Column("ended_s", Moment),
    Column("exit_reason", Words, nullable=False),
    Column("log_tail", Words, nullable=False),
    ForeignKeyConstraint(["study", "key"], ["trials.study", "trials.key"], ondelete="CASCADE"),
)

views = Table(
    "views",
    metadata,
    Column("page", Text, primary_key=True),
    Column("name", Words, primary_key=True),
    Column("query", Words, nullable=False),
    Column("saved_by", Words, nullable=False),
    Column("saved_s", Moment, nullable=False),
)

groups = Table(
    "groups",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
)

signals = Table(
    "signals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("group_name", Text, nullable=False),
    Column("num_dimensions", Integer, nullable=False),
)

layouts = Table(
    "layouts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "name", Text, nullable=False, unique=True
    ),  # the signals' names: see packing.BETWEEN_NAMES
)

scalar_rows = Table(
    "scalar_rows",
    metadata,
    _key("run_number"),
    _key("group_id"),
    _key("segment"),
    _key("step", BigInteger),
    Column("time_s", Double, nullable=False),
    Column("layout_id", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

vector_rows = Table(
    "vector_rows",
    metadata,
    _key("run_number"),
    _key("signal_id"),
    _key("row"),
    _key("segment"),
    _key("step", BigInteger),
    Column("data", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

spans = Table(
    "spans",
    metadata,
    _key("run_number"),
    _key("signal_id"),
    _key("segment"),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("num_rows", Integer, nullable=False),  # first dimension of a 2-D signal, else 0
    Column("last_value", Double),  # of a scalar; NULL stands for NaN too, as SQLite has none
    Column("low", Double),  # lowest finite value, and the first step of this segment that had it
    Column("low_step", BigInteger),
    Column("high", Double),
    Column("high_step", BigInteger),
    sqlite_with_rowid=False,
)

chunk_steps = Table(
    "chunk_steps",
    metadata,
    _key("run_number"),
    _key("group_id"),
    _key("segment"),
    _key("window", BigInteger),
    Column("data", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

chunks = Table(
    "chunks",
    metadata,
    _key("run_number"),
    _key("signal_id"),
    _key("row"),
    _key("segment"),
    _key("window", BigInteger),
    Column("data", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

rollups = Table(
    "rollups",
    metadata,
    _key("run_number"),
    _key("signal_id"),
    _key("row"),
    _key("segment"),
    _key("level"),
    _key("window", BigInteger),
    Column("data", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

OF_SAMPLES = (vector_rows, scalar_rows, chunks, rollups, chunk_steps, spans)
"""Tables keyed by `run_number`, where samples lie."""
