"""`moescope up --metrics-port` in a process of its own, asked over HTTP as Prometheus asks."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Frame, Run
from moescope.platform.service import serve
from moescope.platform.settings import Settings
from moescope.platform.store import open_store

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
ELSEWHERE = "http://127.0.0.1:9"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ask(url: str, token: str = "", accept: str = "") -> tuple[int, str, dict[str, str]]:
    headers = {"Accept": accept} if accept else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=10
        ) as got:
            return got.status, got.read().decode(), dict(got.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


class Service:
    def __init__(self, home: Path) -> None:
        self.home = home
        command = [sys.executable, "-m", "moescope.cli", "up", "--home", str(home)]
        self.process = subprocess.Popen(
            [*command, "--port", str(free_port()), "--metrics-port", "0"],
            env={**os.environ, "MOESCOPE_MLFLOW": ELSEWHERE},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().split(maxsplit=2) for _ in range(4)]
        self.said = {words[0]: words[1] for words in lines if len(words) > 1}

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    settings = Settings(home=tmp_path)
    settings.make_home()
    now_s = time.time()
    with open_store(settings.store_url) as store:
        store.add_run(Run("run-1", "swift", "clips", {}, "running", "cpu", "0", now_s, now_s))
        values = {catalogue.LOSS_TOTAL: np.float32(1.5)}
        store.write_frames([Frame("run-1", 0, 12, now_s, values)])
    started = Service(tmp_path)
    yield started
    started.end()


def test_prometheus_gets_its_page_as_long_as_the_service_runs(service: Service) -> None:
    """With the token only, over the loopback only; one test, as a service is slow to start."""
    assert_the_token_opens_the_page_and_nothing_else_does(service)
    assert_it_listens_on_the_loopback_and_ends_with(service)


def assert_the_token_opens_the_page_and_nothing_else_does(service: Service) -> None:
    url = service.said["metrics"]
    assert url.startswith("http://127.0.0.1:")
    token = (service.home / "token").read_text().strip()
    for wrong in ("", "nonsense", token[:-1], "ä"):
        code, body, headers = ask(url, wrong.encode().decode("latin-1"))
        assert code == 401
        assert "moescope_" not in body
        assert headers["WWW-Authenticate"].startswith("Bearer")
    # a page to read wants no more than the token to look
    assert ask(url, (service.home / "viewer-token").read_text().strip())[0] == 200
    # not by its address either, which ends up in logs
    assert ask(f"{url}?token={token}")[0] == 401
    assert ask(url.removesuffix("/metrics") + "/", token)[0] == 404
    readers: list[tuple[str, Callable[[str], object], str]] = [
        ("", plain_text, "text/plain"),
        (OPEN_METRICS, open_metrics, "application/openmetrics-text"),
    ]
    for accept, parse, kind in readers:
        code, body, headers = ask(url, token, accept)
        assert code == 200
        assert headers["Content-Type"].startswith(kind)
        families = {family.name: family for family in parse(body)}  # type: ignore[attr-defined]
        (sample,) = families["moescope_loss"].samples
        assert sample.value == 1.5
        assert sample.labels == {"run": "swift", "run_id": "run-1", "project": "clips"}
        (age,) = families["moescope_run_heartbeat_age_seconds"].samples
        assert 0 < age.value < 120


def assert_it_listens_on_the_loopback_and_ends_with(service: Service) -> None:
    port = int(service.said["metrics"].split(":")[2].split("/")[0])
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(service.process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    assert listening == {"127.0.0.1"}
    # a client that says nothing holds nobody up
    with socket.create_connection(("127.0.0.1", port)):
        token = (service.home / "token").read_text().strip()
        assert ask(service.said["metrics"], token)[0] == 200
        assert service.end() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow=ELSEWHERE)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(MoescopeError, match="choose another with --metrics-port") as caught,
    ):
        serve(
            settings,
            settings.store_url,
            port=0,
            mlflow_port=0,
            metrics_port=taken.getsockname()[1],
            ready=lambda addresses: None,
            stop=threading.Event(),
        )
    assert "\n" not in str(caught.value)
