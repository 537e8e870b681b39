"""The files that MLflow has of a run, and the numbers that arrive where it keeps none."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moescope.platform.catalogue import EXPERT_LOAD, LOSS_TOTAL
from moescope.platform.mlflow_mirror.files import FilesNotTaken
from moescope.platform.mlflow_mirror.late_account import send_account
from moescope.platform.mlflow_sink import MlflowSink
from moescope.platform.records import (
    Alert,
    Checkpoint,
    Event,
    Frame,
    Health,
    Incident,
    Run,
    RunStatus,
    Segment,
)
from moescope.platform.settings import Settings

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
    if experiment is None:
        return {}
    wanted = f"tags.`moescope.run_id` = '{run.id}'"
    found = client.search_runs([experiment.experiment_id], wanted)
    return {known.data.tags["moescope.segment"]: known for known in found}


def history(url: str, run_id: str, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    metrics = MlflowClient(tracking_uri=url).get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in metrics)


def file_of(url: str, run: Run, name: str) -> str:
    place = str(seen(url, run)["all"].info.artifact_uri).removeprefix("file://")
    return (Path(place) / name).read_text()


def checkpoint(run: Run, segment: int, step: int, health: Health = "fresh") -> Checkpoint:
    return Checkpoint(run.id, segment, step, f"checkpoints/{step}", step, 100, 1.0, health)


def test_a_run_has_its_configuration_and_the_manifest_of_its_checkpoints(url: str) -> None:
    run = replace(a_run(), config={"model": {"width": 64}, "steps": 10})
    sink = MlflowSink(url, run)
    sink.write([Segment(run.id, 0, 0, "start", 1.0), checkpoint(run, 0, 4)])
    sink.write([checkpoint(run, 0, 8), checkpoint(run, 0, 4, "certified")])
    sink.close()
    # another process, as after a kill, knows of none of them
    sink = MlflowSink(url, run)
    sink.write([Segment(run.id, 1, 8, "resume", 2.0, 0, 7), checkpoint(run, 0, 8, "tainted")])
    sink.write([checkpoint(run, 1, 12)])
    sink.close()
    assert json.loads(file_of(url, run, "config.json")) == run.config
    rows = json.loads(file_of(url, run, "checkpoints.json"))
    assert [(row["segment"], row["step"], row["health"]) for row in rows] == [
        (0, 4, "certified"),
        (0, 8, "tainted"),
        (1, 12, "fresh"),
    ]
    assert rows[0]["path"] == "checkpoints/4"
    assert rows[0]["num_bytes"] == 100


def test_the_expert_loads_are_a_table_for_each_segment_written_rarely(url: str) -> None:
    run = a_run("finished")

    def loads(segment: int, step: int) -> Frame:
        table = np.full((2, 3), step, np.float32)
        return Frame(run.id, segment, step, 100.0 + step, {EXPERT_LOAD: table})

    sink = MlflowSink(url, run)
    sink.write([Segment(run.id, 0, 0, "start", 1.0), loads(0, 0)])
    name = "expert_load/segment_0.csv"
    first = "step,layer,expert_0,expert_1,expert_2\n0,0,0,0,0\n0,1,0,0,0\n"
    assert file_of(url, run, name) == first
    sink.write([loads(0, step) for step in range(1, 290)])
    assert file_of(url, run, name) == first  # less than five minutes later
    sink.write([loads(0, 310)])
    assert file_of(url, run, name).splitlines()[1] == "310,0,310,310,310"
    sink.write([loads(0, 320), Segment(run.id, 1, 300, "rollback", 2.0, 0, 299), loads(1, 300)])
    assert file_of(url, run, name).splitlines()[2] == "320,1,320,320,320"
    sink.write([loads(1, 301)])
    sink.close()
    assert file_of(url, run, "expert_load/segment_1.csv").splitlines()[1].startswith("301,0,")


def test_the_account_of_an_incident_is_a_file_to_read_and_one_for_programs(url: str) -> None:
    run = a_run()
    key = f"{run.id}/spike/7"
    alert = Alert(key, run.id, 0, "spike", "critical", 6, 7, 9.0, 4.0, "loss is up", 1.0, key)
    content = {
        "onset": {"step": 6, "batch": 3, "segment": 0},
        "alarm": {"step": 7, "segment": 0},
        "movers": [{"step": 6, "what": "router entropy of layer 3", "score": -8.25}],
        "clips": [{"name": "a-disc.mp4", "score": 11.0, "modality": "video"}],
        "verdict": {"words": "the data", "evidence": [{"speaks_for": "data", "text": "it heals"}]},
        "next": ["Look at the clips."],
        "notes": [],
    }
    sink = MlflowSink(url, run)
    sink.write([Segment(run.id, 0, 0, "start", 1.0), alert])
    sink.write([Incident(key, run.id, 2.0, "data", True, content)])
    sink.close()
    assert json.loads(file_of(url, run, "incidents/spike-7.json"))["content"] == content
    page = file_of(url, run, "incidents/spike-7.md")
    assert page.startswith("# spike: loss is up\n")
    for line in (
        "- onset: step 6 of segment 0",
        "the data",
        "- speaks for data: it heals",
        "- step 6: router entropy of layer 3, -8.2 spreads",
        "- a-disc.mp4, 11.0 spreads in video",
        "- Look at the clips.",
    ):
        assert line in page.splitlines()


def test_where_no_file_can_be_kept_numbers_arrive_all_the_same(url: str, tmp_path: Path) -> None:
    (tmp_path / "mlartifacts").write_text("a file where the folder should be")
    run = replace(a_run(), config={"steps": 10})
    sink = MlflowSink(url, run)
    records = [Segment(run.id, 0, 0, "start", 1.0), frame(run, 0, 0, loss__total=1.0)]
    for _ in range(2):
        with pytest.raises(FilesNotTaken):
            sink.write(records)
    sink.write(records)
    sink.write([frame(run, 0, 1, loss__total=2.0)])
    sink.close()
    assert history(url, seen(url, run)["0"].info.run_id, LOSS_TOTAL) == [(0, 1.0), (1, 2.0)]


def test_where_the_service_keeps_files_they_arrive_while_it_is_down(
    url: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    # as the service's server makes an experiment, with files beside its database
    MlflowClient(tracking_uri=url).create_experiment(a_run().project, "mlflow-artifacts:/7")
    (tmp_path / "mlartifacts").mkdir()
    run = replace(a_run(), config={"steps": 10})
    for step in (4, 8):
        sink = MlflowSink(url, run)
        sink.write([Segment(run.id, 0, 0, "start", 1.0), checkpoint(run, 0, step)])
        sink.close()
    whole = seen(url, run)["all"]
    assert whole.info.artifact_uri == f"mlflow-artifacts:/7/{whole.info.run_id}/artifacts"
    folder = tmp_path / "mlartifacts" / "7" / whole.info.run_id / "artifacts"
    assert json.loads((folder / "config.json").read_text()) == {"steps": 10}
    rows = json.loads((folder / "checkpoints.json").read_text())
    assert [row["step"] for row in rows] == [4, 8]


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


def test_a_replay_made_later_takes_the_place_of_the_first_account(url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow=url)
    run = a_run("finished")
    key = f"{run.id}-0-7-spike"
    alert = Alert(key, run.id, 0, "spike", "critical", 6, 7, 9.0, 4.0, "loss is up", 1.0, key)
    first = Incident(key, run.id, 2.0, "unexamined", False, {"verdict": {"words": "not yet"}})
    later = Incident(key, run.id, 3.0, "data", True, {"verdict": {"words": "the data"}})
    # of a run that MLflow has never heard of it hears nothing
    assert send_account(settings, run, alert, later) == ""
    assert seen(url, run) == {}
    sink = MlflowSink(url, run)
    sink.write([Segment(run.id, 0, 0, "start", 1.0), alert, first])
    sink.close()
    ended = seen(url, run)["all"].info
    assert "not yet" in file_of(url, run, "incidents/0-7-spike.md")
    assert send_account(settings, run, alert, later) == ""
    assert "the data" in file_of(url, run, "incidents/0-7-spike.md")
    assert json.loads(file_of(url, run, "incidents/0-7-spike.json"))["verdict"] == "data"
    after = seen(url, run)["all"].info
    assert (after.status, after.end_time) == (ended.status, ended.end_time)
    away = Settings(home=tmp_path, mlflow="http://127.0.0.1:9")
    said = send_account(away, run, alert, later)
    assert said.startswith("MLflow did not take the account: ")
    assert "\n" not in said
