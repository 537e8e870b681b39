"""One suite of promises for every sink: the store on SQLite and on PostgreSQL, and MLflow."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, make_url, text

from moescope.platform.catalogue import EXPERT_TOKENS, LOSS_TOTAL, PROBE_LOSS
from moescope.platform.mlflow_sink import MlflowSink
from moescope.platform.records import Alert, Checkpoint, Event, Frame, Run, Segment
from moescope.platform.series import read_series
from moescope.platform.sinks import FanOut, Record, Sink
from moescope.platform.sql_sink import SqlSink
from moescope.platform.store import Store, open_store

# MLflow 3.17 maps a relation in a way that SQLAlchemy 2.1 has deprecated; goes when MLflow's pin
# moves on
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

POSTGRES_URL = "postgresql://postgres@127.0.0.1:5432/test"
CONFIG = {"optim": {"learning_rate": 1e-3}, "steps": 600, "note": "x" * 7000}
RUN = Run("r1", "tiny-1", "project", CONFIG, "running", "cpu", "0.1", 1.0, 1.0, folder="folder")


@dataclass
class Place:
    """Somewhere a sink writes to, and how to look there without the sink."""

    make_sink: Callable[[], Sink]
    scalar: Callable[[str], Mapping[tuple[int, int], float]]
    """{(segment, step): value}"""
    num_alerts: Callable[[], int]
    num_runs: Callable[[], int]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres), "mlflow"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "mlflow":
        shutil.copy(request.getfixturevalue("empty_mlflow"), tmp_path / "mlflow.db")
        yield mlflow_place(f"sqlite:///{tmp_path / 'mlflow.db'}")
    elif request.param == "sqlite":
        store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
        yield sql_place(store)
        store.close()
    else:
        yield from postgres_place()


def sql_place(store: Store) -> Place:
    store.add_run(RUN)

    def scalar(name: str) -> dict[tuple[int, int], float]:
        series = read_series(store, RUN.id, name)
        keys = zip(series.segments.tolist(), series.steps.tolist(), strict=True)
        return dict(zip(keys, series.values.tolist(), strict=True))

    return Place(
        lambda: SqlSink(store.url),
        scalar,
        lambda: len(store.alerts(RUN.id)),
        lambda: len(store.runs()),
    )


def postgres_place() -> Iterator[Place]:
    url = make_url(os.environ.get("MOESCOPE_TEST_POSTGRES_URL", POSTGRES_URL))
    url = url.set(drivername="postgresql+psycopg")
    schema = f"sinks_{token_hex(4)}"
    engine = create_engine(url, connect_args={"connect_timeout": 3})
    try:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
    except Exception as error:
        pytest.skip(f"no PostgreSQL at {url.render_as_string()}: {error}")
    own = url.set(drivername="postgresql", query={"options": f"-csearch_path={schema}"})
    store = open_store(own.render_as_string(hide_password=False))
    try:
        yield sql_place(store)
    finally:
        store.close()
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        engine.dispose()


def mlflow_place(url: str) -> Place:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url)

    def runs() -> list[Any]:
        experiment = client.get_experiment_by_name(RUN.project)
        return list(client.search_runs([experiment.experiment_id])) if experiment else []

    def scalar(name: str) -> dict[tuple[int, int], float]:
        found: dict[tuple[int, int], float] = {}
        for run in runs():
            if run.data.tags["moescope.segment"] == "all":
                continue  # it shows the segments' last values
            for metric in client.get_metric_history(run.info.run_id, name):
                key = int(run.data.tags["moescope.segment"]), metric.step
                assert key not in found, f"{key} was stored twice"
                found[key] = metric.value
        return found

    def num_alerts() -> int:
        tags = [tag for run in runs() for tag in run.data.tags]
        return sum(tag.startswith("alert.") for tag in tags)

    def num_runs() -> int:
        return sum(run.data.tags["moescope.segment"] == "all" for run in runs())

    return Place(lambda: MlflowSink(url, RUN, "http://here"), scalar, num_alerts, num_runs)


def frame(step: int, loss: float, segment: int = 0) -> Frame:
    values = {
        LOSS_TOTAL: np.full((), loss, np.float32),
        EXPERT_TOKENS: np.full((2, 3), step, np.float32),
    }
    return Frame(RUN.id, segment, step, 100.0 + step, values)


def records() -> list[Record]:
    key = f"{RUN.id}/spike/2"
    return [
        Segment(RUN.id, 0, 0, "start", 1.0),
        frame(0, 1.0),
        frame(1, 0.5),
        Event(RUN.id, 0, 1, 101.0, "note", "words", {"a": 1}),
        Alert(key, RUN.id, 0, "spike", "critical", 1, 2, 5.0, 4.0, "up", 102.0, key),
        Checkpoint(RUN.id, 0, 2, "folder/2", 2, 100, 102.0),
        Segment(RUN.id, 1, 1, "rollback", 103.0, 0, 0, key, {"optim.eps": [1e-8, 1e-7]}),
        frame(1, 0.25, segment=1),
    ]


def test_records_arrive_with_their_segment_and_step(place: Place) -> None:
    sink = place.make_sink()
    sink.write(records())
    sink.close()
    assert place.scalar(LOSS_TOTAL) == {(0, 0): 1.0, (0, 1): 0.5, (1, 1): 0.25}
    assert place.num_alerts() == 1


def test_writing_the_same_records_twice_changes_nothing(place: Place) -> None:
    sink = place.make_sink()
    sink.write(records())
    sink.write(records())
    sink.close()
    assert place.scalar(LOSS_TOTAL) == {(0, 0): 1.0, (0, 1): 0.5, (1, 1): 0.25}
    assert place.num_alerts() == 1
    assert place.num_runs() == 1


def test_another_process_goes_on_in_the_same_run(place: Place) -> None:
    first = place.make_sink()
    first.write(records())
    first.close()
    second = place.make_sink()
    second.write([*records()[-2:], frame(2, 0.125, segment=1)])
    second.close()
    assert place.scalar(LOSS_TOTAL) == {(0, 0): 1.0, (0, 1): 0.5, (1, 1): 0.25, (1, 2): 0.125}
    assert place.num_runs() == 1


def test_values_that_are_not_finite_never_come_back_as_finite_ones(place: Place) -> None:
    sink = place.make_sink()
    sink.write([Segment(RUN.id, 0, 0, "start", 1.0)])
    sink.write([frame(step, value) for step, value in enumerate([1.0, math.inf, math.nan, 2.0])])
    sink.close()
    found = place.scalar(LOSS_TOTAL)
    assert {step: value for (_, step), value in found.items() if math.isfinite(value)} == {
        0: 1.0,
        3: 2.0,
    }


def test_a_sink_that_never_wrote_closes_well(place: Place) -> None:
    sink = place.make_sink()
    sink.close()
    assert place.num_alerts() == 0


def test_a_replayed_journal_leaves_the_place_as_it_was(place: Place, tmp_path: Path) -> None:
    for _ in range(2):
        fan_out = FanOut(tmp_path / "journal", [place.make_sink()])
        for record in records():
            if isinstance(record, Frame):
                fan_out.record(record)
            else:
                fan_out.say(record)
        assert fan_out.flush(30)
        # a crash between write and acknowledgement
        (tmp_path / "journal" / f"taken-by-{place.make_sink().name}.json").unlink()
        fan_out.close()
    assert place.scalar(LOSS_TOTAL) == {(0, 0): 1.0, (0, 1): 0.5, (1, 1): 0.25}
    assert place.num_alerts() == 1


def test_rare_signals_arrive_however_fast_the_steps_are(place: Place) -> None:
    sink = place.make_sink()
    sink.write([Segment(RUN.id, 0, 0, "start", 1.0)])
    values = {PROBE_LOSS: np.ones((), np.float32), LOSS_TOTAL: np.ones((), np.float32)}
    sink.write([Frame(RUN.id, 0, step, 100.0, values) for step in range(300)])
    sink.close()
    assert len(place.scalar(PROBE_LOSS)) == 300
    # two seconds of the share that loss and its like have of what MLflow is offered
    assert len(place.scalar(LOSS_TOTAL)) >= 70
