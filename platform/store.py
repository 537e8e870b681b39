"""The store: what every process of moescope shares, whether it lies in SQLite or in PostgreSQL.

Any thread of any process may call any method at any time. Each call is one or more short
transactions of its own (at most about 50 ms each), so nobody holds the database while it thinks.
Records go in and come out as plain frozen values. What a journal may bring twice is idempotent on
its natural key. Samples may be lost if the machine loses power within moments; alerts, events,
segments, checkpoints and commands are on disk when their call returns.

Errors: `StoreAway` where the call was right and may succeed later (locked, unreachable, read-only,
disk full), `UnknownRun` where the run is not in the store, any other `MoescopeError` where the call
itself is wrong.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Self, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    case,
    delete,
    func,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError

from . import tables
from .engines import PATIENCE_S, Database, UnknownRun, unknown_run
from .errors import MoescopeError, did_you_mean
from .migrate import prepare
from .network_store import refuse_network_store
from .records import (
    FOREVER_S,
    Alert,
    AlertState,
    Checkpoint,
    DamagedConfig,
    Event,
    EventKind,
    Frame,
    Run,
    Segment,
)
from .samples import write_frames
from .silences import end_where, expired, open_expired
from .upserts import Insert, columns_of, insert_into

Answer = TypeVar("Answer")
MOST_DELIVERIES = 50
"""An alert that could not be delivered this often is given up; its failure stays readable."""
_ROWS_AT_ONCE = 2000
"""Rows of one deleting transaction."""
_CHANGEABLE = {
    "status",
    "heartbeat_s",
    "finished_s",
    "mode",
    "tags",
    "note",
    "is_archived",
    "name",
    "config",
    "folder",
}


def open_store(
    url: str,
    *,
    patience_s: float = PATIENCE_S,
    mountinfo: str | None = None,
    may_make: bool = True,
) -> "Store":
    """Opens a store: `sqlite:///FILE` (made, and brought up to date, by itself) or
    `postgresql://...` (made where empty).

    Raises MoescopeError, one line, where the address is wrong, the store unreachable or unwritable,
    newer than this program, (SQLite) on a network file system, or (PostgreSQL) older. `patience_s`:
    how long any call waits for a busy database before it gives up. `mountinfo`: text of a mount
    table in place of this machine's. `may_make`: False refuses a store that is empty or older, of
    whatever kind, and makes nothing.
    """
    database = Database(url, patience_s)
    try:
        if database.file is not None:
            refuse_network_store(database.file, mountinfo)
        prepare(database, may_make=may_make)
    except BaseException:
        database.close()
        raise
    return Store(database)


class Store:
    """An open store; see the module for what its calls promise."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.url = database.url.render_as_string(hide_password=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.database.close()

    def add_run(self, run: Run) -> None:
        """Adds a run; adding the same id again changes nothing."""
        values = {**columns_of(run), "tags": list(run.tags), "config": dict(run.config)}
        self._write(
            lambda c: c.execute(
                insert_into(c.dialect.name, tables.runs).on_conflict_do_nothing(), values
            )
        )

    def find_run(self, name_or_id: str) -> Run:
        """Finds a run by id, by name (the newest of that name), or by the beginning of its id if
        that is unique.

        Raises MoescopeError, with near names where there are some.
        """
        runs = tables.runs.c
        for wanted in (runs.id == name_or_id, runs.name == name_or_id):
            found = self._runs(wanted)
            if found:
                return found[0]
        if name_or_id:
            found = self._runs(func.substr(runs.id, 1, len(name_or_id)) == name_or_id)
            if len(found) == 1:
                return found[0]
            if found:
                some = ", ".join(run.id for run in found[:3])
                raise MoescopeError(f"run {name_or_id} is ambiguous ({some}): give more of the id")
        names = self.database.read(lambda c: c.scalars(select(runs.name).distinct()).all())
        raise UnknownRun(
            f"unknown run {name_or_id}{did_you_mean(name_or_id, names)} (moescope runs lists them)"
        )

    def runs(self, include_archived: bool = False) -> list[Run]:
        """All runs, newest first; one whose configuration is damaged has a `DamagedConfig`."""
        return self._runs() if include_archived else self._runs(~tables.runs.c.is_archived)

    def update_run(self, run_id: str, **fields: Any) -> None:
        """Changes fields of a run, such as status, heartbeat_s, finished_s, mode, tags, note,
        is_archived or name.
        """
        for field in fields.keys() - _CHANGEABLE:
            raise MoescopeError(
                f"a run's {field} cannot be changed{did_you_mean(field, _CHANGEABLE)}"
            )
        if not fields:
            return
        statement = update(tables.runs).where(tables.runs.c.id == run_id).values(fields)
        # a heartbeat is soon followed by the next one: not worth a wait for the disk
        is_durable = fields.keys() != {"heartbeat_s"}
        if not self.database.write(lambda c: c.execute(statement).rowcount, is_durable=is_durable):
            raise unknown_run(run_id)

    def delete_run(self, run_id: str) -> None:
        """Deletes a run with everything that belongs to it; its folder is the caller's. Unknown
        runs are no error.
        """
        try:
            number = self._number(run_id)
        except UnknownRun:
            return
        for table in tables.OF_SAMPLES:
            while self._write(partial(_delete_some, table=table, number=number)):
                pass

        def finish(connection: Connection) -> None:
            mine = select(tables.runs.c.number).where(tables.runs.c.id == run_id)
            connection.execute(mine.with_for_update())  # who packs its samples ends before
            for table in tables.OF_SAMPLES:  # a trainer may have written meanwhile
                connection.execute(delete(table).where(table.c.run_number == number))
            rules = tables.rule_versions
            connection.execute(delete(rules).where(rules.c.run_id == run_id))
            connection.execute(delete(tables.runs).where(tables.runs.c.id == run_id))

        self._write(finish)
        self.database.give_back_disk()

    def _number(self, run_id: str) -> int:
        statement = select(tables.runs.c.number).where(tables.runs.c.id == run_id)
        number: int | None = self.database.read(lambda c: c.scalar(statement))
        if number is None:
            raise unknown_run(run_id)
        return number

    def _runs(self, *wanted: ColumnElement[bool]) -> list[Run]:
        columns = [column for column in tables.runs.c if column.name != "number"]
        newest_first = (tables.runs.c.created_s.desc(), tables.runs.c.number.desc())
        statement = select(*columns).where(*wanted).order_by(*newest_first)
        return self._all(statement, _run_of)

    def add_segment(self, segment: Segment) -> None:
        self._put(tables.segments, segment)

    def segments(self, run_id: str) -> list[Segment]:
        table = tables.segments
        statement = select(table).where(table.c.run_id == run_id).order_by(table.c.index)
        return self._all(statement, lambda row: Segment(**row))

    def add_event(self, event: Event) -> None:
        """Adds an event. Two events are the same if they agree in everything but their details."""
        said = (event.run_id, event.segment, event.step, event.time_s, event.kind, event.text)
        key = hashlib.blake2b(repr(said).encode("utf-8", "replace"), digest_size=12).hexdigest()
        self._put(tables.events, event, key=key)

    def events(self, run_id: str, kinds: Sequence[EventKind] | None = None) -> list[Event]:
        """The events of a run, in the order of (segment, step, time)."""
        event = tables.events.c
        columns = [column for column in event if column.name != "key"]
        statement = select(*columns).where(event.run_id == run_id)
        if kinds is not None:
            statement = statement.where(event.kind.in_(kinds))
        statement = statement.order_by(event.segment, event.step, event.time_s, event.key)
        return self._all(statement, lambda row: Event(**row))

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Adds a checkpoint, or takes over what changed of the one with the same (run, segment,
        step).
        """
        self._put(tables.checkpoints, checkpoint)

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        """The checkpoints of a run, in the order of (segment, step)."""
        kept = tables.checkpoints.c
        statement = select(tables.checkpoints).where(kept.run_id == run_id)
        return self._all(statement.order_by(kept.segment, kept.step), lambda row: Checkpoint(**row))

    def write_frames(self, frames: Sequence[Frame], *, is_durable: bool = False) -> None:
        """Writes samples; reading them is `platform/series.py`. Writing the same frames twice
        changes nothing. Durable: on disk when it returns.

        Raises MoescopeError on an unknown signal or a wrong shape (then nothing was written),
        UnknownRun, or StoreAway.
        """
        write_frames(self.database, frames, is_durable=is_durable)

    def put_alert(self, alert: Alert) -> None:
        """Adds an alert or brings it up to date; a state that a person has set stays, until the
        alert has ended by itself after that.
        """
        self._put(
            tables.alerts,
            alert,
            unless=_was_decided_by_a_person,
            kept=("state", "changed_by", "changed_s"),
            untouched=("silenced_until_s",),
        )

    def alerts(
        self, run_id: str | None = None, states: Sequence[AlertState] | None = None
    ) -> list[Alert]:
        """Alerts of one run or of all, newest first."""
        wanted = []
        if run_id is not None:
            wanted.append(tables.alerts.c.run_id == run_id)
        if states is not None:
            wanted.append(tables.alerts.c.state.in_(states))
        return self._alerts(*wanted)

    def alert(self, alert_id: str) -> Alert:
        for found in self._alerts(tables.alerts.c.id == alert_id):
            return found
        raise MoescopeError(f"unknown alert {alert_id} (moescope alerts lists them)")

    def set_alert_state(
        self,
        alert_id: str,
        state: AlertState,
        who: str,
        now_s: float,
        silenced_until_s: float | None = None,
    ) -> bool:
        """What is decided about an alert: acknowledge, silence (until then, or until a person ends
        it), resolve, open again. A silence holds for its rule and run whatever becomes of the
        alert; only opening one of them, or `silences.end_silence`, ends it sooner.

        Returns False, and changes nothing, where the alert is resolved already: it can be opened
        again, but nothing else is left to decide.
        """
        alert = tables.alerts.c
        values: dict[str, Any] = {"state": state, "changed_by": who, "changed_s": now_s}
        if state == "silenced":
            values["silenced_until_s"] = FOREVER_S if silenced_until_s is None else silenced_until_s
        found = self.alert(alert_id)
        is_it = alert.id == alert_id
        is_ended = and_(
            alert.run_id == found.run_id,
            alert.rule == found.rule,
            or_(is_it, alert.state != "silenced"),
        )
        if state == "open":
            # it is no news to whoever opens it: else a silence long over would make it call
            values["delivered_s"] = case(
                (alert.delivered_s < alert.silenced_until_s, alert.silenced_until_s),
                else_=alert.delivered_s,
            )

        def work(connection: Connection) -> bool:
            changing = update(tables.alerts).where(is_it).values(values)
            if state == "open":
                end_where(connection, is_ended, who, now_s)
            else:
                changing = changing.where(alert.state != "resolved")
            return connection.execute(changing).rowcount > 0

        return self._write(work)

    def end_silences(self, now_s: float) -> int:
        """Opens alerts again whose silence is over; they call once more, and so do those that
        healed and came back meanwhile. Returns how many."""
        # a look costs nobody anything, while changing needs the writer's turn
        look = select(tables.alerts.c.id).where(expired(now_s)).limit(1)
        if self.database.read(lambda c: c.scalar(look)) is None:
            return 0
        return self._write(lambda c: open_expired(c, now_s))

    def undelivered_alerts(self, now_s: float, since_s: float = 0.0) -> list[Alert]:
        """Alerts since then that nobody was told of and nobody has seen, oldest first; after
        many failures an alert is given up. While an alert is silenced, so are those of its rule
        and run; what healed before the silence was over is no news.
        """
        alert = tables.alerts.c
        other = tables.alerts.alias().c
        of_its_kind = and_(other.run_id == alert.run_id, other.rule == alert.rule)
        until_s = (
            select(func.max(other.silenced_until_s))
            .where(of_its_kind)
            .correlate(tables.alerts)
            .scalar_subquery()
        )
        for_good = (
            select(other.id)
            .where(of_its_kind, other.state == "silenced", other.silenced_until_s.is_(None))
            .correlate(tables.alerts)
            .exists()
        )
        found = self._alerts(
            alert.delivered_s.is_(None),
            alert.num_deliveries < MOST_DELIVERIES,
            or_(alert.created_s >= since_s, until_s >= since_s),
            func.coalesce(until_s, now_s) <= now_s,
            not_(for_good),
            # a run that healed by itself is still news; what a person has dealt with is not
            or_(alert.state == "open", alert.changed_by == ""),
            or_(alert.state != "resolved", until_s.is_(None), alert.changed_s > until_s),
        )
        return found[::-1]

    def mark_delivered(self, alert_id: str, now_s: float, failure: str = "") -> None:
        """Notes an attempt to deliver an alert; after a failure it stays undelivered, and the
        text is kept.
        """
        attempts = tables.alerts.c.num_deliveries + 1
        delivered_s = None if failure else now_s
        self._change_alert(
            alert_id, num_deliveries=attempts, delivered_s=delivered_s, delivery_failure=failure
        )

    def delivery_failures(self, run_id: str | None = None, since_s: float = 0.0) -> dict[str, str]:
        """{alert id: why it could not be delivered} for the alerts of a run, or of all, that were
        raised since then and are not delivered.
        """
        alert = tables.alerts.c
        statement = select(alert.id, alert.delivery_failure).where(
            alert.delivery_failure != "", alert.created_s >= since_s
        )
        if run_id is not None:
            statement = statement.where(alert.run_id == run_id)
        return dict(self._all(statement, lambda row: (row["id"], row["delivery_failure"])))

    def _alerts(self, *wanted: ColumnElement[bool]) -> list[Alert]:
        alert = tables.alerts.c
        hidden = {"delivered_s", "delivery_failure", "num_deliveries"}
        columns = [column for column in alert if column.name not in hidden]
        statement = select(*columns).where(*wanted)
        return self._all(
            statement.order_by(alert.created_s.desc(), alert.id), lambda row: Alert(**row)
        )

    def _change_alert(self, alert_id: str, **values: Any) -> None:
        statement = update(tables.alerts).where(tables.alerts.c.id == alert_id).values(values)
        if not self._write(lambda c: c.execute(statement).rowcount):
            raise MoescopeError(f"unknown alert {alert_id} (moescope alerts lists them)")

    def _write(self, work: Callable[[Connection], Answer]) -> Answer:
        return self.database.write(work, is_durable=True)

    def _all(
        self, statement: Select[Any], made: Callable[[dict[str, Any]], Answer]
    ) -> list[Answer]:
        rows = self.database.read(lambda c: c.execute(statement).mappings().all())
        return [made(dict(row)) for row in rows]

    def _put(
        self,
        table: Table,
        record: Any,
        *,
        unless: Callable[[Any], ColumnElement[bool]] | None = None,
        kept: Sequence[str] = (),
        untouched: Sequence[str] = (),
        **more: Any,
    ) -> None:
        """Upserts a record that belongs to a run; the columns in `kept` keep their value where
        `unless` (of the new columns) holds, those in `untouched` always.
        """
        values = {**columns_of(record), **more}

        def work(connection: Connection) -> None:
            statement = _upsert(
                connection.dialect.name, table, tuple(values), unless, tuple(kept), tuple(untouched)
            )
            connection.execute(statement, values)

        try:
            self._write(work)
        except IntegrityError as error:
            self._number(record.run_id)
            why = " ".join(str(error.orig).split())
            raise MoescopeError(f"store refuses a row of {table.name} ({why})") from error


def _was_decided_by_a_person(new: Any) -> ColumnElement[bool]:
    """Of a new row of an alert: whether what a person has set stays."""
    old = tables.alerts.c
    has_ended = and_(new.state == "resolved", func.coalesce(new.changed_s, 0.0) > old.changed_s)
    return and_(old.changed_by != "", not_(has_ended))


@cache
def _upsert(
    dialect: str,
    table: Table,
    names: tuple[str, ...],
    unless: Callable[[Any], ColumnElement[bool]] | None,
    kept: tuple[str, ...],
    untouched: tuple[str, ...],
) -> Insert:
    """Made once, since making it takes longer than running it."""
    statement = insert_into(dialect, table)
    key = [column.name for column in table.primary_key]
    new: dict[str, Any] = {
        name: statement.excluded[name]
        for name in names
        if name not in key and name not in untouched
    }
    if unless is not None:
        stays = unless(statement.excluded)
        new |= {name: case((stays, table.c[name]), else_=new[name]) for name in kept}
    return statement.on_conflict_do_update(index_elements=key, set_=new)


def _run_of(row: dict[str, Any]) -> Run:
    config, tags = row["config"], row["tags"]
    if not isinstance(config, dict):
        config = DamagedConfig()
    return Run(**{**row, "config": config, "tags": tuple(tags) if isinstance(tags, list) else ()})


def _delete_some(connection: Connection, table: Table, number: int) -> int:
    key = list(table.primary_key)
    some = select(*key).where(table.c.run_number == number).limit(_ROWS_AT_ONCE)
    return connection.execute(delete(table).where(tuple_(*key).in_(some))).rowcount
