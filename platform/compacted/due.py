"""Which windows of a run are due: closed, and with rows in them."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select

from .. import tables
from ..engines import Database
from .codec import WINDOW

MARGIN = 256
"""Steps that a run must be past a window before it counts as closed."""

_scalar = tables.scalar_rows.c


@dataclass(frozen=True, slots=True)
class Window:
    """1,024 steps of one group of signals of one segment."""

    run_number: int
    group_id: int
    segment: int
    number: int

    @property
    def first(self) -> int:
        return self.number * WINDOW

    @property
    def last(self) -> int:
        return self.first + WINDOW - 1


def groups_with_rows(database: Database, number: int) -> Iterator[tuple[int, int]]:
    """(group, segment) of a run with rows, one index look-up each."""
    here: tuple[int, int] | None = None
    while True:
        statement = select(_scalar.group_id, _scalar.segment).where(_scalar.run_number == number)
        if here is not None:
            group_id, segment = here
            further = and_(_scalar.group_id == group_id, _scalar.segment > segment)
            statement = statement.where(or_(_scalar.group_id > group_id, further))
        statement = statement.order_by(_scalar.group_id, _scalar.segment).limit(1)
        row = database.read(lambda c, ask=statement: c.execute(ask).first())  # type: ignore[misc]
        if row is None:
            return
        here = row[0], row[1]
        yield here


def closed_windows(
    database: Database, number: int, group_id: int, segment: int, is_open: bool
) -> Iterator[Window]:
    """Windows with rows that are closed, oldest first."""
    mine = (
        _scalar.run_number == number,
        _scalar.group_id == group_id,
        _scalar.segment == segment,
    )
    ends = select(func.min(_scalar.step), func.max(_scalar.step)).where(*mine)
    first, last = database.read(lambda c: c.execute(ends).one())
    while first is not None:
        window = Window(number, group_id, segment, first // WINDOW)
        if is_open and window.last + MARGIN > last:
            return
        yield window
        beyond = select(func.min(_scalar.step)).where(*mine, _scalar.step > window.last)
        first = database.read(lambda c, ask=beyond: c.scalar(ask))  # type: ignore[misc]
