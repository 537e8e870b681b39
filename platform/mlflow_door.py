"""How MLflow is asked: not for long, from a database that is made elsewhere, by names and tags that
are found again.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "mlartifacts"
"""Folder of clips and pictures, beside MLflow's database."""
_MAKE_DATABASE = """
import sys, warnings
warnings.simplefilter("ignore")
from mlflow import MlflowClient
MlflowClient(tracking_uri=sys.argv[1]).search_experiments(max_results=1)
"""


def be_impatient() -> None:
    """Shortens MLflow's patience: by default a request to a server that hangs takes up to 16
    minutes.

    The journal keeps what could not be sent, and the sink's thread tries again. What a person has
    set stays.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # it would print addresses onto standard output, which may be somebody's JSON
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def make_database(tracking_url: str) -> None:
    """Makes a database file that is not there in a process of its own.

    MLflow's migrations are ten seconds of Python, which in a thread would share the interpreter
    with the training.
    """
    if not tracking_url.startswith("sqlite:///"):
        return
    path = Path(tracking_url.removeprefix("sqlite:///"))
    if path.exists():
        return
    # in one piece: a process that dies half way leaves no half-made file behind
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        subprocess.run(
            ["nice", sys.executable, "-c", _MAKE_DATABASE, f"sqlite:///{new}"],
            check=True,
            capture_output=True,
            timeout=300,
        )
        if not path.exists():
            new.rename(path)
    finally:
        new.unlink(missing_ok=True)


def experiment_of(client: "MlflowClient", project: str, tracking_url: str) -> str:
    """Returns the id of a project's experiment, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(project)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(project, _artifact_location(tracking_url)))
    except MlflowException:
        # another run of the project made it in between
        found = client.get_experiment_by_name(project)
        if found is None:
            raise
        return str(found.experiment_id)


def _artifact_location(tracking_url: str) -> str | None:
    """Returns where an experiment's files go: a server knows; beside the database of one that is
    not up it is the folder that it will look in, and not the folder one happens to be in."""
    if not tracking_url.startswith("sqlite:///"):
        return None
    return str(Path(tracking_url.removeprefix("sqlite:///")).absolute().parent / ARTIFACTS)


def find_or_create(
    client: "MlflowClient", experiment_id: str, tags: Mapping[str, str], name: str
) -> str:
    """Returns the id of the run that has our tags; one that is made has them from the start."""
    wanted = " and ".join(
        f"tags.`{key}` = '{value}'" for key, value in tags.items() if key.startswith("moescope.")
    )
    found = client.search_runs([experiment_id], wanted, max_results=1)
    if found:
        return str(found[0].info.run_id)
    return str(client.create_run(experiment_id, tags=dict(tags), run_name=name).info.run_id)
