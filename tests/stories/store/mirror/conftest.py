"""Real MLflow servers for whole journeys."""

import os
import shutil
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moescope.platform.children import Child
from moescope.platform.mlflow_door import ARTIFACTS, make_database


class Server:
    """An MLflow server on loopback that can be killed, made to hang, and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [
            *(sys.executable, "-W", "ignore", "-m", "mlflow", "server", *options),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(folder / ARTIFACTS)),
        ]
        # it would hash the password some hundred thousand times at each request
        config = folder / "auth.ini"
        config.write_text(
            "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
            f"database_uri = sqlite:///{folder / 'auth.db'}\n"
            "grant_default_workspace_access = false\nauth_cache_ttl_seconds = 600\n"
        )
        environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of the tests",
            "MLFLOW_AUTH_ADMIN_PASSWORD": "a long password of the tests",
            # those of a test are of the client alone
            "MLFLOW_TRACKING_USERNAME": "",
            "MLFLOW_TRACKING_PASSWORD": "",
        }
        self._child = Child("MLflow", command, environment, folder / "logs" / "mlflow.log")

    def start(self) -> None:
        self._child.start()
        until_s = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                assert self._child.exit_code is None, self._child.log.read_text()[-2000:]
                assert time.monotonic() < until_s, self._child.log.read_text()[-2000:]
                time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """To the server and its workers."""
        known = self._child.identity()
        assert known is not None
        os.killpg(known[0], number)

    def stop(self) -> None:
        self._child.stop()


@pytest.fixture(scope="module")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database to copy: its migrations take about ten seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    make_database(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def make_server(
    empty_mlflow: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Starts a server with these options; it is stopped at the end of the module."""
    made: list[Server] = []

    def make(*options: str) -> Server:
        folder = tmp_path_factory.mktemp("server")
        shutil.copy(empty_mlflow, folder / "mlflow.db")
        server = Server(folder, *options)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.stop()
