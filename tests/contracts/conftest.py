"""What the contract suites share."""

from pathlib import Path

import pytest

from moescope.platform.mlflow_sink import MlflowSink
from moescope.platform.records import Run


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database to copy, made once: its migrations take about ten seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    run = Run("r0", "none", "p", {}, "running", "cpu", "0", 1.0, 1.0)
    MlflowSink(f"sqlite:///{path}", run).prepare()
    return path
