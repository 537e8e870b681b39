"""A watched run in MLflow: where MOESCOPE_MLFLOW says so, and else not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moescope.monitors.watching.acting import carry_out
from moescope.platform import catalogue
from moescope.platform.records import Action
from moescope.platform.settings import Settings

Make = Callable[..., Any]

# MLflow 3.17 maps a relation in a way that SQLAlchemy 2.1 has deprecated; goes when MLflow's pin
# moves on
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def test_the_scalars_of_a_watched_run_arrive_in_mlflow_a_run_for_each_segment(
    watched: Make, empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    url = f"sqlite:///{tmp_path / 'mlflow.db'}"
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.setenv("MOESCOPE_MLFLOW", url)
    loop = watched(name="mirrored", project="theirs")
    for _ in range(12):
        loop.step()
    carry_out(loop.run, Action("rollback", "forced", to_step=10), is_automatic=False)
    for _ in range(4):
        loop.step()
    loop.run.finish()
    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name("theirs")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_segment = {run.data.tags["moescope.segment"]: run for run in runs}
    assert set(by_segment) == {"0", "1", "all"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert by_segment["all"].info.run_name == "mirrored"
    wanted = {
        "0": dict(enumerate(loop.losses[:12])),
        "1": dict(enumerate(loop.losses[12:], start=10)),
    }
    for segment, losses in wanted.items():
        sent = client.get_metric_history(by_segment[segment].info.run_id, catalogue.LOSS_TOTAL)
        # MLflow is offered so many numbers a second and no more; what it has is right
        assert len(sent) > 0
        for metric in sent:
            assert metric.value == pytest.approx(losses[metric.step], rel=1e-6)
    norms = client.get_metric_history(by_segment["1"].info.run_id, catalogue.GRAD_NORM)
    assert len(norms) > 0


def test_a_watched_run_is_not_mirrored_where_nobody_asked_for_it(watched: Make) -> None:
    loop = watched()
    loop.step()
    loop.run.finish()
    assert not (Settings().home_path / "mlflow.db").exists()
    journal = Path(loop.run.folder) / "journal"
    assert not [path for path in journal.iterdir() if "mlflow" in path.name]
