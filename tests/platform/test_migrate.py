"""Stores that are empty, older, newer, somebody else's, or not there at all."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from moescope.platform import tables
from moescope.platform.engines import Database, StoreAway
from moescope.platform.errors import MoescopeError
from moescope.platform.migrate import MIGRATIONS, prepare, upgrade_store, versions
from moescope.platform.records import Run
from moescope.platform.store import Store, open_store
from moescope.platform.trials import studies

RUN = Run("r1", "run", "p", {}, "running", "cpu", "0", 0.0, 0.0)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address where there is no store yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def newer_migrations(tmp_path: Path) -> Path:
    """The migrations of a program that is one version ahead."""
    folder = tmp_path / "newer 100% sure"
    shutil.copytree(MIGRATIONS, folder)
    (folder / "versions" / "9999_more.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        "revision = '9999'\n"
        f"down_revision = '{versions()[-1]}'\n"
        "def upgrade():\n"
        "    op.add_column('runs', sa.Column('mood', sa.Text))\n"
    )
    return folder


def one_line(error: pytest.ExceptionInfo[MoescopeError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_an_empty_store_is_made_and_then_left_alone(empty_url: str) -> None:
    newest = versions()[-1]
    assert upgrade_store(empty_url) == ("", newest)
    assert upgrade_store(empty_url) == (newest, newest)


def test_the_migrations_make_the_tables_that_the_program_writes(empty_url: str) -> None:
    upgrade_store(empty_url)
    database = Database(empty_url)
    options = {"version_table": tables.VERSION_TABLE, "compare_type": True}
    found = database.read(
        lambda c: compare_metadata(MigrationContext.configure(c, opts=options), tables.metadata)
    )
    database.close()
    assert found == []


def test_the_files_of_the_migrations_sort_in_their_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    history = [s.revision for s in ScriptDirectory.from_config(config).walk_revisions()]
    assert history[::-1] == versions()


def test_an_embedded_store_is_made_for_many_short_writes(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        assert pragma(store, "journal_mode") == "wal"
        # rows of 256 experts stay in their page
        assert pragma(store, "page_size") == 16384
        assert pragma(store, "foreign_keys") == 1
        assert pragma(store, "auto_vacuum") == 2


def pragma(store: Store, name: str) -> object:
    return store.database.read(lambda c: c.exec_driver_sql(f"PRAGMA {name}").scalar())


def test_a_store_newer_than_the_program_is_refused(empty_url: str, newer_migrations: Path) -> None:
    database = Database(empty_url)
    assert prepare(database, migrations=newer_migrations) == ("", "9999")
    database.close()
    for open_it in (open_store, upgrade_store):
        with pytest.raises(MoescopeError, match="is at version 9999, newer") as error:
            open_it(empty_url)
        assert "update moescope" in one_line(error)


def test_an_older_embedded_store_upgrades_by_itself_and_keeps_its_rows(
    tmp_path: Path, newer_migrations: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with open_store(url) as store:
        store.add_run(RUN)
    database = Database(url)
    assert prepare(database, migrations=newer_migrations) == (versions()[-1], "9999")
    found = database.read(lambda c: c.exec_driver_sql("SELECT id, mood FROM runs").all())
    database.close()
    assert [tuple(row) for row in found] == [("r1", None)]


@pytest.mark.parametrize("version", versions()[:-1])
def test_a_store_of_each_version_before_becomes_the_newest_and_keeps_its_runs(
    empty_url: str, tmp_path: Path, version: str
) -> None:
    folder = tmp_path / "as it was"
    shutil.copytree(MIGRATIONS, folder)
    for file in (folder / "versions").glob("[0-9]*.py"):
        if file.name.split("_")[0] > version:
            file.unlink()
    database = Database(empty_url)
    assert prepare(database, migrations=folder) == ("", version)
    Store(database).add_run(RUN)
    database.close()
    assert upgrade_store(empty_url) == (version, versions()[-1])
    with open_store(empty_url) as store:
        assert [run.id for run in store.runs()] == ["r1"]
        assert studies(store) == []


@pytest.mark.postgres
def test_an_older_shared_store_asks_for_the_upgrade(
    postgres_url: str, newer_migrations: Path
) -> None:
    upgrade_store(postgres_url)
    database = Database(postgres_url)
    with pytest.raises(MoescopeError, match="run `moescope db upgrade`") as error:
        prepare(database, migrations=newer_migrations)
    assert one_line(error)
    newest = prepare(database, may_upgrade=True, migrations=newer_migrations)
    database.close()
    assert newest == (versions()[-1], "9999")


def test_a_failing_upgrade_leaves_the_store_as_it_was(
    empty_url: str, newer_migrations: Path
) -> None:
    upgrade_store(empty_url)
    with (newer_migrations / "versions" / "9999_more.py").open("a") as file:
        file.write("    raise RuntimeError('half way')\n")
    database = Database(empty_url)
    with pytest.raises(RuntimeError, match="half way"):
        prepare(database, may_upgrade=True, migrations=newer_migrations)
    database.close()
    with open_store(empty_url) as store:
        store.add_run(RUN)
        assert store.runs() == [RUN]


def test_many_processes_may_make_a_store_at_once(empty_url: str) -> None:
    code = (
        "import sys; from moescope.platform.store import open_store; s = open_store(sys.argv[1]); "
        "print(len(s.runs())); s.close()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    found = [process.communicate(timeout=60) for process in started]
    assert found == [("0\n", "")] * 3


def test_the_tables_of_something_else_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE experiments (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(MoescopeError, match=r"tables of something else .experiments.") as error:
        open_store(f"sqlite:///{path}")
    assert one_line(error)
    assert path.read_bytes() == before


@pytest.mark.postgres
def test_a_shared_server_may_hold_other_tables_but_none_of_our_names(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.write(lambda c: c.exec_driver_sql("CREATE TABLE experiments (id INTEGER)"))
    database.write(lambda c: c.exec_driver_sql("CREATE TABLE runs (id INTEGER)"))
    with pytest.raises(MoescopeError, match=r"tables of something else .runs."):
        open_store(postgres_url)
    database.write(lambda c: c.exec_driver_sql("DROP TABLE runs"))
    database.close()
    with open_store(postgres_url) as store:
        assert store.runs() == []


def folder_without_store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'nowhere' / 'store.db'}"


def folder_in_place_of_the_file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}"


def text_in_place_of_the_file(tmp_path: Path) -> str:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to look like one " * 40)
    return f"sqlite:///{tmp_path / 'notes.txt'}"


CASES: list[tuple[str | Callable[[Path], str], str]] = [
    ("store.db", "cannot be read: expected sqlite:///FILE or postgresql://"),
    ("", "cannot be read"),
    ("sqlite://", "names no plain file"),
    ("sqlite:///:memory:", "names no plain file"),
    ("sqlite:///a.db?mode=ro", "names no plain file"),
    ("mysql://u@h/d", "unknown scheme"),
    ("postgresql://u:secret@h", "names no database"),
    ("postgresql://u:secret@127.0.0.1:1/d", "is the server up and the address right"),
    ("postgresql://u:secret@no-such-host.invalid/d", "is the server up and the address right"),
    ("postgresql://u:secret@127.0.0.1/d?nonsense=1", "cannot be used .*nonsense"),
    (folder_without_store, "its folder must exist and be writable"),
    (folder_in_place_of_the_file, "cannot be opened"),
    (text_in_place_of_the_file, "is not a SQLite database: choose another file"),
]


@pytest.mark.parametrize(("url", "said"), CASES, ids=[said for _, said in CASES])
def test_a_store_that_cannot_be_is_one_clear_line(
    tmp_path: Path, url: str | Callable[[Path], str], said: str
) -> None:
    with pytest.raises(MoescopeError, match=said) as error:
        open_store(url if isinstance(url, str) else url(tmp_path))
    assert "secret" not in one_line(error)


@pytest.mark.postgres
def test_a_database_that_the_server_has_not_is_one_clear_line(postgres_server: str) -> None:
    wrong = postgres_server.rsplit("/", 1)[0] + "/no_such_database"
    with pytest.raises(StoreAway, match="no_such_database") as error:
        open_store(wrong)
    assert one_line(error)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A store whose file and folder may not be written any more."""
    folder = tmp_path / "kept"
    folder.mkdir()
    path = folder / "store.db"
    with open_store(f"sqlite:///{path}") as store:
        store.add_run(RUN)
    # nobody must be able to walk down to it
    modes = {p: p.stat().st_mode for p in folder.parents if not p.stat().st_mode & 0o001}
    for p, mode in modes.items():
        p.chmod(mode | 0o055)
    path.chmod(0o444)
    folder.chmod(0o555)
    was = os.geteuid()
    if was == 0:  # root may write everything, so the test goes on as nobody
        os.seteuid(65534)
    yield SimpleNamespace(url=f"sqlite:///{path}", folder=folder, path=path)
    os.seteuid(was)
    folder.chmod(0o755)
    for p, mode in modes.items():
        p.chmod(mode)


def test_a_read_only_store_is_one_clear_line(read_only: SimpleNamespace) -> None:
    with pytest.raises(StoreAway, match=r"cannot be (written|opened)") as error:
        open_store(read_only.url)
    assert one_line(error)


def test_a_store_in_a_read_only_folder_cannot_be_made(read_only: SimpleNamespace) -> None:
    with pytest.raises(StoreAway, match="its folder must exist and be writable") as error:
        open_store(f"sqlite:///{read_only.folder / 'new.db'}")
    assert one_line(error)


def test_a_store_in_a_folder_that_is_closed_to_us_is_one_clear_line(
    read_only: SimpleNamespace,
) -> None:
    closed = read_only.folder.parents[1]
    user = os.geteuid()
    os.seteuid(os.getuid())
    closed.chmod(0o600)
    os.seteuid(user)
    with pytest.raises(StoreAway, match="its folder must exist and be writable") as error:
        open_store(read_only.url)
    assert one_line(error)
