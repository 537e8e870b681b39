"""What autopsies found, as the store keeps it: an account for each alert, the newest one."""

from sqlalchemy import ColumnElement, Connection, case, or_, select
from sqlalchemy.exc import IntegrityError

from . import tables
from .engines import unknown_run
from .records import Incident
from .store import Store
from .upserts import columns_of, insert_into


def put_incident(store: Store, incident: Incident) -> None:
    """Adds an account or takes its place. One without a replay never covers one that was replayed:
    a journal may bring the first account again. Raises UnknownRun, or StoreAway."""
    table, values = tables.incidents, columns_of(incident)

    def work(connection: Connection) -> None:
        statement = insert_into(connection.dialect.name, table)
        new = statement.excluded
        covers = or_(new.is_replayed, ~table.c.is_replayed)
        changes = {
            name: case((covers, new[name]), else_=table.c[name])
            for name in values
            if name != "alert_id"
        }
        connection.execute(
            statement.on_conflict_do_update(index_elements=["alert_id"], set_=changes), values
        )

    try:
        store.database.write(work, is_durable=True)
    except IntegrityError:
        raise unknown_run(incident.run_id) from None


def incident_of(store: Store, alert_id: str) -> Incident | None:
    """The account of an alert, or None where there is none yet."""
    found = _read(store, tables.incidents.c.alert_id == alert_id)
    return found[0] if found else None


def incidents(store: Store, run_id: str) -> list[Incident]:
    """The accounts of a run's alerts, newest first."""
    return _read(store, tables.incidents.c.run_id == run_id)


def _read(store: Store, wanted: ColumnElement[bool]) -> list[Incident]:
    statement = select(tables.incidents).where(wanted)
    statement = statement.order_by(tables.incidents.c.made_s.desc(), tables.incidents.c.alert_id)
    rows = store.database.read(lambda c: c.execute(statement).mappings().all())
    return [Incident(**row) for row in rows]
