"""Leases: who does a thing that only one process may do (lead the service, train a run), until
when.

A holder that dies loses its lease when the time is over; one that lives beats before that. Times
come from the callers, so machines that share a store need clocks that agree to a fraction of the
time to live. Where that is too much to ask, watch whether a lease changes (`find`, `take_over`), as
claims.py does.
"""

from typing import NamedTuple

from sqlalchemy import Connection, delete, or_, select, update

from . import tables
from .store import Store
from .upserts import insert_into

SERVICE, DELIVERY = "service", "delivery"
"""Who leads the services of a store, and who sends its alerts."""

_lease = tables.leases.c


class Lease(NamedTuple):
    holder: str
    until_s: float
    """By the holder's clock."""


def claim(store: Store, name: str, holder: str, now_s: float, ttl_s: float) -> bool:
    """Takes a lease that is free, over, or the holder's own already; False where somebody else
    has it.
    """
    values = {"name": name, "holder": holder, "since_s": now_s, "until_s": now_s + ttl_s}

    def work(connection: Connection) -> bool:
        statement = insert_into(connection.dialect.name, tables.leases)
        statement = statement.on_conflict_do_update(
            index_elements=["name"],
            set_={key: statement.excluded[key] for key in ("holder", "since_s", "until_s")},
            where=or_(_lease.holder == holder, _lease.until_s <= now_s),
        )
        # no row comes back where the condition does not hold
        return connection.scalar(statement.returning(_lease.holder), values) is not None

    return store.database.write(work)


def take_over(
    store: Store, name: str, seen: Lease, holder: str, now_s: float, ttl_s: float
) -> bool:
    """Takes a lease from a holder that is known to be gone, whatever its time says; False where the
    lease is not as it was seen any more.
    """
    as_seen = (_lease.name == name, _lease.holder == seen.holder, _lease.until_s == seen.until_s)
    values = {"holder": holder, "since_s": now_s, "until_s": now_s + ttl_s}
    statement = update(tables.leases).where(*as_seen).values(values)
    return store.database.write(lambda c: c.execute(statement).rowcount == 1)


def find(store: Store, name: str) -> Lease | None:
    """The lease as it stands, over or not; None where nobody has it."""
    statement = select(_lease.holder, _lease.until_s).where(_lease.name == name)
    row = store.database.read(lambda c: c.execute(statement).first())
    return None if row is None else Lease(*row)


def beat(store: Store, name: str, holder: str, now_s: float, ttl_s: float) -> bool:
    """Prolongs a lease; False where it is the holder's no more, who then must stop what it did
    under it.
    """
    mine = (_lease.name == name, _lease.holder == holder)
    statement = update(tables.leases).where(*mine).values(until_s=now_s + ttl_s)
    return store.database.write(lambda c: c.execute(statement).rowcount == 1)


def release(store: Store, name: str, holder: str) -> None:
    """Gives a lease back; nothing happens where it is somebody else's."""
    statement = delete(tables.leases).where(_lease.name == name, _lease.holder == holder)
    store.database.write(lambda c: c.execute(statement))


def holder(store: Store, name: str, now_s: float) -> str | None:
    """Who holds a lease now."""
    statement = select(_lease.holder).where(_lease.name == name, _lease.until_s > now_s)
    return store.database.read(lambda c: c.scalar(statement))


class Held(NamedTuple):
    name: str
    holder: str
    since_s: float
    """When it was last claimed, by the holder's clock."""
    until_s: float


def all_leases(store: Store) -> list[Held]:
    """The leases as they stand, over or not, by name."""
    statement = select(_lease.name, _lease.holder, _lease.since_s, _lease.until_s)
    rows = store.database.read(lambda c: c.execute(statement.order_by(_lease.name)).all())
    return [Held(*row) for row in rows]
