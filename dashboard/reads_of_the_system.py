"""What the page of the system reads: the store and its growth, sinks, service, housekeeping."""

import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from platform import python_version
from typing import Any

import streamlit as st

from ..platform import catalogue, firings, leases
from ..platform.announcement import Announcement, is_alive, living_service
from ..platform.catch_up import journals_left_behind
from ..platform.compacted.housekeeping import rule_of
from ..platform.compacted.retention import Rule
from ..platform.compacted.waiting import Waiting, waiting
from ..platform.errors import MoescopeError
from ..platform.journal import depths
from ..platform.migrate import versions
from ..platform.records import Alert, Firing, Run
from ..platform.settings import Settings
from ..platform.store import Store
from ..platform.store_sizes import (
    RunSize,
    StoreSize,
    TableSize,
    largest_runs,
    store_size,
    table_sizes,
)
from ..platform.summaries import summaries
from . import command_line

SINKS = (
    catalogue.SINK_LAG_S,
    catalogue.SINK_COALESCED,
    catalogue.SINK_LOST,
    catalogue.SINK_REFUSED,
)
PACKAGES = (
    *("moescope", "streamlit", "plotly", "torch", "mlflow", "sqlalchemy", "psycopg"),
    *("numpy", "apscheduler", "apprise"),
)
MOST_FIRINGS, MOST_JOURNALS = 5, 20
FAILED_WITHIN_S = 7 * 86400.0
REMEMBERED_EVERY_S = 30.0
REMEMBERED_S = 24 * 3600.0
LEAST_SEEN_S = 300.0
"""For how long a store must have been watched before its growth is said."""


@dataclass(frozen=True, slots=True)
class Growth:
    seen_per_day: float | None
    """Bytes a day while this dashboard watched, of late; None where that was too short."""
    seen_s: float
    mean_per_day: float | None
    """Bytes a day since the first run."""


class SizeLog:
    """Sizes of a store as this process has seen them. Any thread may tell and ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now_s: float, num_bytes: int) -> None:
        with self._lock:
            if self._seen and 0 <= now_s - self._seen[-1][0] < REMEMBERED_EVERY_S:
                return
            self._seen.append((now_s, num_bytes))
            while now_s - self._seen[0][0] > REMEMBERED_S:
                self._seen.popleft()

    def per_day(self) -> tuple[float | None, float]:
        """(bytes a day from the first to the last that was seen, seconds between them)."""
        with self._lock:
            if not self._seen:
                return None, 0.0
            (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        seen_s = last_s - first_s
        return ((last - first) / seen_s * 86400 if seen_s >= LEAST_SEEN_S else None), seen_s


@dataclass(frozen=True, slots=True)
class StoreNow:
    size: StoreSize
    growth: Growth
    is_newest: bool
    """Whether its tables are those that this program makes."""


@dataclass(frozen=True, slots=True)
class SinksOfARun:
    run: Run
    values: Mapping[str, float]
    """{signal of `SINKS`: newest value}; empty before the first was measured."""
    depths: Mapping[str, int] | None
    """{sink: bytes that wait for it}; None where the run's folder is not on this machine."""


@dataclass(frozen=True, slots=True)
class ServiceNow:
    leader: leases.Held | None
    """Of the store; one whose time is over has died."""
    deliverer: leases.Held | None
    here: Announcement | None
    """The living service of this home."""
    children: int
    """Processes that it has started and that live."""


@dataclass(frozen=True, slots=True)
class HousekeepingNow:
    waiting: Waiting
    rule: Rule | None
    journals: Sequence[tuple[str, Mapping[str, int]]]
    """(run, {sink: bytes}) of journals that hold something which a sink has not taken."""
    are_more_journals: bool


@dataclass(frozen=True, slots=True)
class DeliveryNow:
    channels: Sequence[str]
    """Kinds of the addresses that alerts go to."""
    failures: Sequence[tuple[Alert, str]]


def store_now(store: Store, now_s: float) -> StoreNow:
    size = store_size(store)
    log = size_log(store.url)
    if size.num_bytes is not None:
        log.add(now_s, size.num_bytes)
    seen, seen_s = log.per_day()
    first_s = min((run.created_s for run in store.runs(include_archived=True)), default=now_s)
    mean = None
    if size.num_bytes is not None and now_s - first_s >= 3600:
        mean = size.num_bytes / (now_s - first_s) * 86400
    return StoreNow(size, Growth(seen, seen_s, mean), size.version == versions()[-1])


@st.cache_resource(show_spinner=False, max_entries=4)
def size_log(store_url: str) -> SizeLog:
    return SizeLog()


def sinks_now(store: Store) -> list[SinksOfARun]:
    """Of the runs that are said to be running, newest first."""
    live = [run for run in store.runs() if run.status == "running"]
    found = summaries(store, SINKS, [run.id for run in live])
    return [
        SinksOfARun(
            run,
            {name: one.last for name, one in found.get(run.id, {}).items()},
            _depths(Path(run.folder) / "journal") if run.folder else None,
        )
        for run in live
    ]


def _depths(folder: Path) -> Mapping[str, int] | None:
    try:
        return depths(folder) if folder.is_dir() else None
    except OSError:
        return None


def service_now(store: Store, settings: Settings) -> ServiceNow:
    held = {one.name: one for one in leases.all_leases(store)}
    here = living_service(settings.home_path)
    children = 0 if here is None else sum(is_alive(*child) for child in here.children)
    return ServiceNow(held.get(leases.SERVICE), held.get(leases.DELIVERY), here, children)


def housekeeping_now(store: Store, settings: Settings) -> HousekeepingNow:
    living = {run.id for run in store.runs() if run.status == "running"}
    left = (
        folder for folder in journals_left_behind(settings.home_path)
        if folder.parent.name not in living
    )  # fmt: skip
    some = list(islice(left, MOST_JOURNALS + 1))
    journals = [(folder.parent.name, _depths(folder) or {}) for folder in some[:MOST_JOURNALS]]
    return HousekeepingNow(waiting(store), rule_of(settings), journals, len(some) > MOST_JOURNALS)


def delivery_now(store: Store, settings: Settings, now_s: float) -> DeliveryNow:
    failures = store.delivery_failures(since_s=now_s - FAILED_WITHIN_S)
    alerts = [alert for alert in store.alerts() if alert.id in failures] if failures else []
    # the rest of an address may hold a password
    channels = [address.partition(":")[0] for address in settings.notify.split()]
    return DeliveryNow(channels, [(a, failures[a.id]) for a in alerts])


@st.cache_data(ttl=60.0, show_spinner=False, max_entries=8)
def tables_now(store_url: str, _store: Store) -> list[TableSize]:
    return table_sizes(_store)


@st.cache_data(ttl=300.0, show_spinner=False, max_entries=8)
def runs_by_size(store_url: str, _store: Store) -> list[RunSize]:
    return largest_runs(_store)


def schedules_now(store: Store) -> list[dict[str, Any]]:
    """Schedules with when they come due next, as `moescope study schedules` tells it; what it costs
    to ask is spent only where there are some. Raises MoescopeError with the command's line."""
    known = [(one.name, one.when, one.is_paused) for one in firings.schedules(store)]
    return _schedules(store.url, tuple(known), store) if known else []


@st.cache_data(ttl=60.0, show_spinner=False, max_entries=8)
def _schedules(
    store_url: str, known: tuple[tuple[str, str, bool], ...], _store: Store
) -> list[dict[str, Any]]:
    answer = command_line.asked(_store, ["study", "schedules", "--json"])
    if not answer.is_done:
        raise MoescopeError(answer.text)
    found: list[dict[str, Any]] = json.loads(answer.text)
    return found


def newest_firings(store: Store) -> list[Firing]:
    return firings.newest_firings(store, MOST_FIRINGS)


@st.cache_resource(show_spinner=False)
def installed() -> dict[str, str]:
    """{package: version}, of what is installed; nothing of it is imported for that."""
    found = {"python": python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
