"""What the contract suites share."""

import fcntl
import os
from pathlib import Path

import pytest

from moescope.platform.mlflow_sink import MlflowSink
from moescope.platform.records import Run


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database to copy, made once: its migrations take about ten seconds."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which all workers share
    path = folder / "mlflow.db"
    with (folder / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = Run("r0", "none", "p", {}, "running", "cpu", "0", 1.0, 1.0)
        MlflowSink(f"sqlite:///{path}", run).prepare()
    return path
