"""Views that people saved: what the address of a page held, by a name, for everybody to open."""

from sqlalchemy import delete, func, select

from . import tables
from .errors import MoescopeError
from .records import SavedView
from .store import Store
from .upserts import columns_of, replace

LONGEST_NAME = 80
MOST = 200
"""Of a page: a list that is longer is read by nobody."""

_view = tables.views.c


def saved_views(store: Store, page: str) -> list[SavedView]:
    """The views of a page, by name."""
    statement = select(tables.views).where(_view.page == page).order_by(_view.name)
    rows = store.database.read(lambda c: c.execute(statement).mappings().all())
    return [SavedView(**row) for row in rows]


def save_view(store: Store, view: SavedView) -> None:
    """Adds a view, or takes the place of the one of its name.

    Raises MoescopeError where the name is empty or too long, or the page has too many.
    """
    if not 0 < len(view.name) <= LONGEST_NAME:
        raise MoescopeError(f"a view's name has 1 to {LONGEST_NAME} characters: choose another")
    others = select(func.count()).where(_view.page == view.page, _view.name != view.name)
    if (store.database.read(lambda c: c.scalar(others)) or 0) >= MOST:
        raise MoescopeError(f"page {view.page} has {MOST} views already: remove one first")
    values = columns_of(view)
    store.database.write(
        lambda c: c.execute(replace(c.dialect.name, tables.views, tuple(values)), values),
        is_durable=True,
    )


def remove_view(store: Store, page: str, name: str) -> None:
    """Removes a view; one that is gone already is no error."""
    statement = delete(tables.views).where(_view.page == page, _view.name == name)
    store.database.write(lambda c: c.execute(statement), is_durable=True)
