"""Fixtures for all tests, and the demand for PostgreSQL where continuous integration makes it."""

import os
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from moescope.platform.store import Store

POSTGRES_URL = "postgresql://postgres@127.0.0.1:5432/test"


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the home, the store or the addresses of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("MOESCOPE_") and not name.startswith("MOESCOPE_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOESCOPE_HOME", str(tmp_path / "home"))


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Fills memory that nobody wrote with NaN, inside torch's operators too, for the length of a
    test.

    A test of tensor code must not pass by the luck of fresh zeros. torch fills its uninitialised
    memory in deterministic mode; it is imported here, so that tests without tensors do not wait
    for it.
    """
    import torch

    was_on = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(was_on)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where MOESCOPE_TEST_REQUIRE_POSTGRES is set, a skipped test of PostgreSQL is a failed one."""
    report = yield
    is_demanded = os.environ.get("MOESCOPE_TEST_REQUIRE_POSTGRES", "") not in ("", "0")
    if is_demanded and report.skipped and item.get_closest_marker("postgres"):
        report.outcome = "failed"
        url = os.environ.get("MOESCOPE_TEST_POSTGRES_URL", POSTGRES_URL)
        report.longrepr = f"PostgreSQL is demanded here, but {item.name} was skipped ({url})"
    return report


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The address of the server that tests may use; each makes a schema of its own there."""
    import psycopg

    url = os.environ.get("MOESCOPE_TEST_POSTGRES_URL", POSTGRES_URL)
    try:
        psycopg.connect(url, connect_timeout=3).close()
    except psycopg.OperationalError as error:
        if "FATAL" in str(error):  # a server that answers, if only to say no, is no reason to skip
            raise
        pytest.skip(f"no PostgreSQL server answers at {url}: {error}")
    return url


@contextmanager
def _schema(server: str) -> Iterator[str]:
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    # nothing of a test need survive a power cut
    options = f"options=-csearch_path%3D{name}%20-csynchronous_commit%3Doff"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{name}"')
        try:
            yield f"{server}{'&' if '?' in server else '?'}{options}"
        finally:
            connection.execute(f'DROP SCHEMA "{name}" CASCADE')


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The address of a schema of PostgreSQL in which there is nothing."""
    with _schema(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def _kept_postgres_url(postgres_server: str) -> Iterator[str]:
    """A store that is made once, since making its tables takes longer than most tests."""
    with _schema(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store without runs, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    from moescope.platform.store import open_store
    from moescope.platform.tables import metadata

    url: str = request.getfixturevalue("_kept_postgres_url")
    with open_store(url) as kept:
        for table in reversed(metadata.sorted_tables):
            kept.database.write(lambda c, table=table: c.execute(table.delete()))  # type: ignore[misc]
    return url


@pytest.fixture
def store(store_url: str) -> Iterator["Store"]:
    """An open, empty store, of each kind in turn."""
    from moescope.platform.store import open_store

    with open_store(store_url) as opened:
        yield opened
