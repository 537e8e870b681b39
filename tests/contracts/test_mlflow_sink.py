"""What a list of MLflow's runs shows of a run: how it ended, and where its scalars ended."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moescope.platform.catalogue import GRAD_NORM, LOSS_SPIKE_SCORE, LOSS_TOTAL
from moescope.platform.mlflow_sink import STATUSES, MlflowSink
from moescope.platform.records import Event, Frame, Run, RunStatus, Segment

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


def test_where_only_a_server_takes_files_and_none_is_up_the_numbers_arrive(
    url: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    # as a server makes an experiment, before a training without one
    MlflowClient(tracking_uri=url).create_experiment(a_run().project, "mlflow-artifacts:/7")
    clip = tmp_path / "step-000004" / "a-disc.mp4"
    clip.parent.mkdir()
    clip.write_bytes(b"a clip")
    run = a_run()
    sink = MlflowSink(url, run)
    sink.write(
        [
            Segment(run.id, 0, 0, "start", 1.0),
            Event(run.id, 0, 4, 1.0, "note", "a clip", {"samples": [str(clip)]}),
            frame(run, 0, 4, loss__total=0.5),
        ]
    )
    sink.close()
    assert history(url, seen(url, run)["0"].info.run_id, LOSS_TOTAL) == [(4, 0.5)]


def test_the_clips_that_an_event_tells_of_are_files_of_the_run(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    clip = tmp_path / "samples" / "step-000004" / "a-disc.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"a clip")
    details = {"samples": [str(clip), str(tmp_path / "gone.mp4")]}
    run = a_run()
    records = [
        Segment(run.id, 0, 0, "start", 1.0),
        Event(run.id, 0, 4, 1.0, "note", "2 clips", details),
        Event(run.id, 0, 5, 1.0, "note", "no clips", {}),
    ]
    for _ in range(2):
        # twice, as after a kill
        sink = MlflowSink(url, run)
        sink.write(records)
        sink.close()
    client = MlflowClient(tracking_uri=url)
    run_id = seen(url, run)["all"].info.run_id
    (file,) = client.list_artifacts(run_id, "samples/step-000004")
    assert file.path == "samples/step-000004/a-disc.mp4"
    found = Path(client.download_artifacts(run_id, file.path, str(elsewhere)))
    assert found.read_bytes() == b"a clip"
    # beside the database, and not where one happens to be
    assert (tmp_path / "mlartifacts").is_dir()
    assert not (elsewhere / "mlruns").exists()
