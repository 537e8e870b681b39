"""`moescope up` in real processes: one per store, its children live and end with it."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex

import psutil
import psycopg
import pytest
from sqlalchemy import make_url

from moescope.platform import leases
from moescope.platform.announcement import announced, living_service, mlflow_address
from moescope.platform.errors import MoescopeError
from moescope.platform.service import LEASE, TAKE_OVER_S, ServiceAddresses, serve
from moescope.platform.service_children import mlflow_host_of, mlflow_server
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store

# apprise 2.2 looks for imghdr, which Python 3.13 no longer has; goes when apprise stops looking
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

SERVICE = """
    import signal, sys, threading
    from pathlib import Path
    from moescope.platform.errors import MoescopeError
    from moescope.platform.service import serve
    from moescope.platform.settings import Settings

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = Settings(home=Path(sys.argv[1]), mlflow=sys.argv[4], store=sys.argv[5])
    try:
        serve(settings, settings.store_url, port=int(sys.argv[2]), mlflow_port=int(sys.argv[3]),
              ready=lambda a: print(a.dashboard_url, a.mlflow_url, flush=True), stop=stop)
    except MoescopeError as error:
        print(error, flush=True)
        sys.exit(2)
"""
# tests that are not about MLflow's server do not wait for one
ELSEWHERE = "http://127.0.0.1:9"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Service:
    """A service in a process of its own."""

    def __init__(self, home: Path, mlflow: str = ELSEWHERE, store: str = "") -> None:
        self.home = home
        self.port, self.mlflow_port = free_port(), free_port()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", textwrap.dedent(SERVICE), str(home)),
                *(str(self.port), str(self.mlflow_port), mlflow, store),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._orphans: list[psutil.Process] = []

    def first_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def kill(self) -> None:
        """Kills it and leaves its children, which are there until `end`."""
        self._orphans = self.children()
        self.process.kill()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        for orphan in self._orphans:
            orphan.kill()
        return code


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start_one(
        home: Path = tmp_path / "home", mlflow: str = ELSEWHERE, store: str = ""
    ) -> Service:
        started.append(Service(home, mlflow, store))
        return started[-1]

    yield start_one
    for service in started:
        service.end()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return answer.status, answer.read().decode()
    except (urllib.error.URLError, OSError) as error:
        return 0, str(error)


def wait_until(is_true: Callable[[], bool], most_s: float = 30.0) -> None:
    until_s = time.monotonic() + most_s
    while not is_true():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.05)


def test_it_serves_announces_itself_and_ends_what_it_started(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    service = start(mlflow="")
    dashboard_url, mlflow_url = service.first_line().split()
    token = (service.home / "token").read_text().strip()
    assert dashboard_url == f"http://127.0.0.1:{service.port}/?token={token}"
    assert get(dashboard_url)[0] == 200
    found = announced(service.home)
    assert found is not None
    assert found.pid == service.process.pid
    assert token not in (service.home / "service.json").read_text()
    assert (service.home / "service.json").stat().st_mode & 0o077 == 0
    assert mlflow_address(Settings(home=service.home)) == mlflow_url
    assert f"127.0.0.1:{service.mlflow_port}" in mlflow_url
    wait_until(lambda: get(f"{mlflow_url}/health") == (200, "OK"), 60)
    assert (service.home / "mlflow.db").exists()
    listening = {
        connection.laddr.ip
        for child in service.children()
        for connection in child.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    children = service.children()
    assert len(children) >= 2
    assert service.end() == 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert not (service.home / "service.json").exists()
    assert living_service(service.home) is None


def test_a_second_service_of_a_home_says_so_in_one_line_and_starts_nothing(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    first = start()
    first.first_line()
    second = start()
    line = second.first_line()
    assert second.process.wait(30) == 2
    assert line.startswith("a service already serves from home")
    assert f"http://127.0.0.1:{first.port}" in line
    assert get(f"http://127.0.0.1:{first.port}/_stcore/health") == (200, "ok")


def test_of_two_services_on_a_store_one_leads_and_the_other_takes_over_within_10_s(
    start: Callable[..., Service], tmp_path: Path, store_url: str
) -> None:
    first = start(tmp_path / "a", store=store_url)
    first.first_line()
    second = start(tmp_path / "b", store=store_url)
    second.first_line()

    def leader(store: Store) -> int:
        holder = leases.holder(store, LEASE, time.time())
        return 0 if holder is None else int(holder.split(":")[1])

    with open_store(store_url) as store:
        assert leader(store) == first.process.pid
        assert get(f"http://127.0.0.1:{second.port}/_stcore/health") == (200, "ok")
        first.kill()
        died_s = time.monotonic()
        wait_until(lambda: leader(store) == second.process.pid, TAKE_OVER_S)
        assert time.monotonic() - died_s < TAKE_OVER_S
        # and it gives the lead away when it ends
        assert second.end() == 0
        assert leader(store) == 0


def test_after_kill_9_the_next_one_ends_the_orphans(
    start: Callable[..., Service],
) -> None:
    first = start()
    first.first_line()
    orphans = first.children()
    assert orphans
    first.end(signal.SIGKILL)
    assert all(orphan.is_running() for orphan in orphans)
    second = start()
    assert second.first_line().startswith(f"http://127.0.0.1:{second.port}")
    _, alive = psutil.wait_procs(orphans, timeout=10)
    assert alive == []


def test_a_dashboard_that_dies_is_started_again(start: Callable[..., Service]) -> None:
    service = start()
    service.first_line()
    before = announced(service.home)
    assert before is not None
    ((pid, _),) = before.children
    os.kill(pid, signal.SIGKILL)
    health = f"http://127.0.0.1:{service.port}/_stcore/health"
    wait_until(lambda: (found := announced(service.home)) is not None and found != before)
    wait_until(lambda: get(health) == (200, "ok"))


def test_it_tells_an_address_for_operators_and_one_for_viewers(tmp_path: Path) -> None:
    addresses = serve_until_ready(Settings(home=tmp_path, mlflow="off"), port := free_port())
    token, viewer_token = (
        (tmp_path / name).read_text().strip() for name in ("token", "viewer-token")
    )
    assert addresses.dashboard_url == f"http://127.0.0.1:{port}/?token={token}"
    assert addresses.viewer_url == f"http://127.0.0.1:{port}/?token={viewer_token}"
    assert token != viewer_token
    settings = Settings(home=tmp_path, mlflow="off", dashboard_url="https://moescope.example/")
    assert serve_until_ready(settings, free_port()).viewer_url == (
        f"https://moescope.example/?token={viewer_token}"
    )


def test_mlflow_is_reached_from_elsewhere_only_with_a_sign_in_of_its_own(tmp_path: Path) -> None:
    auth = tmp_path / "auth.ini"
    for host, has_auth, listens_on in (
        ("127.0.0.1", False, "127.0.0.1"),
        ("127.0.0.2", False, "127.0.0.2"),
        ("localhost", False, "localhost"),
        ("::1", False, "::1"),
        ("0.0.0.0", False, "127.0.0.1"),
        ("10.0.0.7", False, "127.0.0.1"),
        ("node1", False, "127.0.0.1"),
        ("::", False, "127.0.0.1"),
        ("0.0.0.0", True, "0.0.0.0"),
    ):
        settings = Settings(home=tmp_path, host=host, mlflow_auth=auth if has_auth else None)
        assert mlflow_host_of(settings) == listens_on
    with pytest.raises(MoescopeError, match=r"MLflow's sign-in .*auth\.ini is not there"):
        mlflow_server("0.0.0.0", tmp_path, 5501, auth)


def test_a_dashboard_for_others_keeps_mlflow_to_this_machine_and_says_so(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, host="0.0.0.0")
    listening: dict[str, set[str]] = {}

    def look(addresses: ServiceAddresses) -> None:
        assert addresses.is_mlflow_kept_here
        assert addresses.mlflow_url.startswith("http://127.0.0.1:")
        port = int(addresses.mlflow_url.rpartition(":")[2])
        wait_until(lambda: get(f"{addresses.mlflow_url}/health")[0] == 200, 60)
        listening["mlflow"] = {
            connection.laddr.ip
            for child in psutil.Process().children(recursive=True)
            for connection in child.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        }

    serve_until_ready(settings, free_port(), look)
    assert listening["mlflow"] == {"127.0.0.1"}


@pytest.mark.story
def test_with_a_sign_in_mlflow_asks_who_it_is(tmp_path: Path) -> None:
    auth = tmp_path / "auth.ini"
    auth.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        "admin_username = admin\nadmin_password = a long password of the tests\n"
    )
    settings = Settings(home=tmp_path, host="0.0.0.0", mlflow_auth=auth)

    def look(addresses: ServiceAddresses) -> None:
        assert not addresses.is_mlflow_kept_here
        own = f"http://127.0.0.1:{addresses.mlflow_url.rpartition(':')[2]}"
        wait_until(lambda: get(f"{own}/health")[0] == 200, 90)
        found = get(f"{own}/api/2.0/mlflow/experiments/search?max_results=1")
        assert "401" in found[1]

    serve_until_ready(settings, free_port(), look)


@pytest.mark.postgres
def test_the_dashboard_gets_the_rights_of_its_own_role_and_no_other_address(
    tmp_path: Path, postgres_server: str, postgres_url: str
) -> None:
    role = f"dash_{token_hex(4)}"
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"CREATE ROLE {role} LOGIN")  # type: ignore[arg-type]
        own = make_url(postgres_url).set(username=role).render_as_string()
        settings = Settings(home=tmp_path, mlflow="off", store=postgres_url, dashboard_store=own)
        seen: dict[str, str] = {}

        def look(_: ServiceAddresses) -> None:
            (dashboard,) = psutil.Process().children()
            seen.update(dashboard.environ())

        try:
            serve_until_ready(settings, free_port(), look)
            assert (seen["MOESCOPE_STORE"], seen["MOESCOPE_DASHBOARD_STORE"]) == (own, "")
            with open_store(own, may_make=False) as store:
                assert store.runs() == []
        finally:
            server.execute(f"DROP OWNED BY {role}")  # type: ignore[arg-type]
            server.execute(f"DROP ROLE {role}")  # type: ignore[arg-type]


def test_a_port_in_use_is_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow=ELSEWHERE)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(MoescopeError, match="choose another with --port") as caught,
    ):
        serve_until_ready(settings, taken.getsockname()[1])
    assert "\n" not in str(caught.value)
    assert announced(tmp_path) is None
    store = open_store(settings.store_url)
    assert leases.holder(store, LEASE, time.time()) is None
    store.close()


def test_a_dashboard_that_cannot_start_is_one_line_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(MoescopeError, match=r"dashboard did not start.*dashboard\.log"):
        serve_until_ready(Settings(home=tmp_path, mlflow=ELSEWHERE), free_port())


def test_an_address_to_notify_that_cannot_be_read_stops_it_before_it_serves(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path, mlflow=ELSEWHERE, notify="nosuch://x")
    with pytest.raises(MoescopeError, match="notify address"):
        serve_until_ready(settings, free_port())
    assert not (tmp_path / "logs").exists()


def test_an_announcement_of_a_dead_service_is_not_believed(tmp_path: Path) -> None:
    gone = {
        "dashboard_url": "http://d",
        "mlflow_url": "http://m",
        "pid": os.getpid(),
        "started_s": 1.0,
        "children": [],
    }
    (tmp_path / "service.json").write_text(json.dumps(gone))
    assert announced(tmp_path) is not None
    assert living_service(tmp_path) is None
    assert mlflow_address(Settings(home=tmp_path)).startswith("sqlite:///")
    (tmp_path / "service.json").write_text("{torn")
    assert announced(tmp_path) is None


def serve_until_ready(
    settings: Settings, port: int, look: Callable[[ServiceAddresses], None] | None = None
) -> ServiceAddresses:
    """Serves in this thread until the dashboard answers, and has somebody look then."""
    stop = threading.Event()
    found: list[ServiceAddresses] = []

    def ready(addresses: ServiceAddresses) -> None:
        found.append(addresses)
        stop.set()
        if look is not None:
            look(addresses)

    serve(settings, settings.store_url, port=port, mlflow_port=free_port(), ready=ready, stop=stop)
    return found[0]
