"""What MLflow has of a run: how it ended, where its scalars ended, its files, its place among
others."""

import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from moescope.platform.catalogue import EXPERT_LOAD, GRAD_NORM, LOSS_SPIKE_SCORE, LOSS_TOTAL
from moescope.platform.mlflow_mirror.numbers_sent import NON_FINITE, PER_LAYER
from moescope.platform.mlflow_sink import STATUSES, MlflowSink
from moescope.platform.records import (
    Frame,
    Run,
    RunStatus,
    Segment,
    Trial,
)

# MLflow 3.17 maps a relation in a way that SQLAlchemy 2.1 has deprecated; goes when MLflow's pin
# moves on
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def url(tmp_path: Path, empty_mlflow: Path) -> str:
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def a_run(status: RunStatus = "running") -> Run:
    return Run(f"r-{status}", "tiny", "project", {}, status, "cpu", "0.1", 1.0, 1.0)


def frame(run: Run, segment: int, step: int, **values: float) -> Frame:
    arrays = {
        name.replace("__", "/"): np.full((), value, np.float32) for name, value in values.items()
    }
    return Frame(run.id, segment, step, 100.0 + step, arrays)


def seen(url: str, run: Run) -> dict[str, Any]:
    """{segment: MLflow's run}"""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name(run.project)
    assert experiment is not None
    wanted = f"tags.`moescope.run_id` = '{run.id}'"
    found = client.search_runs([experiment.experiment_id], wanted)
    return {known.data.tags["moescope.segment"]: known for known in found}


def history(url: str, run_id: str, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    metrics = MlflowClient(tracking_uri=url).get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in metrics)


def test_mlflow_says_of_a_run_how_it_ended(url: str) -> None:
    for status, expected in STATUSES.items():
        run = a_run(status)  # as the store knows it when its journal is caught up with
        sink = MlflowSink(url, run)
        sink.write([Segment(run.id, 0, 0, "start", 1.0)])
        sink.close()
        ends = {segment: known.info.status for segment, known in seen(url, run).items()}
        assert ends == {"0": expected, "all": expected}


def test_a_living_trainer_says_how_its_run_ended_when_the_sink_closes(url: str) -> None:
    said: RunStatus = "running"
    ends = []
    for said in ("running", "stopped", "finished"):
        sink = MlflowSink(url, a_run(), status=lambda said=said: said)  # type: ignore[misc]
        sink.write([Segment(a_run().id, 0, 0, "start", 1.0)])
        assert seen(url, a_run())["all"].info.status == "RUNNING"
        sink.close()
        ends.append(seen(url, a_run())["all"].info.status)
    # a process that ends while its run is running has crashed
    assert ends == ["FAILED", "KILLED", "FINISHED"]


def test_the_run_of_the_whole_shows_where_each_segment_ended(url: str) -> None:
    run = a_run("finished")
    first = [
        Segment(run.id, 0, 0, "start", 1.0),
        *(frame(run, 0, step, loss__total=9 - step, grad__norm=2.0) for step in range(5)),
        frame(run, 0, 5, loss__total=math.nan),
    ]
    second = [
        Segment(run.id, 1, 3, "rollback", 2.0, 0, 2),
        frame(run, 1, 3, loss__total=4.0, loss__spike_score=0.5),
    ]
    sink = MlflowSink(url, run)
    sink.write(first)
    assert seen(url, run)["all"].data.metrics == {}
    sink.write(second)
    whole = seen(url, run)["all"]
    assert whole.data.metrics == {LOSS_TOTAL: 5.0, GRAD_NORM: 2.0}
    sink.write([*first, *second])  # replayed
    sink.close()
    # the segment is MLflow's step: the newest is shown, though its own steps are earlier ones
    assert history(url, whole.info.run_id, LOSS_TOTAL) == [(0, 5.0), (1, 4.0)]
    shown = seen(url, run)["all"].data.metrics
    assert shown == {LOSS_TOTAL: 4.0, GRAD_NORM: 2.0, LOSS_SPIKE_SCORE: 0.5}


def test_each_layer_has_its_lines_and_no_expert_has_one(url: str) -> None:
    run = a_run()
    values = {name: np.arange(3, dtype=np.float32) for name in PER_LAYER}
    values[EXPERT_LOAD] = np.ones((3, 4), np.float32)
    sink = MlflowSink(url, run)
    sink.write([Segment(run.id, 0, 0, "start", 1.0), Frame(run.id, 0, 5, 100.0, values)])
    sink.close()
    assert seen(url, run)["0"].data.metrics == {
        f"{name}/layer_{layer:02d}": layer for name in PER_LAYER for layer in range(3)
    }


def test_a_nan_is_a_tag_and_a_gap(url: str) -> None:
    run = a_run()
    frames = [frame(run, 0, step, loss__total=step, grad__norm=1.0) for step in range(6)]
    frames[2] = frame(run, 0, 2, loss__total=math.nan, grad__norm=1.0)
    frames[4] = frame(run, 0, 4, loss__total=math.inf, grad__norm=math.nan)
    sink = MlflowSink(url, run)
    sink.write([Segment(run.id, 0, 0, "start", 1.0), *frames[:4]])
    sink.close()
    sink = MlflowSink(url, run)  # after a kill: some frames come again
    sink.write(frames[2:])
    sink.close()
    tags = seen(url, run)["0"].data.tags
    said = {key: text for key, text in tags.items() if key.startswith("moescope.non_finite.")}
    assert said == {
        "moescope.non_finite.loss/total": "first at step 2, last at step 4, in 2 steps: nan, inf",
        "moescope.non_finite.grad/norm": "first at step 4, last at step 4, in 1 step: nan",
    }
    run_id = seen(url, run)["0"].info.run_id
    assert history(url, run_id, LOSS_TOTAL) == [(0, 0.0), (1, 1.0), (3, 3.0), (5, 5.0)]
    assert history(url, run_id, NON_FINITE) == [(2, 1.0), (4, 2.0)]


def test_a_trial_is_nested_in_its_study_and_its_segments_in_it(url: str) -> None:
    runs = [replace(a_run(), id=f"t{i}", name=f"trial {i}", project="widths") for i in range(2)]
    for i, run in enumerate(runs):
        trial = Trial("widths", f"key-{i}", i, f"width={64 << i}", {}, {}, {}, run_id=run.id)
        sink = MlflowSink(url, run, trial=trial)
        sink.write([Segment(run.id, 0, 0, "start", 1.0)])
        sink.close()
    parents = set()
    for i, run in enumerate(runs):
        found = seen(url, run)
        assert found["0"].data.tags["mlflow.parentRunId"] == found["all"].info.run_id
        assert found["all"].data.tags["moescope.trial"] == f"width={64 << i}"
        parents.add(found["all"].data.tags["mlflow.parentRunId"])
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url)
    (parent,) = parents
    assert client.get_run(parent).data.tags["moescope.study"] == "widths"
    assert client.get_run(parent).info.run_name == "study widths"


def test_a_run_that_somebody_deletes_in_mlflow_is_made_anew_and_goes_on(url: str) -> None:
    from mlflow import MlflowClient

    run = a_run()
    sink = MlflowSink(url, run)
    sink.write([Segment(run.id, 0, 0, "start", 1.0), frame(run, 0, 0, loss__total=1.0)])
    client = MlflowClient(tracking_uri=url)
    for known in seen(url, run).values():
        client.delete_run(known.info.run_id)
    more = [frame(run, 0, 1, loss__total=2.0)]
    # no record is at fault: it comes again
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        sink.write(more)
    sink.write(more)
    sink.close()
    found = seen(url, run)
    assert sorted(found) == ["0", "all"]
    assert history(url, found["0"].info.run_id, LOSS_TOTAL) == [(1, 2.0)]


@pytest.mark.parametrize("num_locks", [1, 2], ids=["one-machine", "two-machines"])
def test_two_processes_at_once_make_no_run_twice(
    url: str, tmp_path: Path, mirror_at_once: Callable[..., None], num_locks: int
) -> None:
    from mlflow import MlflowClient

    names = [f"run-{i}" for i in range(4)]
    folders = [tmp_path / "lock-0", tmp_path / f"lock-{num_locks - 1}"]
    mirror_at_once(url, "widths", names, folders)
    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name("widths")
    assert experiment is not None
    found = [known.data.tags for known in client.search_runs([experiment.experiment_id])]
    made = Counter((tags.get("moescope.run_id"), tags.get("moescope.segment")) for tags in found)
    # of each run the whole and its segment, and one of the study that all are trials of
    assert made == {(None, None): 1} | {(n, s): 1 for n in names for s in ("all", "0")}
