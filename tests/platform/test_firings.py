"""Schedules and what came of them, as the store has them."""

from moescope.platform import tables
from moescope.platform.firings import newest_firings, schedules
from moescope.platform.records import Firing, Schedule
from moescope.platform.store import Store
from moescope.platform.upserts import columns_of


def test_what_came_due_last_is_told_first(store: Store) -> None:
    assert schedules(store) == []
    assert newest_firings(store, 5) == []
    kept = [Schedule(name, {}, "cron", "0 5 * * *", "UTC", 1.0) for name in ("b", "a")]
    fired = [Firing("a", 10.0, 11.0, "me", "x"), Firing("b", 20.0, 21.0, "me", "y")]
    for table, rows in ((tables.schedules, kept), (tables.firings, fired)):
        for row in rows:
            values = columns_of(row)
            store.database.write(lambda c, t=table, v=values: c.execute(t.insert(), v))  # type: ignore[misc]
    assert [one.name for one in schedules(store)] == ["a", "b"]
    assert newest_firings(store, 5) == fired[::-1]
    assert newest_firings(store, 1) == fired[1:]
