"""What the browser's table is sent at a refresh: everything once, then what differs from that.

The browser draws the newest message it gets and may never see one in between, so a message holds
all that has changed since one that the browser is known to have: the last whole one, or a later one
that it said it has drawn. Of a row that is known there it holds only the cells that differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Row = Mapping[str, Any]
Rows = Mapping[str, Row]
"""{id: row}"""
MOST_CHANGED = 0.5
"""Share of the rows from which on all are sent anew."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one table was sent."""

    base: int
    """Number of the message that the browser is known to have."""
    known: Rows
    """Its rows after that."""
    number: int
    """Of the newest message."""
    rows: Rows = field(default_factory=dict)
    """The rows that it told of."""


def message(rows: Sequence[Row], sent: Sent | None, number: int) -> tuple[dict[str, Any], Sent]:
    """What to send now, and what the table was sent then.

    number: of this message, higher than that of any before.
    """
    by_id = {row["id"]: row for row in rows}
    if sent is not None:
        changed = [
            _difference(row, known)
            for row in rows
            # the same object at once, since most rows are
            if (known := sent.known.get(row["id"])) is not row and known != row
        ]
        gone = [row_id for row_id in sent.known if row_id not in by_id]
        if len(changed) + len(gone) <= max(8, MOST_CHANGED * len(rows)):
            told = {"number": number, "base": sent.base, "changed": changed, "gone": gone}
            return told, replace(sent, number=number, rows=by_id)
    return {"number": number, "base": number, "rows": list(rows)}, Sent(
        number, by_id, number, by_id
    )


def drawn(sent: Sent, number: int) -> Sent:
    """What the browser has after it said that it drew a message; an older one changes nothing."""
    return replace(sent, base=number, known=sent.rows) if number == sent.number else sent


def _difference(row: Row, known: Row | None) -> Row:
    if known is None:
        return row
    return {"id": row["id"]} | {key: row[key] for key in row if row[key] != known.get(key)}
