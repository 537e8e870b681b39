"""The dashboard's own role on a real server: what it may, and all that it may not."""

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import make_url, text
from typer.testing import CliRunner

from moescope.cli import app
from moescope.dashboard import asks
from moescope.dashboard.asker import Asker
from moescope.dashboard.reads import open_for_reading
from moescope.dashboard.reads_of_deeds import recent_deeds
from moescope.platform import tables, trials
from moescope.platform.commands import answer, commands, take
from moescope.platform.dashboard_role import grant_dashboard, grants_in_words, role_of
from moescope.platform.engines import StoreAway
from moescope.platform.errors import MoescopeError
from moescope.platform.incidents import put_incident
from moescope.platform.records import (
    Alert,
    Checkpoint,
    Event,
    Frame,
    Incident,
    Run,
    Segment,
    Study,
    Trial,
)
from moescope.platform.rule_versions import newest
from moescope.platform.series import read_series
from moescope.platform.store import Store, open_store

pytestmark = pytest.mark.postgres
ANN = Asker("Ann", "operator")


@pytest.fixture
def role(postgres_server: str, postgres_url: str) -> Iterator[str]:
    """A role that may sign in, of a name that must be quoted, and has no other rights."""
    name = f'Dash-board "{secrets.token_hex(4)}%s'
    quoted = '"' + name.replace('"', '""') + '"'
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"CREATE ROLE {quoted} LOGIN")  # type: ignore[arg-type]
        yield name
        server.execute(f"DROP OWNED BY {quoted}")  # type: ignore[arg-type]
        server.execute(f"DROP ROLE {quoted}")  # type: ignore[arg-type]


@pytest.fixture
def filled(postgres_url: str) -> Iterator[Store]:
    """The owner's store, with a run and a study."""
    with open_store(postgres_url) as store:
        store.add_run(Run("r1", "tiny-1", "p", {}, "running", "cpu", "0", 1.0, 1.0))
        store.add_segment(Segment("r1", 0, 0, "start", 1.0))
        store.write_frames([Frame("r1", 0, 1, 1.0, {"loss/total": 2.0})])  # type: ignore[dict-item]
        store.put_alert(_alert())
        failed = Trial("s", "k", 0, "n=1", {}, {}, {}, state="failed")
        trials.ask(store, Study("s", {}, "running", 1.0), [failed])
        yield store


@pytest.fixture
def dashboard(filled: Store, postgres_url: str, role: str) -> Iterator[Store]:
    """The same store as the dashboard's process opens it."""
    assert grant_dashboard(postgres_url, role)
    opened = open_for_reading(_as(postgres_url, role))
    assert opened is not None
    yield opened
    opened.close()


def _alert() -> Alert:
    return Alert("a1", "r1", 0, "loss_spike", "critical", 3, 4, 9.0, 4.0, "up", 1.0, "d")


def _as(url: str, role: str) -> str:
    return make_url(url).set(username=role, password="x").render_as_string(hide_password=False)


def test_it_reads_all(dashboard: Store) -> None:
    assert dashboard.find_run("tiny-1").id == "r1"
    assert read_series(dashboard, "r1", "loss/total").values.tolist() == [2.0]
    for table in tables.metadata.sorted_tables:
        dashboard.database.read(lambda c, table=table: c.execute(table.select()).all())  # type: ignore[misc]


def test_each_thing_that_can_be_asked_can_be_asked_with_it(dashboard: Store, filled: Store) -> None:
    asks.roll_back(dashboard, ANN, "r1", 0)
    asks.save_checkpoint(dashboard, ANN, "r1")
    asks.set_mode(dashboard, ANN, "r1", "off")
    kinds = [command.kind for command in take(filled, "r1")]
    assert kinds == ["rollback", "checkpoint", "set_mode"]
    alert = dashboard.alert("a1")
    assert asks.set_alert_state(dashboard, ANN, alert, "acknowledged")
    assert asks.silence_alert(dashboard, ANN, alert, 60.0)
    asks.end_silence(dashboard, ANN, "r1", alert.rule)
    assert asks.set_alert_state(dashboard, ANN, alert, "resolved")
    assert asks.set_alert_state(dashboard, ANN, alert, "open")
    assert asks.change_rule(dashboard, ANN, "off", "loss_spike", "").is_done
    assert [version.changed_by for version in newest(filled)] == ["Ann (operator)"]
    asks.set_study_state(dashboard, ANN, "s", "paused")
    asks.retry_trials(dashboard, ANN, "s")
    asks.skip_trial(dashboard, ANN, "s", "k")
    asks.unskip_trial(dashboard, ANN, "s", "k")
    asks.note_run(dashboard, ANN, "r1", "seen", ["night"])
    asks.save_view(dashboard, ANN, "compare", "mine", "runs=r1")
    asks.save_view(dashboard, ANN, "compare", "mine", "runs=r1&x=tokens")
    asks.remove_view(dashboard, ANN, "compare", "mine")
    assert (trials.study(filled, "s").state, trials.trials(filled, "s")[0].state) == (
        "paused",
        "waiting",
    )
    told = recent_deeds(dashboard)
    assert len(told) == 17
    assert [deed for deed in told if not deed.outcome.startswith(("done", "asked"))] == []


def test_notes_and_tags_of_a_run_can_be_written_and_nothing_else_of_it(dashboard: Store) -> None:
    dashboard.update_run("r1", note="mine", tags=["a"], is_archived=True)
    run = dashboard.find_run("r1")
    assert (run.note, run.tags, run.is_archived) == ("mine", ("a",), True)
    for field, value in {"status": "crashed", "heartbeat_s": 9.0, "config": {}}.items():
        with pytest.raises(StoreAway, match="refuses this user"):
            dashboard.update_run("r1", **{field: value})


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.add_run(replace(store.find_run("r1"), id="r2")),
        lambda store: store.write_frames([Frame("r1", 0, 2, 1.0, {"loss/total": 1.0})]),
        lambda store: store.add_segment(Segment("r1", 1, 1, "rollback", 1.0)),
        lambda store: store.add_event(Event("r1", 0, 1, 1.0, "note", "said")),
        lambda store: store.put_checkpoint(Checkpoint("r1", 0, 1, "x", 1, 1, 1.0, "fresh")),
        lambda store: store.put_alert(replace(_alert(), id="a2")),
        lambda store: put_incident(store, Incident("a1", "r1", 1.0, "data", True, {})),
        lambda store: take(store, "r1"),
        lambda store: answer(store, commands(store, "r1")[0].id, "done", "", 1.0),
        lambda store: trials.claim(store, "s", "me", "r1", 1e12, 1.0),
        lambda store: trials.ask(store, Study("t", {}, "running", 1.0), []),
        lambda store: store.delete_run("r1"),
    ],
    ids=[
        "a run", "samples", "a segment", "an event", "a checkpoint", "an alert", "an account",
        "taking a command", "answering one", "claiming a trial", "a study", "deleting a run",
    ],
)  # fmt: skip
def test_it_can_write_nothing_that_is_a_trainers_or_a_workers(
    dashboard: Store, filled: Store, write: Callable[[Store], object]
) -> None:
    asks.save_checkpoint(dashboard, ANN, "r1")
    asks.retry_trials(dashboard, ANN, "s")
    asks.skip_trial(dashboard, ANN, "s", "k")
    asks.unskip_trial(dashboard, ANN, "s", "k")
    asks.note_run(dashboard, ANN, "r1", "seen", ["night"])
    asks.save_view(dashboard, ANN, "compare", "mine", "runs=r1")
    asks.save_view(dashboard, ANN, "compare", "mine", "runs=r1&x=tokens")
    asks.remove_view(dashboard, ANN, "compare", "mine")
    asks.set_study_state(dashboard, ANN, "s", "running")
    with pytest.raises(StoreAway, match="refuses this user"):
        write(dashboard)
    assert filled.find_run("r1").status == "running"


def test_it_can_delete_nothing_but_saved_views(dashboard: Store) -> None:
    ways = ("TRUNCATE {} CASCADE", "DROP TABLE {}", "ALTER TABLE {} ADD x int")
    for table in (*tables.metadata.tables, tables.VERSION_TABLE):
        for way in ways if table == "views" else ("DELETE FROM {}", *ways):
            said = text(way.format(table))
            with pytest.raises(StoreAway, match="refuses this user"):
                dashboard.database.write(lambda c, said=said: c.execute(said))  # type: ignore[misc]


def test_who_did_what_and_when_cannot_be_changed_with_it(dashboard: Store) -> None:
    asks.save_checkpoint(dashboard, ANN, "r1")
    for column in ("who", "role", "what", "about_id", "args"):
        said = text(f"UPDATE deeds SET {column} = 'x'")
        with pytest.raises(StoreAway, match="refuses this user"):
            dashboard.database.write(lambda c, said=said: c.execute(said))  # type: ignore[misc]
    with pytest.raises(StoreAway, match="refuses this user"):
        dashboard.database.write(lambda c: c.execute(text("UPDATE commands SET asked_by = 'x'")))


def test_it_makes_no_tables_and_upgrades_none(postgres_url: str, role: str, filled: Store) -> None:
    with pytest.raises(MoescopeError, match=r"shows no tables: run .* `moescope db grant-dash"):
        open_for_reading(_as(postgres_url, role))  # it has no rights yet
    grant_dashboard(postgres_url, role)
    older = text("UPDATE moescope_version SET version_num = '0006'")
    filled.database.write(lambda c: c.execute(older))
    with pytest.raises(MoescopeError, match="run `moescope db upgrade`"):
        open_for_reading(_as(postgres_url, role))


def test_what_it_had_before_beyond_this_is_taken_back(
    postgres_url: str, role: str, filled: Store
) -> None:
    quoted = '"' + role.replace('"', '""') + '"'
    too_much = f"GRANT ALL ON scalar_rows, runs TO {quoted}".replace("%", "%%")
    filled.database.write(lambda c: c.exec_driver_sql(too_much))
    grant_dashboard(postgres_url, role)
    with open_store(_as(postgres_url, role)) as store, pytest.raises(StoreAway):
        store.update_run("r1", name="other")


def test_a_role_that_could_write_more_by_other_means_is_refused(
    postgres_url: str, filled: Store
) -> None:
    owner = make_url(postgres_url).username or ""
    with pytest.raises(MoescopeError, match=f"role {owner} could still"):
        grant_dashboard(postgres_url, owner)


def test_a_role_that_is_not_there_is_said_with_how_to_make_it(
    postgres_url: str, filled: Store
) -> None:
    with pytest.raises(MoescopeError, match=r'there is no role nobody.*CREATE ROLE "nobody"'):
        grant_dashboard(postgres_url, "nobody")


def test_the_statements_can_be_printed_for_whoever_looks_after_the_server(
    postgres_url: str, filled: Store
) -> None:
    done = CliRunner().invoke(
        app, ["db", "grant-dashboard", "dash", "--print", "--store", postgres_url]
    )
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert all(line.endswith(' TO "dash";') or line.startswith("REVOKE ALL") for line in lines)
    assert any(line.startswith("GRANT UPDATE (") and '"alerts"' in line for line in lines)
    assert lines == [f"{line};" for line in grants_in_words(postgres_url, "dash")]


def test_the_command_gives_the_rights(postgres_url: str, role: str, filled: Store) -> None:
    done = CliRunner().invoke(app, ["db", "grant-dashboard", role, "--store", postgres_url])
    assert done.exit_code == 0, done.output
    with open_store(_as(postgres_url, role), may_make=False) as store:
        asks.save_checkpoint(store, ANN, "r1")


def test_an_own_role_is_told_by_its_name() -> None:
    store = "postgresql://moescope:secret@db/moescope"
    assert role_of(store, "postgresql://dash:other@db/moescope") == "dash"
    assert role_of(store, "postgresql://moescope:secret@db/moescope") == ""
    assert role_of(store, "") == ""
    assert role_of("sqlite:////a/store.db", "postgresql://dash@db/moescope") == ""


def test_a_file_knows_no_roles(tmp_path: os.PathLike[str]) -> None:
    with pytest.raises(MoescopeError, match="which knows no roles"):
        grant_dashboard(f"sqlite:///{tmp_path}/store.db", "dash")
