"""Silences: nothing is sent of a rule in a run, for a while or until a person ends it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, null, or_, select, update

from . import tables
from .records import FOREVER_S

if TYPE_CHECKING:
    from .store import Store

_alert = tables.alerts.c


@dataclass(frozen=True, slots=True)
class Silence:
    run_id: str
    rule: str
    until_s: float
    """FOREVER_S where only a person ends it."""


def silences(store: "Store", now_s: float) -> list[Silence]:
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


def end_silence(store: "Store", run_id: str, rule: str, who: str, now_s: float) -> bool:
    """Ends the silence of a rule in a run, as its time would: what is silenced opens, what still
    stands calls again, what healed under the silence stays resolved and is no news. Returns whether
    there was one; else nothing changes."""
    kind = and_(_alert.run_id == run_id, _alert.rule == rule)
    return store.database.write(lambda c: end_where(c, kind, who, now_s), is_durable=True) > 0


def end_where(connection: Connection, chosen: ColumnElement[bool], who: str, now_s: float) -> int:
    """Ends the silences of the chosen alerts that are silenced now, by a person; returns of how
    many.

    The moment of the end stays in the table: an alert that was held back is sent however old it is,
    and one that healed before then is not.
    """
    is_held = or_(_alert.silenced_until_s > now_s, _alert.state == "silenced")
    is_silenced = _alert.state == "silenced"
    stands = _alert.state.in_(["open", "silenced"])
    values = {
        "silenced_until_s": now_s,
        "state": case((is_silenced, "open"), else_=_alert.state),
        "changed_by": case((is_silenced, who), else_=_alert.changed_by),
        "changed_s": case((is_silenced, now_s), else_=_alert.changed_s),
        "delivered_s": case((stands, null()), else_=_alert.delivered_s),
        "num_deliveries": case((stands, 0), else_=_alert.num_deliveries),
    }
    statement = update(tables.alerts).where(chosen, is_held).values(values)
    return connection.execute(statement).rowcount


def expired(now_s: float) -> ColumnElement[bool]:
    """Alerts whose silence is over and that have not called since: those that are silenced, and
    those that healed and came back meanwhile."""
    return and_(
        _alert.silenced_until_s <= now_s,
        or_(
            _alert.state == "silenced",
            and_(_alert.state == "open", _alert.delivered_s < _alert.silenced_until_s),
        ),
    )


def open_expired(connection: Connection, now_s: float) -> int:
    """Opens alerts whose silence is over and lets them call again; returns how many."""
    values: dict[str, Any] = {"state": "open", "changed_by": "", "changed_s": now_s}
    calls_again = {"delivered_s": None, "num_deliveries": 0}
    statement = update(tables.alerts).where(expired(now_s)).values(values | calls_again)
    return connection.execute(statement).rowcount
