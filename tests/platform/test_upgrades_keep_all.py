"""A store of each version before, filled by plain SQL as its program would have, says the same
after the upgrade.
"""

import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Table, select

from moescope.platform import leases, tables
from moescope.platform.commands import commands
from moescope.platform.deeds import deeds
from moescope.platform.engines import Database
from moescope.platform.errors import MoescopeError
from moescope.platform.incidents import incidents
from moescope.platform.migrate import MIGRATIONS, prepare, upgrade_store, versions
from moescope.platform.records import (
    Alert,
    Attempt,
    Checkpoint,
    Command,
    Deed,
    Event,
    Frame,
    Incident,
    RuleVersion,
    Run,
    SavedView,
    Segment,
)
from moescope.platform.rule_versions import history
from moescope.platform.saved_views import saved_views
from moescope.platform.series import known_signals, read_series
from moescope.platform.store import Store, open_store
from moescope.platform.store_check import check_store
from moescope.platform.trials import attempts, studies, trials

STEPS = 64
LOSS, NORM, LOAD = "loss/total", "grad/norm", "router/expert_load"
FIRST_STEPS = {0: 0, 1: 50}
"""{segment: its first step}; the second went back to step 50."""
VERSIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Those whose rows this file knows; a later one adds its own to `fill`."""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def loads(row: int, step: int) -> list[float]:
    return [row + step / 128, float("nan"), float("inf"), 0.5]


def insert(database: Database, table: str, *rows: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in rows[0])
    mark = "?" if database.is_embedded else "%s"
    statement = f'INSERT INTO "{table}" ({names}) VALUES ({", ".join([mark] * len(rows[0]))})'
    values = [tuple(row.values()) for row in rows]
    database.write(lambda c: c.exec_driver_sql(statement, values))


def fill(database: Database, version: str) -> None:
    """What the program of a version would have written, by name and by hand."""
    run = {
        "number": 1, "id": "r1", "name": "tiny-1", "project": "p", "config": '{"lr":0.1}',
        "status": "running", "device": "cpu", "code_version": "0.0.1", "created_s": 1.0,
        "heartbeat_s": 2.0, "finished_s": None, "mode": "on", "tags": '["a","b"]', "note": "näh",
        "is_archived": False, "folder": "/runs/r1",
    }  # fmt: skip
    insert(database, "runs", run, {**run, "number": 2, "id": "r2", "name": "tiny-2"})
    segment = {
        "run_id": "r1", "index": 0, "start_step": 0, "reason": "start", "created_s": 1.0,
        "parent_segment": None, "parent_step": None, "alert_id": None, "changes": "{}",
    }  # fmt: skip
    child = {"index": 1, "start_step": 50, "reason": "rollback", "parent_segment": 0}
    insert(database, "segments", segment, {**segment, **child, "parent_step": 49, "alert_id": "a1"})
    insert(
        database,
        "events",
        {
            "key": "k1", "run_id": "r1", "segment": 0, "step": 7, "time_s": 8.0, "kind": "note",
            "text": "said", "details": '{"x":[1,2]}',
        },
    )  # fmt: skip
    alert = {
        "id": "a1", "run_id": "r1", "segment": 0, "rule": "loss_spike", "severity": "critical",
        "onset_step": 40, "fired_step": 44, "value": None, "threshold": 3.5, "message": "up",
        "created_s": 9.0, "dedupe_key": "d", "state": "silenced", "evidence": '{"layer":2}',
        "changed_by": "ann", "changed_s": 10.0, "delivered_s": None, "delivery_failure": "no",
        "num_deliveries": 3,
    }  # fmt: skip
    insert(
        database, "alerts", {**alert, **({"silenced_until_s": 99.0} if version >= "0004" else {})}
    )
    insert(
        database,
        "checkpoints",
        {
            "run_id": "r1", "segment": 0, "step": 20, "path": "/c/20", "batch": 21,
            "num_bytes": 5_000_000_000, "created_s": 3.0, "health": "certified",
            "is_on_disk": True,
        },
    )  # fmt: skip
    insert(
        database,
        "commands",
        {
            "id": "c1", "run_id": "r1", "kind": "rollback", "args": '{"to_step":20}',
            "asked_by": "ann", "asked_s": 4.0, "state": "done", "answer": "went",
            "answered_s": 5.0,
        },
    )  # fmt: skip
    insert(database, "leases", {"name": "service", "holder": "me", "since_s": 1.0, "until_s": 1e12})
    fill_samples(database)
    if version >= "0002":
        fill_studies(database, version)
    if version >= "0004":
        insert(
            database,
            "rule_versions",
            {
                "run_id": "", "name": "mine", "version": 3, "body": '{"signal":"loss/total"}',
                "is_on": False, "changed_by": "ann", "changed_s": 6.0,
            },
        )  # fmt: skip
    if version >= "0005":
        insert(
            database,
            "incidents",
            {
                "alert_id": "a1", "run_id": "r1", "made_s": 11.0, "verdict": "data",
                "is_replayed": True, "content": '{"layer":2}',
            },
        )  # fmt: skip
    if version >= "0007":
        insert(
            database,
            "deeds",
            {
                "id": "d1", "asked_s": 12.0, "who": "ann (operator)", "role": "operator",
                "what": "rollback", "about": "run", "about_id": "r1", "args": '{"to_step":20}',
                "outcome": "asked",
            },
        )  # fmt: skip
    if version >= "0008":
        insert(
            database,
            "views",
            {
                "page": "compare", "name": "näher", "query": "runs=r1%2Cr2&x=tokens",
                "saved_by": "ann", "saved_s": 12.0,
            },
        )  # fmt: skip


def fill_samples(database: Database) -> None:
    insert(database, "groups", {"id": 1, "name": "step"}, {"id": 2, "name": "router"})
    insert(database, "layouts", {"id": 1, "name": f"{NORM}\n{LOSS}"}, {"id": 2, "name": ""})
    signals = ((1, LOSS, "step", 0), (2, NORM, "step", 0), (3, LOAD, "router", 2))
    of_signal = ("id", "name", "group_name", "num_dimensions")
    insert(database, "signals", *(dict(zip(of_signal, row, strict=True)) for row in signals))
    scalars, vectors, spans = [], [], []
    for run in (1, 2):
        for segment, first in FIRST_STEPS.items():
            for step in range(first, STEPS):
                key = {"run_number": run, "segment": segment, "step": step}
                when = {**key, "time_s": 1000.0 + step}
                numbers = floats(-step, step * run)
                scalars.append({**when, "group_id": 1, "layout_id": 1, "data": numbers})
                scalars.append({**when, "group_id": 2, "layout_id": 2, "data": b""})
                vectors += [
                    {**key, "signal_id": 3, "row": row, "data": floats(*loads(row, step))}
                    for row in range(3)
                ]
            span = {"run_number": run, "segment": segment, "first_step": first}
            spans += [
                {**span, "last_step": STEPS - 1, "signal_id": signal, "num_rows": num_rows}
                for signal, num_rows in ((1, 0), (2, 0), (3, 3))
            ]
    insert(database, "scalar_rows", *scalars)
    insert(database, "vector_rows", *vectors)
    insert(database, "spans", *spans)


def fill_studies(database: Database, version: str) -> None:
    served = {"is_served": True} if version >= "0003" else {}
    insert(
        database,
        "studies",
        {"name": "s", "spec": '{"n":2}', "state": "open", "created_s": 1.0, **served},
    )
    insert(
        database,
        "trials",
        {
            "study": "s", "key": "k", "position": 0, "label": "n=1", "coordinates": '{"n":1}',
            "config": "{}", "cost": '{"flops":1e15}', "trunk": "", "branch_at": 0, "state": "done",
            "is_wanted": True, "run_id": "r1", "num_attempts": 1, "num_failures": 0,
            "not_before_s": 0.0, "worker": "", "until_s": 0.0, "result": '{"loss":2.5}',
        },
    )  # fmt: skip
    insert(
        database,
        "attempts",
        {
            "study": "s", "key": "k", "number": 1, "worker": "w", "run_id": "r1",
            "started_s": 1.0, "ended_s": 2.0, "exit_reason": "done", "log_tail": "bye",
        },
    )  # fmt: skip
    if version < "0003":
        return
    insert(
        database,
        "schedules",
        {
            "name": "n", "spec": "{}", "kind": "cron", "when": "0 3 * * *", "zone": "UTC",
            "created_s": 1.0, "is_paused": True,
        },
    )  # fmt: skip
    firing = {"schedule": "n", "due_s": 10.0, "fired_s": 11.0, "by": "me", "outcome": "2 trials"}
    insert(database, "firings", firing)
    speed = {"machine": "m", "shape": "abc", "flops_per_s": 1e12, "measured_s": 3.0}
    insert(database, "calibrations", speed)
    insert(database, "reports", {"study": "s", "made_s": 4.0, "folder": "/f", "content": '{"a":1}'})


def made_at(url: str, version: str, folder: Path) -> Database:
    """A store as the program of that version made it: its migrations, and no later one."""
    shutil.copytree(MIGRATIONS, folder)
    for file in (folder / "versions").glob("[0-9]*.py"):
        if file.name.split("_")[0] > version:
            file.unlink()
    database = Database(url)
    assert prepare(database, migrations=folder) == ("", version)
    return database


def assert_all_is_there(store: Store, version: str) -> None:
    silenced_until_s = 99.0 if version >= "0004" else None
    run = Run(
        "r1", "tiny-1", "p", {"lr": 0.1}, "running", "cpu", "0.0.1", 1.0, 2.0, None, "on",
        ("a", "b"), "näh", False, "/runs/r1",
    )  # fmt: skip
    assert store.find_run("r1") == run
    assert [found.id for found in store.runs()] == ["r2", "r1"]
    assert store.segments("r1") == [
        Segment("r1", 0, 0, "start", 1.0),
        Segment("r1", 1, 50, "rollback", 1.0, 0, 49, "a1"),
    ]
    assert store.events("r1") == [Event("r1", 0, 7, 8.0, "note", "said", {"x": [1, 2]})]
    (alert,) = store.alerts("r1")
    assert np.isnan(alert.value)  # SQLite keeps NaN as NULL
    assert replace(alert, value=0.0) == Alert(
        "a1", "r1", 0, "loss_spike", "critical", 40, 44, 0.0, 3.5, "up", 9.0, "d", "silenced",
        {"layer": 2}, "ann", 10.0, silenced_until_s,
    )  # fmt: skip
    assert store.delivery_failures("r1") == {"a1": "no"}
    assert store.checkpoints("r1") == [
        Checkpoint("r1", 0, 20, "/c/20", 21, 5_000_000_000, 3.0, "certified", True)
    ]
    assert commands(store, "r1") == [
        Command("c1", "r1", "rollback", {"to_step": 20}, "ann", 4.0, "done", "went", 5.0)
    ]
    assert leases.holder(store, "service", 2.0) == "me"
    for number, run_id in ((1, "r1"), (2, "r2")):
        assert known_signals(store, run_id) == sorted((LOSS, NORM, LOAD))
        at = [(0, step) for step in range(STEPS)] + [(1, step) for step in range(50, STEPS)]
        steps = np.array([step for _, step in at])
        loss, norm = read_series(store, run_id, LOSS), read_series(store, run_id, NORM)
        assert list(zip(loss.segments.tolist(), loss.steps.tolist(), strict=True)) == at
        np.testing.assert_array_equal(loss.values, number * steps)
        np.testing.assert_array_equal(loss.times_s, 1000.0 + steps)
        np.testing.assert_array_equal(norm.values, -steps)
        load = read_series(store, run_id, LOAD)
        want = np.array([[loads(row, step) for row in range(3)] for step in steps], np.float32)
        np.testing.assert_array_equal(load.values, want)
        one = read_series(store, run_id, LOAD, row=2, from_step=60, segments=[1])
        np.testing.assert_array_equal(one.values, want[steps.size - STEPS + 60 :, 2])
    if version >= "0002":
        (study,) = studies(store)
        assert (study.spec, study.is_served) == ({"n": 2}, version >= "0003")
        (trial,) = trials(store, "s")
        assert (trial.cost, trial.result) == ({"flops": 1e15}, {"loss": 2.5})
        attempt = Attempt("s", "k", 1, "w", "r1", 1.0, 2.0, "done", "bye")
        assert attempts(store, "s", "k") == [attempt]
    if version >= "0003":
        assert whole(store, tables.schedules)[0][3:] == ("0 3 * * *", "UTC", 1.0, True)
        assert whole(store, tables.firings) == [("n", 10.0, 11.0, "me", "2 trials")]
        assert whole(store, tables.calibrations) == [("m", "abc", 1e12, 3.0)]
        assert whole(store, tables.reports) == [("s", 4.0, "/f", {"a": 1})]
    if version >= "0004":
        assert history(store, "mine") == [
            RuleVersion("", "mine", 3, {"signal": LOSS}, False, "ann", 6.0)
        ]
    if version >= "0005":
        assert incidents(store, "r1") == [Incident("a1", "r1", 11.0, "data", True, {"layer": 2})]
    if version >= "0007":
        who = ("ann (operator)", "operator")
        assert deeds(store) == [
            Deed("d1", 12.0, *who, "rollback", "run", "r1", {"to_step": 20}, "asked")
        ]
    if version >= "0008":
        view = SavedView("compare", "näher", "runs=r1%2Cr2&x=tokens", "ann", 12.0)
        assert saved_views(store, "compare") == [view]


def whole(store: Store, table: Table) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in store.database.read(lambda c: c.execute(select(table)).all())]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_a_version_before_says_the_same_after_the_upgrade(
    url: str, tmp_path: Path, version: str
) -> None:
    database = made_at(url, version, tmp_path / "as it was")
    fill(database, version)
    database.close()
    if version != versions()[-1]:
        (fault,) = check_store(url).faults
        assert (fault.what.split(",")[0], fault.todo) == (
            f"it is at version {version}",
            "run `moescope db upgrade`",
        )
    assert upgrade_store(url) == (version, versions()[-1])
    with open_store(url) as store:
        assert_all_is_there(store, version)
        # and it takes what comes: a step that was there, and one that was not
        ones = {LOSS: np.float32(7), NORM: np.float32(8)}
        store.write_frames([Frame("r1", 1, step, 0.0, ones) for step in (STEPS - 1, STEPS)])
        new = read_series(store, "r1", LOSS, from_step=STEPS - 1, segments=[1])
        assert new.values.tolist() == [7.0, 7.0]
        store.delete_run("r2")
        assert [run.id for run in store.runs()] == ["r1"]
    assert check_store(url).faults == ()


@pytest.mark.story
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-2]])
def test_of_two_processes_that_upgrade_at_once_one_does_and_both_go_on(
    url: str, tmp_path: Path, version: str
) -> None:
    database = made_at(url, version, tmp_path / "as it was")
    fill(database, version)
    database.close()
    code = (
        "import sys; from moescope.platform.migrate import upgrade_store; "
        "from moescope.platform.store import open_store; sys.stdin.readline(); "
        "went = upgrade_store(sys.argv[1]); s = open_store(sys.argv[1]); "
        "print(*went, len(s.runs())); s.close()"
    )
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, url], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate(timeout=60) for process in started]
    assert [said for _, said in found] == ["", ""]
    newest = versions()[-1]
    went = sorted(out.split() for out, _ in found)
    assert went == [[version, newest, "2"], [newest, newest, "2"]]
    with open_store(url) as store:
        assert_all_is_there(store, version)


def test_a_store_newer_than_the_program_is_refused_on_one_line(url: str) -> None:
    upgrade_store(url)
    database = Database(url)
    database.write(lambda c: c.exec_driver_sql("UPDATE moescope_version SET version_num = '9999'"))
    database.close()
    for use_it in (open_store, upgrade_store, check_store):
        with pytest.raises(MoescopeError, match="is at version 9999, newer than this") as error:
            use_it(url)
        assert "\n" not in str(error.value)
        assert "update moescope" in str(error.value)
