"""Deeds: what people did in the dashboard, who, when and to what; a list that only grows.

A deed is written down before it is done, so that nothing is done that is not on the list, and what
came of it after. In PostgreSQL the dashboard's own role may add rows and set what came of them, and
neither change nor delete who did what and when.
"""

from collections.abc import Sequence

from sqlalchemy import insert, select, update

from . import tables
from .records import Deed, DeedAbout
from .store import Store
from .upserts import columns_of

_deed = tables.deeds.c


def add_deed(store: Store, deed: Deed) -> None:
    store.database.write(
        lambda c: c.execute(insert(tables.deeds).values(columns_of(deed))), is_durable=True
    )


def end_deed(store: Store, deed_id: str, outcome: str) -> None:
    """Says what came of a deed."""
    statement = update(tables.deeds).where(_deed.id == deed_id).values(outcome=outcome)
    store.database.write(lambda c: c.execute(statement), is_durable=True)


def deeds(
    store: Store,
    *,
    most: int = 100,
    before_s: float | None = None,
    about: DeedAbout | None = None,
    about_ids: Sequence[str] | None = None,
) -> list[Deed]:
    """The newest deeds first. before_s: only those before then, to turn a page. about, about_ids:
    only those about such."""
    statement = select(tables.deeds).order_by(_deed.asked_s.desc(), _deed.id).limit(most)
    if before_s is not None:
        statement = statement.where(_deed.asked_s < before_s)
    if about is not None:
        statement = statement.where(_deed.about == about)
    if about_ids is not None:
        statement = statement.where(_deed.about_id.in_(about_ids))
    rows = store.database.read(lambda c: c.execute(statement).mappings().all())
    return [Deed(**row) for row in rows]
