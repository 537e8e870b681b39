"""Runs of MLflow, from a database, a folder and a server in a process of its own."""

import json
import math
import re
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from typer.testing import Result

from moescope.platform import catalogue
from moescope.platform.mlflow_door import be_impatient
from moescope.platform.series import is_living, read_series
from moescope.platform.service_children import mlflow_server
from moescope.platform.store import Store

Invoke = Callable[..., Result]
FIRST_MS = 1_760_000_000_000


@pytest.fixture
def tracking(
    empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, MlflowClient]:
    be_impatient()
    # MLflow makes the folder of its files where one happens to be
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mlflow.db"
    shutil.copy(empty_mlflow, file)
    return f"sqlite:///{file}", MlflowClient(tracking_uri=f"sqlite:///{file}")


def log(
    client: MlflowClient,
    name: str,
    rows: list[tuple[int, dict[str, float]]],
    experiment: str = "clips",
    status: str | None = "FINISHED",
    **tags: str,
) -> str:
    """A run whose rows (step, metrics) were logged a second after each other."""
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    run = client.create_run(experiment_id, start_time=FIRST_MS, run_name=name, tags=tags)
    run_id: str = run.info.run_id
    metrics = [
        Metric(key, value, FIRST_MS + 1000 * at, step)
        for at, (step, values) in enumerate(rows)
        for key, value in values.items()
    ]
    for at in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[at : at + 1000])
    if status:
        client.set_terminated(run_id, status, end_time=FIRST_MS + 1000 * len(rows))
    return run_id


def test_a_run_comes_with_curves_parameters_tags_and_state(
    moescope: Invoke, own_store: Store, tracking: tuple[str, MlflowClient]
) -> None:
    uri, client = tracking
    odd = {3: math.nan, 4: math.inf, 5: -math.inf}
    rows = [
        (s, {"train/loss": odd.get(s, 1 / (s + 1)), "lr": 1e-3, "system/cpu": 50.0})
        for s in range(40)
    ]
    run_id = log(client, "swift", rows, status="FAILED", team="moe", big="true")
    client.log_param(run_id, "optim.lr", "0.001")
    client.log_param(run_id, "model", "tiny")
    client.set_tag(run_id, "mlflow.note.content", "diverged")
    (found,) = json.loads(moescope("import", "mlflow", uri, "--json").stdout)
    assert found["signals"] == {
        "train/loss": catalogue.LOSS_TOTAL,
        "lr": catalogue.LEARNING_RATE,
    }
    assert found["left"] == {"system/* (1)": "counts samples of the machine, not steps"}
    run = own_store.find_run("swift")
    assert (run.project, run.status, run.note) == ("clips", "crashed", "diverged")
    assert run.tags == ("big", "team=moe")
    assert run.config["imported"]["params"] == {"optim.lr": 0.001, "model": "tiny"}
    assert (run.created_s, run.finished_s) == (FIRST_MS / 1e3, FIRST_MS / 1e3 + 40)
    series = read_series(own_store, run.id, catalogue.LOSS_TOTAL)
    want = np.array([odd.get(s, 1 / (s + 1)) for s in range(40)], np.float32)
    np.testing.assert_array_equal(series.values, want)
    assert series.times_s.tolist() == [FIRST_MS / 1e3 + s for s in range(40)]
    # nothing of MLflow's own is left where one happened to be
    assert not Path("mlruns").exists()
    (again,) = json.loads(moescope("import", "mlflow", uri, "--json").stdout)
    assert (again["num_points"], again["num_new"]) == (80, 0)
    assert own_store.find_run("swift") == run


def test_a_zigzag_of_resumes_is_unfolded_into_segments(
    moescope: Invoke, own_store: Store, tracking: tuple[str, MlflowClient]
) -> None:
    uri, client = tracking
    rows: list[tuple[int, dict[str, float]]] = []
    for first, last, level in ((0, 100, 1.0), (60, 140, 2.0), (110, 200, 3.0)):
        for step in range(first, last):
            values = {"grad_norm": level}
            if step % 5 == 0:
                values["loss"] = level
            rows.append((step, values))
    log(client, "zigzag", rows)
    moescope("import", "mlflow", uri)
    run = own_store.find_run("zigzag")
    segments = own_store.segments(run.id)
    assert [(s.start_step, s.parent_step) for s in segments] == [(0, None), (60, 59), (110, 109)]
    for signal in (catalogue.LOSS_TOTAL, catalogue.GRAD_NORM):
        series = read_series(own_store, run.id, signal)
        alive = is_living(series, segments)
        steps = series.steps[alive]
        assert (np.diff(steps) > 0).all()
        want = np.where(steps < 60, 1.0, np.where(steps < 110, 2.0, 3.0))
        np.testing.assert_array_equal(series.values[alive], want.astype(np.float32))


def test_histories_longer_than_a_page_are_whole(
    moescope: Invoke,
    own_store: Store,
    tracking: tuple[str, MlflowClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moescope.platform.history.mlflow_source._POINTS_AT_ONCE", 64)
    uri, client = tracking
    log(client, "long", [(s, {"loss": s, "acc": -s}) for s in range(500)], status=None)
    (found,) = json.loads(moescope("import", "mlflow", uri, "--json").stdout)
    assert found["num_points"] == 1000
    assert "still running" in found["notes"][0]
    run = own_store.find_run("long")
    # nobody beats for it here, so the watchman must not wait for it
    assert run.status == "stopped"
    series = read_series(own_store, run.id, "user/acc")
    assert series.values.tolist() == [-float(s) for s in range(500)]


def test_runs_are_chosen_by_name_id_and_experiment_and_our_own_mirrors_left(
    moescope: Invoke,
    refused: Callable[..., str],
    own_store: Store,
    tracking: tuple[str, MlflowClient],
) -> None:
    uri, client = tracking
    row: list[tuple[int, dict[str, float]]] = [(0, {"loss": 1.0})]
    ids = [log(client, f"run-{i}", row, experiment="a" if i < 2 else "b") for i in range(4)]
    mirror = log(client, "ours", row, **{"moescope.run_id": "x"})
    moescope("import", "mlflow", uri, "--run", "run-0", "--run", ids[3])
    assert sorted(run.name for run in own_store.runs()) == ["run-0", "run-3"]
    moescope("import", "mlflow", uri, "--experiment", "b")
    assert sorted(run.name for run in own_store.runs()) == ["run-0", "run-2", "run-3"]
    moescope("import", "mlflow", uri, "--project", "all")
    assert sorted(run.name for run in own_store.runs()) == [f"run-{i}" for i in range(4)]
    moescope("import", "mlflow", uri, "--run", mirror)
    assert len(own_store.runs()) == 5
    assert "did you mean run-" in refused("import", "mlflow", uri, "--run", "runn-1")
    line = refused("import", "mlflow", uri, "--experiment", "x' OR 1=1; --")
    assert "there is no experiment" in line


def test_what_lies_in_a_folder_comes_in_too(
    moescope: Invoke, own_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mlruns"
    with monkeypatch.context() as others:
        others.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = MlflowClient(tracking_uri=folder.as_uri())
        log(client, "kept", [(s, {"loss": s * 0.5}) for s in range(20)])
    (found,) = json.loads(moescope("import", "mlflow", str(tmp_path / "mlruns"), "--json").stdout)
    assert (found["run"], found["num_points"]) == ("kept", 20)
    series = read_series(own_store, found["run_id"], catalogue.LOSS_TOTAL)
    assert series.values.tolist() == [s * 0.5 for s in range(20)]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("sqlite:////does/not/exist.db", "there is no file", id="no file"),
        pytest.param("/does/not/exist", "there is no folder", id="no folder"),
        pytest.param("ftp://ann:hush@h/x", "no address of MLflow", id="scheme"),
        pytest.param("http://ann:hush@127.0.0.1:9", "cannot be read", id="nobody answers"),
        pytest.param("postgresql://ann:hush@127.0.0.1:9/d", "cannot be read", id="no database"),
    ],
)
def test_an_address_that_is_wrong_is_one_line_without_its_password(
    refused: Callable[..., str], address: str, expected: str
) -> None:
    started_s = time.monotonic()
    line = refused("import", "mlflow", address)
    assert expected in line
    assert "hush" not in line
    assert time.monotonic() - started_s < 30


def test_a_file_that_is_no_database_of_mlflow_is_one_line_and_stays_as_it_is(
    refused: Callable[..., str], own_store: Store, home: Path, tmp_path: Path
) -> None:
    assert "no database of MLflow" in refused("import", "mlflow", own_store.url)
    (tmp_path / "x.db").write_text("hello, I am no database at all")
    assert "cannot be read" in refused("import", "mlflow", f"sqlite:///{tmp_path / 'x.db'}")
    assert (tmp_path / "x.db").read_text().startswith("hello")


@pytest.mark.postgres
def test_a_wrong_password_is_one_line(refused: Callable[..., str], postgres_server: str) -> None:
    address = re.sub(r"//[^@]*@", "//nobody_here:hush@", postgres_server)
    line = refused("import", "mlflow", address)
    assert "hush" not in line


@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_refuses_is_one_line(refused: Callable[..., str], code: int) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(code)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        line = refused("import", "mlflow", f"http://ann:hush@127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    assert str(code) in line
    assert "hush" not in line


@pytest.fixture
def server(tmp_path: Path, tracking: tuple[str, MlflowClient]) -> Iterator[str]:
    """A real server on the database of `tracking`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    child = mlflow_server("127.0.0.1", tmp_path, port)
    child.start()
    until_s = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < until_s, child.last_line()
            assert child.exit_code is None, child.last_line()
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    child.stop()


def test_a_server_gives_the_same_page_by_page(
    moescope: Invoke,
    own_store: Store,
    tracking: tuple[str, MlflowClient],
    server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moescope.platform.history.mlflow_source._POINTS_AT_ONCE", 100)
    uri, client = tracking
    rows = [(s, {"loss": math.nan if s == 7 else s / 3}) for s in range(250)]
    log(client, "swift", rows)
    (found,) = json.loads(moescope("import", "mlflow", server, "--json").stdout)
    assert found["num_new"] == 250
    # the same run, from its database itself
    (again,) = json.loads(moescope("import", "mlflow", uri, "--json").stdout)
    assert (again["run_id"], again["num_new"]) == (found["run_id"], 0)
    series: Any = read_series(own_store, found["run_id"], catalogue.LOSS_TOTAL)
    want = np.array([math.nan if s == 7 else s / 3 for s in range(250)], np.float32)
    np.testing.assert_array_equal(series.values, want)
