"""Real faults of every place a sink writes to: recording goes on in microseconds, and all is caught
up.
"""

import os
import resource
import shutil
import socket
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

import numpy as np
import pytest
from sqlalchemy import create_engine, make_url, text

from moescope.platform.catalogue import EXPERT_TOKENS, LOSS_TOTAL
from moescope.platform.mlflow_sink import MlflowSink
from moescope.platform.records import Alert, Frame, Run, Segment
from moescope.platform.series import read_series
from moescope.platform.service_children import mlflow_server
from moescope.platform.sinks import FanOut
from moescope.platform.sql_sink import SqlSink
from moescope.platform.store import Store, open_store

# MLflow 3.17 maps a relation in a way that SQLAlchemy 2.1 has deprecated; goes when MLflow's pin
# moves on
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

POSTGRES_URL = "postgresql://postgres@127.0.0.1:5432/test"
RUN = Run("r1", "tiny-1", "project", {"a": 1}, "running", "cpu", "0.1", 1.0, 1.0)
NUM_STEPS = 120


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    opened.add_run(RUN)
    yield opened
    opened.close()


def record_through(fan_out: FanOut, first: int = 0, num_experts: int = 48) -> list[float]:
    """Records steps as a training loop would; returns the seconds that each call took."""
    taken_s = []
    if first == 0:
        fan_out.say(Segment(RUN.id, 0, 0, "start", 1.0))
    for step in range(first, first + NUM_STEPS):
        values = {
            LOSS_TOTAL: np.full((), step, np.float32),
            EXPERT_TOKENS: np.full((6, num_experts), step, np.float32),
        }
        made = Frame(RUN.id, 0, step, 100.0 + step, values)
        start_s = time.perf_counter()
        fan_out.record(made)
        taken_s.append(time.perf_counter() - start_s)
        time.sleep(0.003)
    key = f"{RUN.id}/spike/{first}"
    fan_out.say(Alert(key, RUN.id, 0, "spike", "critical", first, first, 5.0, 4.0, "up", 1.0, key))
    return taken_s


def assert_took_microseconds(taken_s: list[float]) -> None:
    # 20 us on a quiet core; the bound is for a shared one
    assert statistics.median(taken_s) < 300e-6


def assert_whole(store: Store, num_steps: int, num_alerts: int) -> None:
    series = read_series(store, RUN.id, LOSS_TOTAL)
    assert series.steps.tolist() == list(range(num_steps))
    assert series.values.tolist() == [float(step) for step in range(num_steps)]
    assert len(store.alerts(RUN.id)) == num_alerts


def wait_until(is_true: Callable[[], bool], most_s: float = 20.0) -> None:
    until_s = time.monotonic() + most_s
    while not is_true():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.02)


def sink_state(fan_out: FanOut) -> str:
    return fan_out.status().sinks[0].state


def test_a_locked_database_is_caught_up_with_when_it_is_free(store: Store, tmp_path: Path) -> None:
    fan_out = FanOut(tmp_path / "journal", [SqlSink(store.url)])
    lock = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    taken_s = record_through(fan_out)
    assert not fan_out.flush(0.2)
    assert fan_out.status().sinks[0].backlog_bytes > 0
    assert fan_out.status().lag_s > 0.2
    lock.execute("ROLLBACK")
    lock.close()
    assert fan_out.flush(20)
    fan_out.close()
    assert_took_microseconds(taken_s)
    assert_whole(store, NUM_STEPS, 1)
    assert fan_out.status().coalesced == 0


def test_a_database_file_that_is_taken_away_is_caught_up_with_when_it_is_back(
    store: Store, tmp_path: Path
) -> None:
    fan_out = FanOut(tmp_path / "journal", [SqlSink(store.url)])
    record_through(fan_out)
    assert fan_out.flush(20)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in tmp_path.glob("store.db*"):
        path.rename(elsewhere / path.name)
    taken_s = record_through(fan_out, NUM_STEPS)
    wait_until(lambda: sink_state(fan_out) == "fails")
    assert not (tmp_path / "store.db").exists(), "a new one hides what is in the old one"
    for path in elsewhere.glob("store.db*"):
        path.rename(tmp_path / path.name)
    assert fan_out.flush(20)
    fan_out.close()
    assert_took_microseconds(taken_s)
    assert_whole(store, 2 * NUM_STEPS, 2)


def test_a_store_made_anew_gets_the_run_and_what_was_not_taken(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    fan_out = FanOut(tmp_path / "journal", [SqlSink(url, RUN)])
    record_through(fan_out)
    wait_until(lambda: sink_state(fan_out) == "fails")
    made = open_store(url)
    assert fan_out.flush(20)
    fan_out.close()
    assert made.find_run(RUN.id).name == RUN.name
    assert_whole(made, NUM_STEPS, 1)
    made.close()


def test_a_full_disk_is_caught_up_with_when_there_is_room(store: Store, tmp_path: Path) -> None:
    # small files of the journal still fit where the database cannot grow any more
    fan_out = FanOut(tmp_path / "journal", [SqlSink(store.url)], quota_bytes=64 * 2**20)
    size = (tmp_path / "store.db").stat().st_size + 400_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        taken_s = record_through(fan_out, num_experts=1500)
        wait_until(lambda: sink_state(fan_out) == "fails")
        error = fan_out.status().sinks[0].last_error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fan_out.flush(30)
    fan_out.close()
    assert "disk" in error
    assert_took_microseconds(taken_s)
    assert_whole(store, NUM_STEPS, 1)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """root may write what nobody else may, so there the file is made immutable."""
    if os.geteuid() == 0:
        done = subprocess.run(["chattr", "+i", str(path)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("root cannot make a file read-only on this file system")
        try:
            yield
        finally:
            subprocess.run(["chattr", "-i", str(path)], check=True)
    else:
        path.chmod(0o400)
        try:
            yield
        finally:
            path.chmod(0o600)


def test_a_read_only_database_is_caught_up_with_when_it_can_be_written(
    store: Store, tmp_path: Path
) -> None:
    with read_only(tmp_path / "store.db"):
        fan_out = FanOut(tmp_path / "journal", [SqlSink(store.url)])
        taken_s = record_through(fan_out)
        wait_until(lambda: sink_state(fan_out) == "fails")
    assert fan_out.flush(20)
    fan_out.close()
    assert_took_microseconds(taken_s)
    assert_whole(store, NUM_STEPS, 1)


@pytest.mark.postgres
def test_a_server_that_refuses_everybody_for_a_while_is_caught_up_with(tmp_path: Path) -> None:
    name = f"sinks_{token_hex(4)}"
    url = make_url(os.environ.get("MOESCOPE_TEST_POSTGRES_URL", POSTGRES_URL))
    admin = create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": 3},
    )

    def ask(*statements: str) -> None:
        with admin.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))

    try:
        ask(
            f"CREATE ROLE {name} LOGIN PASSWORD '{name}'",
            f"CREATE SCHEMA {name} AUTHORIZATION {name}",
        )
    except Exception as error:
        pytest.skip(f"no PostgreSQL at {url.render_as_string()}: {error}")
    own = url.set(drivername="postgresql", username=name, password=name).render_as_string(False)
    try:
        store = open_store(own)
        store.add_run(RUN)
        fan_out = FanOut(tmp_path / "journal", [SqlSink(own)])
        record_through(fan_out)
        assert fan_out.flush(20)
        store.close()
        kill = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"
        ask(f"ALTER ROLE {name} NOLOGIN", kill)
        taken_s = record_through(fan_out, NUM_STEPS)
        wait_until(lambda: sink_state(fan_out) == "fails")
        ask(f"ALTER ROLE {name} LOGIN")
        assert fan_out.flush(20)
        fan_out.close()
        assert_took_microseconds(taken_s)
        store = open_store(own)
        assert_whole(store, 2 * NUM_STEPS, 2)
        store.close()
    finally:
        kill = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"
        with suppress(Exception):
            ask(kill)
        ask(f"DROP SCHEMA {name} CASCADE", f"DROP OWNED BY {name}", f"DROP ROLE {name}")
        admin.dispose()


def test_an_mlflow_that_hangs_and_then_comes_back_is_caught_up_with(
    tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    hanging = socket.create_server(("127.0.0.1", 0), backlog=50)  # accepts, never answers
    port = hanging.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    fan_out = FanOut(tmp_path / "journal", [MlflowSink(url, RUN)])
    taken_s = record_through(fan_out)
    wait_until(lambda: sink_state(fan_out) == "fails")
    start_s = time.monotonic()
    fan_out.close(timeout_s=0.5)
    assert time.monotonic() - start_s < 2
    assert_took_microseconds(taken_s)
    hanging.close()
    server = mlflow_server("127.0.0.1", tmp_path, port)
    server.start()
    try:
        # nobody listens at first, as when the service is just starting
        fan_out = FanOut(tmp_path / "journal", [MlflowSink(url, RUN)])
        assert fan_out.flush(60)
        fan_out.close()
        client = MlflowClient(tracking_uri=url)
        experiment = client.get_experiment_by_name(RUN.project)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        by_segment = {run.data.tags["moescope.segment"]: run for run in runs}
        assert sorted(by_segment) == ["0", "all"]
        assert by_segment["0"].data.tags["mlflow.parentRunId"] == by_segment["all"].info.run_id
        history = client.get_metric_history(by_segment["0"].info.run_id, LOSS_TOTAL)
        assert [metric.step for metric in history] == list(range(NUM_STEPS))
        assert by_segment["all"].data.params == {"a": "1"}
    finally:
        server.stop()
