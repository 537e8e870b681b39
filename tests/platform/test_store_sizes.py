"""How large a store is, and what takes the room."""

from collections.abc import Iterator
from secrets import token_hex

import numpy as np
import psycopg
import pytest
from sqlalchemy import func, make_url, select, text

from moescope.platform import tables
from moescope.platform.compacted.housekeeping import compact_store
from moescope.platform.errors import MoescopeError
from moescope.platform.migrate import versions
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.store import Store, open_store
from moescope.platform.store_sizes import largest_runs, store_size, table_sizes

LOSS, LOAD = "loss/total", "router/expert_load"


def _fill(store: Store, name: str, num_steps: int, *, status: str = "finished") -> None:
    store.add_run(Run(name, name, "p", {}, status, "cpu", "0", 1.0, 2.0))  # type: ignore[arg-type]
    store.add_segment(Segment(name, 0, 0, "start", 1.0))
    load = np.random.default_rng(0).random((2, 8), np.float32)
    values = {LOSS: np.float32(1), LOAD: load}
    store.write_frames([Frame(name, 0, step, 1.0, values) for step in range(num_steps)])


def test_a_store_says_what_it_is_and_how_large(store: Store) -> None:
    before = store_size(store)
    assert before.engine.split()[0] in ("SQLite", "PostgreSQL")
    assert before.version == versions()[-1]
    _fill(store, "a", 3000)
    after = store_size(store)
    assert before.num_bytes is not None
    assert after.num_bytes is not None
    assert after.num_bytes > before.num_bytes
    assert (after.free_bytes is None) == (after.database_bytes is not None)
    assert after.free_bytes != 0


def test_the_address_is_shown_without_its_password(store: Store) -> None:
    password = make_url(store.url).password
    assert password is None or password not in store_size(store).shown


def test_rows_are_those_that_a_count_finds(store: Store) -> None:
    for name in ("a", "b"):
        _fill(store, name, 1500)
    compact_store(store)
    _fill(store, "c", 300, status="running")
    if not store.database.is_embedded:  # its statistics are as old as the last look
        store.database.maintain(lambda c: c.execute(text("ANALYZE")))
    found = {one.name: one for one in table_sizes(store)}
    assert found.keys() == tables.metadata.tables.keys()
    for name, table in tables.metadata.tables.items():
        count = store.database.read(
            lambda c, t=table: c.scalar(select(func.count()).select_from(t))
        )  # type: ignore[misc]
        # a table that was never filled has no statistics
        assert found[name].num_rows in (count, None if count == 0 else count), name
        assert found[name].num_bytes is not None
    largest = table_sizes(store)[0].name
    assert largest in ("chunks", "rollups", "chunk_steps", "vector_rows", "scalar_rows")


def test_a_large_embedded_store_is_not_looked_through(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not store.database.is_embedded:
        assert table_sizes(store)  # a server keeps its own statistics
        return
    monkeypatch.setattr("moescope.platform.store_sizes.MOST_SCANNED_BYTES", 1000)
    assert {(one.num_rows, one.num_bytes) for one in table_sizes(store)} == {(None, None)}


def test_runs_come_by_what_they_take(store: Store) -> None:
    for name, num_steps in (("small", 40), ("large", 2500), ("middle", 700)):
        _fill(store, name, num_steps)
    found = largest_runs(store)
    assert [one.run_id for one in found] == ["large", "middle", "small"]
    assert [one.num_steps for one in found] == [2500, 700, 40]
    # two layers of eight numbers and a loss, four bytes each
    assert found[2].num_bytes == 40 * (2 * 8 + 1) * 4
    assert largest_runs(store, most=1) == found[:1]


def test_of_a_run_with_very_many_rows_only_some_are_added_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(store, "a", 100)
    monkeypatch.setattr("moescope.platform.store_sizes.MOST_ROWS", 50)
    (one,) = largest_runs(store)
    assert one.is_more
    assert one.num_bytes < 100 * 17 * 4


@pytest.fixture
def guest(postgres_server: str) -> Iterator[tuple[str, str]]:
    """(owner's address, address of a guest who may only read) of a database of its own."""
    name = f"test_{token_hex(6)}"
    owned = make_url(postgres_server).set(database=name)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'hush'")
        try:
            with open_store(owned.render_as_string(False)) as store:
                _fill(store, "a", 10)
            with psycopg.connect(owned.render_as_string(False), autocommit=True) as inside:
                inside.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
            theirs = owned.set(username=name, password="hush").render_as_string(False)
            yield owned.render_as_string(False), theirs
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            connection.execute(f"DROP ROLE {name}")


@pytest.mark.postgres
def test_what_a_server_keeps_from_a_guest_is_left_out(guest: tuple[str, str]) -> None:
    owned, theirs = guest
    with open_store(theirs) as store:
        assert store_size(store).database_bytes is not None
        with psycopg.connect(owned, autocommit=True) as owner:
            owner.execute(f"REVOKE CONNECT ON DATABASE {make_url(owned).database} FROM PUBLIC")
        size = store_size(store)
        assert size.database_bytes is None
        assert size.num_bytes is not None
        assert "hush" not in size.shown


def test_a_store_that_is_gone_is_no_size_of_nothing(tmp_path: object, store_url: str) -> None:
    store = open_store(store_url)
    try:
        if store.database.file is not None:
            store.database.file.unlink()
            with pytest.raises(MoescopeError, match="gone"):
                store_size(store)
        else:
            assert store_size(store).num_bytes
    finally:
        store.close()
