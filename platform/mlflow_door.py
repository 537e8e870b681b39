"""How MLflow is asked: not for long, and from a database that is made elsewhere; and what it means
when it lets nobody in.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .engines import masked
from .errors import MoescopeError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

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
    # and draw bars for files of some kilobytes
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


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


def refusal(error: "MlflowException", tracking_url: str) -> MoescopeError | None:
    """An error that says so where MLflow does not let this user in; None where it is another."""
    where = masked(tracking_url)
    if error.error_code == "UNAUTHENTICATED":
        return MoescopeError(
            f"MLflow at {where} refuses this user and password: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    if error.error_code == "PERMISSION_DENIED":
        return MoescopeError(
            f"MLflow at {where} does not let this user write to the experiment: ask its owner for "
            "the permission EDIT, or choose another project"
        )
    return None
