"""The account of an incident that was made later, by a replay: it takes the place of the first."""

import logging
from pathlib import Path

from ..announcement import mlflow_address
from ..mlflow_door import be_impatient
from ..records import Alert, Incident, Run
from ..settings import Settings
from ..terminal import one_line
from .files import RunFiles
from .pages import incident_files

_MOST_WORDS = 200


def send_account(settings: Settings, run: Run, alert: Alert, incident: Incident) -> str:
    """Gives it to the MLflow run of a run that is mirrored there, and to no other. Returns why that
    could not be done, as one line; empty where it was, or need not be. Never raises: the store has
    the account whatever MLflow does."""
    if settings.mlflow == "off":
        return ""
    url = mlflow_address(settings)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        return ""
    try:
        _send(url, run, alert, incident)
    except Exception as error:  # whatever MLflow, its server or its disk came to
        return f"MLflow did not take the account: {one_line(error)[:_MOST_WORDS]}"
    return ""


def _send(url: str, run: Run, alert: Alert, incident: Incident) -> None:
    be_impatient()
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name(run.project)
    if experiment is None:
        return
    wanted = f"tags.`moescope.run_id` = '{run.id}' and tags.`moescope.segment` = 'all'"
    files = RunFiles(url)
    for known in client.search_runs([experiment.experiment_id], wanted):
        files.belong_to(client, str(known.info.run_id))
        for name, text in incident_files(incident, alert).items():
            files.put(name, text)
        files.send()
