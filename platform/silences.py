"""Silences: nothing is sent of a rule in a run, for a while or until a person ends it."""

from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, or_, select, update

from . import tables
from .records import FOREVER_S
from .store import Store

_alert = tables.alerts.c


@dataclass(frozen=True, slots=True)
class Silence:
    run_id: str
    rule: str
    until_s: float
    """FOREVER_S where only a person ends it."""


def silences(store: Store, now_s: float) -> list[Silence]:
    """The silences that hold, by run and rule, also those whose alerts have healed."""
    # one of an older program had no end in the table
    is_silent = or_(
        _alert.silenced_until_s > now_s,
        and_(_alert.state == "silenced", _alert.silenced_until_s.is_(None)),
    )
    until_s = func.max(func.coalesce(_alert.silenced_until_s, FOREVER_S))
    of_kind = (_alert.run_id, _alert.rule)
    statement = select(*of_kind, until_s).where(is_silent).group_by(*of_kind).order_by(*of_kind)
    rows = store.database.read(lambda c: c.execute(statement).all())
    return [Silence(run_id, rule, float(until)) for run_id, rule, until in rows]


def end_silence(store: Store, run_id: str, rule: str, who: str, now_s: float) -> None:
    """Ends the silence of a rule in a run: what is silenced opens, what was held back and still
    stands is sent, what healed under the silence stays resolved and is no news."""
    kind = and_(_alert.run_id == run_id, _alert.rule == rule)
    changes = (
        (_alert.state == "resolved", {"silenced_until_s": now_s}),
        (_alert.state.in_(["open", "acknowledged"]), {"silenced_until_s": None}),
        (
            _alert.state == "silenced",
            {"silenced_until_s": None, "state": "open", "changed_by": who, "changed_s": now_s},
        ),
    )

    def work(connection: Connection) -> None:
        for is_so, values in changes:
            connection.execute(update(tables.alerts).where(kind, is_so).values(values))

    store.database.write(work, is_durable=True)
