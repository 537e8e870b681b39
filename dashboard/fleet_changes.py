"""What the browser's table is sent at a refresh: everything once, then what differs from that.

The browser draws the newest message it gets and may never see one in between, so a message holds
all that has changed since the last whole one, not since the message before. Of a row that is known
there it holds only the cells that differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
MOST_CHANGED = 0.5
"""Share of the rows from which on all are sent anew."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The last whole message of one table."""

    number: int
    rows: Mapping[str, Row] = field(default_factory=dict)
    """{id: row}"""


def message(rows: Sequence[Row], sent: Sent | None, number: int) -> tuple[dict[str, Any], Sent]:
    """What to send now, and what the browser then has.

    number: of the message if it is a whole one; never used before by this table.
    """
    by_id = {row["id"]: row for row in rows}
    if sent is not None:
        changed = [
            _difference(row, known) for row in rows if (known := sent.rows.get(row["id"])) != row
        ]
        gone = [row_id for row_id in sent.rows if row_id not in by_id]
        if len(changed) + len(gone) <= max(8, MOST_CHANGED * len(rows)):
            return {"base": sent.number, "changed": changed, "gone": gone}, sent
    return {"base": number, "rows": list(rows)}, Sent(number, by_id)


def _difference(row: Row, known: Row | None) -> Row:
    if known is None:
        return row
    return {"id": row["id"]} | {key: row[key] for key in row if row[key] != known.get(key)}
