"""A report's files as artifacts of the study's MLflow run, in which its trials are nested."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ...platform.announcement import mlflow_address
from ...platform.mlflow_door import be_impatient, experiment_of, make_database
from ...platform.mlflow_mirror.study_run import study_run
from ...platform.settings import Settings
from ...platform.terminal import one_line

_MOST_WORDS = 200


def log_report(settings: Settings, study: str, headline: str, files: Sequence[Path]) -> str:
    """Logs the files to the MLflow run, in the experiment of its trials; a later report
    takes the place of the one before. Returns why it could not be done, as one line; empty where it
    was. Never raises: the report lies in its folder whatever MLflow does."""
    if settings.mlflow == "off":
        return "MLflow is off: the report is in its folder alone"
    try:
        return _log(mlflow_address(settings), study, headline, files)
    except Exception as error:  # whatever MLflow, its server or its disk came to
        return f"MLflow did not take the report: {one_line(error)[:_MOST_WORDS]}"


def _log(url: str, study: str, headline: str, files: Sequence[Path]) -> str:
    be_impatient()
    make_database(url)
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=url)
    experiment_id = experiment_of(client, study, url)
    run_id = study_run(client, experiment_id, study, url)
    place = str(client.get_run(run_id).info.artifact_uri)
    if place.startswith("mlflow-artifacts:") and url.startswith("sqlite:"):
        return "MLflow's server takes files, and is not up: the report is in its folder alone"
    client.set_tag(run_id, "mlflow.note.content", headline)
    for file in files:
        client.log_artifact(run_id, str(file))
    client.set_terminated(run_id)
    return ""
