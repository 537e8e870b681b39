"""MLflow hangs, dies, answers with errors, asks for a password: training does not notice, and all
arrives once it is back.
"""

import http.server
import json
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from moescope.platform import trials
from moescope.platform.catalogue import (
    EXPERT_LOAD,
    GRAD_NORM,
    LOSS_SPIKE_SCORE,
    LOSS_TOTAL,
    TOKENS_PER_S,
)
from moescope.platform.catch_up import catch_up
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.mlflow_mirror.numbers_sent import PER_LAYER
from moescope.platform.mlflow_sink import MlflowSink
from moescope.platform.records import (
    Alert,
    Checkpoint,
    Frame,
    Incident,
    Run,
    Segment,
    Study,
    Trial,
)
from moescope.platform.settings import Settings
from moescope.platform.sinks import FanOut
from moescope.platform.store import open_store
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.recipes.stream import tiny
from moescope.trainer.run import train

pytestmark = pytest.mark.story

NUM_STEPS = 40
PASSWORD = "a long password of the tests"


@pytest.fixture(scope="module")
def server(make_server: Callable[..., Any]) -> Any:
    return make_server()


@pytest.fixture(scope="module")
def guarded(make_server: Callable[..., Any]) -> Any:
    return make_server("--app-name", "basic-auth")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password is checked by some hundred thousand hashes at each request."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@contextmanager
def only_errors(port: int) -> Iterator[None]:
    """Whatever is asked on this port, the answer is 500."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(500)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"oops")

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        yield
        broken.shutdown()


def wait_until(is_true: Callable[[], bool], most_s: float = 30.0) -> None:
    until_s = time.monotonic() + most_s
    while not is_true():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.02)


def runs_of(url: str, project: str) -> dict[tuple[str, str], Any]:
    """{(run, segment): MLflow's run}, of which there is one each"""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name(project)
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    keys = [
        (run.data.tags.get("moescope.run_id", ""), run.data.tags.get("moescope.segment", ""))
        for run in found
    ]
    assert max(Counter(keys).values()) == 1
    return dict(zip(keys, found, strict=True))


def text_of(url: str, run: Any, name: str, folder: Path) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url)
    folder.mkdir(exist_ok=True)
    return Path(client.download_artifacts(run.info.run_id, name, str(folder))).read_text()


def test_mlflow_hangs_dies_and_fails_and_then_has_everything(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    run = Run("r", "tiny", "outages", {"steps": 160}, "running", "cpu", "0.1", 1.0, 1.0)
    sink = MlflowSink(server.url, run, "http://here", status=lambda: "finished")
    fan_out = FanOut(tmp_path / "journal", [sink])
    taken_s: list[float] = []

    def record(first: int, segment: int = 0) -> None:
        for step in range(first, first + NUM_STEPS):
            loss = np.nan if step == first + 7 else step
            values = {
                LOSS_TOTAL: np.full((), loss, np.float32),
                EXPERT_LOAD: np.full((6, 48), step, np.float32),
            }
            made = Frame(run.id, segment, step, 100.0 + step, values)
            start_s = time.perf_counter()
            fan_out.record(made)
            taken_s.append(time.perf_counter() - start_s)
            time.sleep(0.003)

    def state() -> str:
        return fan_out.status().sinks[0].state

    fan_out.say(Segment(run.id, 0, 0, "start", 1.0))
    record(0)
    assert fan_out.flush(30)

    server.signal(signal.SIGSTOP)
    record(NUM_STEPS)
    wait_until(lambda: state() in ("hangs", "fails"))
    # what it was asked before we gave up is done now, and comes again
    server.signal(signal.SIGCONT)
    assert fan_out.flush(30)

    server.signal(signal.SIGKILL)
    server.stop()
    record(2 * NUM_STEPS)
    wait_until(lambda: state() == "fails")
    with only_errors(server.port):
        fan_out.say(Segment(run.id, 1, 3 * NUM_STEPS, "rollback", 2.0, 0, 3 * NUM_STEPS - 1))
        key = f"{run.id}/spike/100"
        fan_out.say(Alert(key, run.id, 0, "spike", "critical", 99, 100, 5.0, 4.0, "up", 1.0, key))
        fan_out.say(Incident(key, run.id, 2.0, "data", True, {"verdict": {"words": "the data"}}))
        fan_out.say(Checkpoint(run.id, 0, 80, "checkpoints/80", 80, 100, 1.0, "certified"))
        record(3 * NUM_STEPS, segment=1)
        wait_until(lambda: "500" in fan_out.status().sinks[0].last_error)
    assert "\n" not in fan_out.status().sinks[0].last_error
    server.start()
    assert fan_out.flush(60)
    fan_out.close()
    status = fan_out.status()
    assert (status.coalesced, status.lost, status.sinks[0].num_refused) == (0, 0, 0)
    # 20 us on a quiet core; the bound is for a shared one
    assert statistics.median(taken_s) < 300e-6

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server.url)
    found = runs_of(server.url, "outages")
    assert sorted(found) == [("r", "0"), ("r", "1"), ("r", "all")]
    whole = found["r", "all"]
    for segment, steps in ((0, range(3 * NUM_STEPS)), (1, range(3 * NUM_STEPS, 4 * NUM_STEPS))):
        one = found["r", str(segment)]
        sent = client.get_metric_history(one.info.run_id, LOSS_TOTAL)
        assert sorted(metric.step for metric in sent) == [s for s in steps if s % NUM_STEPS != 7]
        assert all(metric.value == metric.step for metric in sent)
        assert one.data.tags["mlflow.parentRunId"] == whole.info.run_id
        assert one.info.status == "FINISHED"
    bad = "moescope.non_finite.loss/total"
    said = "first at step 7, last at step 87, in 3 steps: nan"
    assert found["r", "0"].data.tags[bad] == said
    assert found["r", "0"].data.tags["alert.spike.100"] == "critical from step 99: up"
    rows = json.loads(text_of(server.url, whole, "checkpoints.json", tmp_path / "a"))
    assert [(row["step"], row["health"]) for row in rows] == [(80, "certified")]
    page = text_of(server.url, whole, "incidents/spike-100.md", tmp_path / "b")
    assert page.startswith("# spike: up\n")
    for segment, last in ((0, 119), (1, 159)):
        name = f"expert_load/segment_{segment}.csv"
        table = text_of(server.url, whole, name, tmp_path / f"c{segment}")
        assert table.splitlines()[6].startswith(f"{last},5,{last},")


def test_two_processes_at_once_make_no_run_twice_in_a_server(
    server: Any, tmp_path: Path, mirror_at_once: Callable[..., None]
) -> None:
    names = [f"run-{i}" for i in range(4)]
    mirror_at_once(server.url, "widths", names, [tmp_path / "one", tmp_path / "other"])
    found = runs_of(server.url, "widths")
    assert sorted(found) == [("", ""), *sorted((n, s) for n in names for s in ("0", "all"))]
    study_id = found["", ""].info.run_id
    for name in names:
        assert found[name, "all"].data.tags["mlflow.parentRunId"] == study_id


def test_a_training_with_the_wrong_password_goes_on_and_the_right_one_brings_it_in(
    guarded: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a wrong one")
    make_clips(tmp_path / "clips", 8)
    changes = {"steps": 6, "project": "widths", "checkpoint.disk_every_steps": 3}
    config = changed(tiny(), {**changes, "data.folder": str(tmp_path / "clips"), "data.batch": 2})
    settings = Settings(home=tmp_path / "home", mlflow=guarded.url)
    settings.make_home()
    with open_store(settings.store_url) as store:
        wanted = Trial("widths", "key", 0, "width=64", {}, config.model_dump(mode="json"), {})
        trials.ask(store, Study("widths", {}, "running", 1.0), [wanted])
        assert trials.claim(store, "widths", "worker", "r", time.time(), 600.0) is not None
        result = train(config, settings=settings, run_id="r", progress=False)
        assert (result.status, result.step) == ("finished", 6)
        (told,) = [line.getMessage() for line in caplog.records if "sink mlflow" in line.message]
        assert told == (
            f"sink mlflow fails: MoescopeError: MLflow at {guarded.url} refuses this user and "
            "password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )

        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        run, trial = store.find_run("r"), trials.trial_of_run(store, "r")
        made = [MlflowSink(guarded.url, run, trial=trial)]
        assert catch_up(result.folder / "journal", lambda name: made[0], timeout_s=60.0)
    found = runs_of(guarded.url, "widths")
    whole, segment = found["r", "all"], found["r", "0"]
    assert (whole.info.status, segment.info.status) == ("FINISHED", "FINISHED")
    assert whole.data.tags["mlflow.parentRunId"] == found["", ""].info.run_id
    assert segment.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert whole.info.start_time == int(run.created_s * 1000)
    assert run.finished_s is not None
    assert whole.info.end_time == int(run.finished_s * 1000)
    names = set(segment.data.metrics)
    assert {LOSS_TOTAL, LOSS_SPIKE_SCORE, GRAD_NORM, TOKENS_PER_S} <= names
    for signal_name in PER_LAYER:
        assert f"{signal_name}/layer_00" in names
    assert "system/cpu_share" in names
    assert not [name for name in names if "expert" in name.rpartition("/layer_")[2]]
    assert json.loads(text_of(guarded.url, whole, "config.json", tmp_path / "a"))["steps"] == 6
    rows = json.loads(text_of(guarded.url, whole, "checkpoints.json", tmp_path / "b"))
    assert [row["step"] for row in rows if row["is_on_disk"]][-1] == 6
    table = text_of(guarded.url, whole, "expert_load/segment_0.csv", tmp_path / "c")
    assert table.splitlines()[0].startswith("step,layer,expert_0,")


def test_a_user_who_may_only_read_is_told_so(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    run = Run("r", "tiny", "theirs", {}, "running", "cpu", "0.1", 1.0, 1.0)
    MlflowSink(guarded.url, run).write([Segment("r", 0, 0, "start", 1.0)])
    reader = {"username": "reader", "password": "another long password"}
    made = requests.post(
        f"{guarded.url}/api/2.0/mlflow/users/create",
        json=reader,
        auth=("admin", PASSWORD),
        timeout=30,
    )
    assert made.status_code == 200, made.text
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", reader["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", reader["password"])
    other = Run("r2", "tiny", "theirs", {}, "running", "cpu", "0.1", 1.0, 1.0)
    with pytest.raises(MoescopeError, match="ask its owner for the permission EDIT") as refused:
        MlflowSink(guarded.url, other).write([Segment("r2", 0, 0, "start", 1.0)])
    assert "\n" not in str(refused.value)
