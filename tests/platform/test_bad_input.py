"""What a person gets wrong about a store is told on one line, without a traceback or a password."""

from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex

import numpy as np
import psycopg
import pytest
from sqlalchemy import make_url
from typer.testing import CliRunner

from moescope.cli import app
from moescope.platform.records import Frame, Run
from moescope.platform.store import open_store

Said = Callable[..., str]


@pytest.fixture
def said(tmp_path: Path) -> Said:
    """Runs a command that must be refused; returns its one line."""

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words), env={"MOESCOPE_HOME": str(tmp_path / "home")})
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("moescope: ")
        assert "sh@" not in line
        assert "hush" not in line
        assert "Traceback" not in line
        return line

    return run


@pytest.fixture
def filled_url(store_url: str) -> str:
    with open_store(store_url) as store:
        store.add_run(Run("r1", "mine", "p", {}, "finished", "cpu", "0", 1.0, 1.0))
        store.write_frames([Frame("r1", 0, 7, 1.0, {"loss/total": np.float32(1)})])
    return store_url


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["export", "mien"], ["unknown run mien", "mine"], id="run, with a near name"),
        pytest.param(["export", "mine'; DROP TABLE runs; --"], ["unknown run"], id="no statement"),
        pytest.param(["rollback", "nobody"], ["unknown run nobody"], id="rollback of no run"),
        pytest.param(["runs", "note", "nobody", "x"], ["unknown run nobody"], id="note on no run"),
        pytest.param(["runs", "delete", "nobody"], ["unknown run nobody"], id="deletion of no run"),
        pytest.param(["alerts", "list", "--run", "no"], ["unknown run no"], id="alerts of no run"),
        pytest.param(
            ["export", "mine", "--signals", "loss/totl"],
            ["loss/totl", "loss/total"],
            id="signal, with a near name",
        ),
        pytest.param(
            ["export", "mine", "--from", "10", "--to", "5"],
            ["--from 10 is after --to 5"],
            id="range the wrong way round",
        ),
        pytest.param(["export", "mine", "--from", "-1"], ["--from", "0"], id="step before 0"),
        pytest.param(["export", "mine", "--from", "1e3"], ["--from", "integer"], id="words"),
        pytest.param(["export", "mine", "--thin", "1"], ["--thin", "2"], id="nothing to thin to"),
        pytest.param(["export", "mine", "--format", "xls"], ["--format is xls"], id="format"),
    ],
)
def test_a_wrong_run_signal_or_range_is_told_on_one_line(
    said: Said, filled_url: str, words: list[str], expected: list[str]
) -> None:
    line = said(*words, "--store", filled_url)
    for part in expected:
        assert part in line
    with open_store(filled_url) as store:
        assert [run.id for run in store.runs()] == ["r1"]


@pytest.mark.parametrize("command", [["runs"], ["db", "upgrade"], ["export", "mine"]])
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("http://ann:hush@h/d", "unknown scheme", id="scheme"),
        pytest.param("postgresql+psycopg2://ann:hush@h/d", "postgresql+psycopg2:", id="driver"),
        pytest.param("store.db", "cannot be read", id="no address"),
        pytest.param("sqlite://", "names no plain file", id="no file"),
        pytest.param("postgresql://ann:hush@h", "names no database", id="no database"),
        pytest.param("postgresql://ann:hush@h:port/d", "cannot be read", id="port in words"),
        pytest.param("postgresql://ann:hush@127.0.0.1:99999/d", "port", id="port too large"),
        pytest.param("postgresql://ann:hush@127.0.0.1:9/d", "refused", id="nobody listens"),
        pytest.param("postgresql://ann:hu@sh@127.0.0.1:9/d", "%40", id="@ in the password"),
        pytest.param("postgresql://127.0.0.1:9/d?password=hush", "refused", id="password behind"),
        pytest.param("postgresql://ann:hush@127.0.0.1:9/d?nosuch=1", "nosuch", id="odd option"),
        pytest.param("sqlite:////does/not/exist/store.db", "folder must exist", id="no folder"),
    ],
)
def test_a_wrong_address_is_told_on_one_line(
    said: Said, command: list[str], address: str, expected: str
) -> None:
    assert expected in said(*command, "--store", address)


@pytest.fixture
def guest(postgres_server: str) -> Iterator[tuple[str, str]]:
    """(address of the owner, of a guest who may not even look) of a store in PostgreSQL."""
    name = f"test_{token_hex(6)}"
    options = {"options": f"-csearch_path={name}"}
    url = make_url(postgres_server).update_query_dict(options)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'hush'")
        try:
            owned = url.render_as_string(False)
            with open_store(owned) as store:
                store.add_run(Run("r1", "mine", "p", {}, "running", "cpu", "0", 1.0, 1.0))
            yield owned, url.set(username=name, password="hush").render_as_string(False)
        finally:
            connection.execute(f"DROP SCHEMA {name} CASCADE")
            connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.postgres
def test_who_has_no_rights_is_told_so_on_one_line(
    said: Said, guest: tuple[str, str], postgres_server: str
) -> None:
    _, url = guest
    name = make_url(url).username
    assert "refuses this user" in said("runs", "--store", url)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"GRANT USAGE ON SCHEMA {name} TO {name}")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO {name}")
    # who may read reads
    result = CliRunner().invoke(app, ["runs", "--store", url])
    assert result.exit_code == 0, result.output
    line = said("runs", "note", "mine", "x", "--store", url)
    assert "permission denied for table runs" in line
    assert line.endswith("give it the right to use its tables, or name another user")
