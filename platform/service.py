"""`moescope up`: the dashboard, MLflow, the watchman, the delivery of alerts, journals that were
left behind or have no turn of their own, a page for Prometheus, and what it is handed for studies.

A home has one service. Of the services of a store, in several homes or on several machines, one
leads, by the lease `service`; the others serve their dashboards and take over within
`TAKE_OVER_S` of its death. It trains nothing and no trainer needs it.
"""

import fcntl
import logging
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from typing import Protocol

from . import leases
from .announcement import Announcement, announce, announced, own_process
from .children import Child, end_orphans
from .dashboard_role import grant_dashboard, role_of
from .delivery import LEASE as DELIVERY_LEASE
from .errors import MoescopeError
from .prometheus.page import Page
from .prometheus.readings import Readings
from .prometheus.server import PATH as METRICS_PATH
from .prometheus.server import MetricsServer
from .scheduler import Ticker
from .service_children import dashboard_server, mlflow_host_of, mlflow_server, shown_host
from .service_ticks import ServiceTicks
from .settings import Settings
from .store import Store, open_store

LEASE = leases.SERVICE
LEASE_S = 7.0
BEAT_EVERY_S = 1.0
TAKE_OVER_S = 10.0
"""The lease of a dead leader runs out, the next beat of another claims it, and there is time to
spare for a busy machine."""
INGEST_EVERY_S = 0.5
_START_S = 60.0
_SCRAPE_PATIENCE_S = 3.0
"""Prometheus gives up after 10 s by itself."""

_log = logging.getLogger(__name__)


class LeaderTicks(Protocol):
    """What else the leader does; called by one thread at a time."""

    def tick(self) -> None:
        """Called every second while this service leads; may raise, and is called again. Two
        services may tick at once for a moment, as a leader that was asleep wakes up."""
        ...

    def stop(self) -> None:
        """Called once at the service's end, before it gives the lead away."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceAddresses:
    dashboard_url: str
    """With the operators' token: for the eyes of whoever started the service."""
    mlflow_url: str
    """Empty where MLflow is switched off."""
    metrics_url: str = ""
    """What Prometheus scrapes, without the token; empty where nothing is served to it."""
    viewer_url: str = ""
    """The dashboard with the viewers' token: for whoever may look and not act."""
    is_mlflow_kept_here: bool = False
    """Whether MLflow listens on the loopback alone, while the dashboard is reached from elsewhere.
    """


def serve(
    settings: Settings,
    open_store_url: str,
    *,
    port: int,
    mlflow_port: int,
    metrics_port: int | None = None,
    ready: Callable[[ServiceAddresses], None],
    stop: threading.Event,
    leader_ticks: Callable[[Store, str], LeaderTicks] | None = None,
) -> None:
    """Serves until `stop` is set, then stops what it started.

    open_store_url: address of the store. metrics_port: where Prometheus may scrape; None: nowhere,
    0: any. ready: called once, as soon as the dashboard answers;
    MLflow may take some seconds more. The caller sets `stop` on SIGTERM and Ctrl-C. leader_ticks:
    makes, of the open store and this service's name, what else it does while it leads. Raises
    MoescopeError if another service has this home, a port is in use, or the dashboard does not
    start.
    """
    home = settings.make_home()
    with ExitStack() as stack:
        stack.enter_context(_alone_in(home))
        store = open_store(open_store_url)
        stack.callback(store.close)
        if role := role_of(open_store_url, settings.dashboard_store):
            grant_dashboard(open_store_url, role)
        tokens = (settings.read_token(), settings.read_viewer_token())
        holder = f"{socket.gethostname()}:{os.getpid()}:{token_hex(3)}"
        stack.callback(_let_go, store, holder)
        before = announced(home)
        if before is not None:
            end_orphans(before.children)
        port = _usable(settings.host, port, "--port")
        children = [dashboard_server(settings, open_store_url, home, port)]
        mlflow_host = mlflow_host_of(settings)
        if not settings.mlflow:
            mlflow_port = _usable(mlflow_host, mlflow_port, "--mlflow-port")
            children.append(mlflow_server(mlflow_host, home, mlflow_port, settings.mlflow_auth))
        shown = shown_host(settings.host)
        metrics_url = ""
        if metrics_port is not None:
            metrics_port = _usable(settings.host, metrics_port, "--metrics-port")
            metrics_url = f"http://{shown}:{metrics_port}{METRICS_PATH}"
        dashboard_url = f"http://{shown}:{port}"
        mlflow_url = settings.mlflow or f"http://{shown_host(mlflow_host)}:{mlflow_port}"
        if settings.mlflow == "off":
            mlflow_url = ""
        # before anything is started: it reads the addresses to notify, which may be wrong
        ticks = ServiceTicks(settings, open_store_url, store, holder, dashboard_url, mlflow_url)
        more = leader_ticks(store, holder) if leader_ticks else None
        stack.callback(_stop_all, children)
        leads = threading.Event()
        if more is not None:
            stack.callback(more.stop)
        if metrics_port is not None:
            stack.enter_context(_served_metrics(settings, open_store_url, metrics_port, tokens))
        ticker = Ticker()
        stack.callback(ticks.let_go)
        stack.callback(ticker.stop)
        stack.callback(ticks.stop.set)
        _beat(store, holder, leads)
        # from the first moment: on a busy machine the dashboard may take longer than the lease
        ticker.add("leadership", BEAT_EVERY_S, lambda: _beat(store, holder, leads))
        ticker.start()
        for child in children:
            child.start()
        _wait_for_dashboard(children[0], settings.host, port, stop)
        _announce(home, dashboard_url, mlflow_url, children)
        stack.callback(_withdraw, home)
        ticker.add("children", 2.0, lambda: _mind(children, home, dashboard_url, mlflow_url))
        ticker.add("ingest", INGEST_EVERY_S, _while(leads, ticks.ingest))
        ticker.add("watchman", 5.0, _while(leads, ticks.watch))
        ticker.add("delivery", 2.0, _while(leads, ticks.deliver))
        if more is not None:
            ticker.add("studies", 1.0, _while(leads, more.tick))
        ticker.add("journals left behind", 10.0, ticks.catch_up)
        ticker.add("housekeeping", 10.0, _while(leads, ticks.keep_house))
        if not stop.is_set():
            reached = settings.dashboard_url.rstrip("/") or dashboard_url
            operators, viewers = (f"{reached}/?token={token}" for token in tokens)
            is_kept_here = not settings.mlflow and mlflow_host != settings.host
            ready(ServiceAddresses(operators, mlflow_url, metrics_url, viewers, is_kept_here))
        stop.wait()


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Raises MoescopeError where another service has this home. The lock ends with the process."""
    with (home / "service.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = announced(home)
            where = f" (process {other.pid}, dashboard at {other.dashboard_url})" if other else ""
            raise MoescopeError(
                f"a service already serves from home {home}{where}: use it, stop it first, or "
                "choose another home"
            ) from None
        yield


@contextmanager
def _served_metrics(
    settings: Settings, store_url: str, port: int, tokens: Sequence[str]
) -> Iterator[None]:
    # a scrape is over within seconds, so it waits less long for a busy store than others do
    store = open_store(store_url, patience_s=_SCRAPE_PATIENCE_S)
    page = Page(Readings(store, time.time), version("moescope"), time.time)
    try:
        server = MetricsServer(settings.host, port, page, tokens)
    except OSError as error:
        store.close()
        raise MoescopeError(
            f"port {port} of {settings.host} cannot be used ({error.strerror}): choose another "
            "with --metrics-port"
        ) from None
    server.start()
    try:
        yield
    finally:
        server.stop()
        store.close()


def _beat(store: Store, holder: str, leads: threading.Event) -> None:
    """Leads on, or takes the lead where nobody has it."""
    try:
        is_mine = leases.claim(store, LEASE, holder, time.time(), LEASE_S)
    except MoescopeError:
        # nobody can claim it either, as long as the store is away
        leads.clear()
        raise
    if is_mine and not leads.is_set():
        _log.info("this service leads")
        leads.set()
    elif not is_mine and leads.is_set():
        _log.warning("another service leads now")
        leads.clear()


def _while(leads: threading.Event, tick: Callable[[], None]) -> Callable[[], None]:
    def guarded() -> None:
        if leads.is_set():
            tick()

    return guarded


def _let_go(store: Store, holder: str) -> None:
    try:
        leases.release(store, LEASE, holder)
        leases.release(store, DELIVERY_LEASE, holder)
    except MoescopeError as error:
        _log.warning("the store is away at the end: %s", error)


def _usable(host: str, port: int, option: str) -> int:
    """Returns the port, or a free one for 0. Raises MoescopeError where it is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MoescopeError(
                f"port {port} of {host} cannot be used ({error.strerror}): "
                f"choose another with {option}"
            ) from None
        bound: int = probe.getsockname()[1]
        return bound


def _answers(host: str, port: int, path: str) -> bool:
    probed = "127.0.0.1" if host in ("0.0.0.0", "::", "") else shown_host(host)
    try:
        with urllib.request.urlopen(f"http://{probed}:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _wait_for_dashboard(child: Child, host: str, port: int, stop: threading.Event) -> None:
    until_s = time.monotonic() + _START_S
    while not stop.wait(0.1):
        if _answers(host, port, "/_stcore/health"):
            return
        if child.exit_code is not None or time.monotonic() > until_s:
            raise MoescopeError(
                f"the dashboard did not start ({child.last_line() or 'it said nothing'}): "
                f"see {child.log}"
            )


def _announce(home: Path, dashboard_url: str, mlflow_url: str, children: list[Child]) -> None:
    identities = tuple(found for child in children if (found := child.identity()) is not None)
    announce(home, Announcement(dashboard_url, mlflow_url, *own_process(), identities))


def _withdraw(home: Path) -> None:
    (home / "service.json").unlink(missing_ok=True)


def _stop_all(children: list[Child]) -> None:
    for child in children:
        child.ask_to_end()
    for child in children:
        child.stop()


def _mind(children: list[Child], home: Path, dashboard_url: str, mlflow_url: str) -> None:
    for child in children:
        code = child.exit_code
        if child.restart_if_ended():
            _log.warning(
                "%s ended with code %s (%s) and was started again; its log is %s",
                child.name,
                code,
                child.last_line(),
                child.log,
            )
            _announce(home, dashboard_url, mlflow_url, children)
