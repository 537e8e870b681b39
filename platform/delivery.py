"""Sends alerts to people through apprise (mail, Slack, Telegram, ...), again where that fails, each
alert once.

Who delivers is whoever holds the lease `delivery` of the store: the service, or a trainer where no
service is up. An alert is marked as delivered after it was sent; a process that dies in between has
it sent twice rather than never.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import apprise

from . import leases
from .alert_kinds import words_of
from .errors import MoescopeError
from .records import Alert
from .store import Store
from .store_door import StoreDoor
from .terminal import one_line

LEASE = leases.DELIVERY
LEASE_S = 30.0
TOO_OLD_S = 6 * 3600.0
_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 600.0
_TYPES = {
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "critical": apprise.NotifyType.FAILURE,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a message to one address."""

    channel: str
    """Kind and place of the address, without what may be secret."""
    failure: str
    """Empty where it was sent."""


class Deliverer:
    """Sends one alert to every address; knows nothing of the store."""

    def __init__(self, urls: Sequence[str], dashboard_url: str = "") -> None:
        """urls: apprise addresses. dashboard_url: where people look an alert up, without a token;
        empty: nowhere. Raises MoescopeError on an address that apprise cannot read.
        """
        self._dashboard_url = dashboard_url.rstrip("/")
        self._services: list[apprise.NotifyBase] = []
        for url in urls:
            service = apprise.Apprise.instantiate(url)
            if service is None:
                # the address may hold a password: only its scheme is shown
                raise MoescopeError(
                    f"notify address {url.partition(':')[0]}:... cannot be read: "
                    "see https://github.com/caronc/apprise/wiki for the forms there are"
                )
            self._services.append(service)

    def __bool__(self) -> bool:
        return bool(self._services)

    def send(self, alert: Alert, run_name: str) -> str:
        """Returns an empty text, or which services failed and why. Waits for them: some seconds
        each at worst.
        """
        title = f"[{alert.severity}] {run_name}: {alert.rule}"
        body = f"{alert.message}\nonset step {alert.onset_step}, fired at step {alert.fired_step}"
        _, advice = words_of(alert)
        if advice:
            body = f"{body}\n{advice}"
        if self._dashboard_url:
            # the page of the incident says what is known of any alert; whoever opens it signs in
            body = f"{body}\n{self._dashboard_url}/incidents?alert={quote(alert.id, safe='')}"
        tried = self.send_text(title, body, _TYPES[alert.severity])
        return "; ".join(f"{one.channel}: {one.failure}" for one in tried if one.failure)

    def send_text(
        self, title: str, body: str, kind: apprise.NotifyType = apprise.NotifyType.INFO
    ) -> list[Tried]:
        """Sends a text to every address, each whatever became of the others."""
        return [self._tried(service, title, body, kind) for service in self._services]

    def _tried(
        self, service: apprise.NotifyBase, title: str, body: str, kind: apprise.NotifyType
    ) -> Tried:
        with apprise.LogCapture(level=logging.WARNING) as captured:
            try:
                is_sent = service.notify(body=body, title=title, notify_type=kind)
            except Exception as error:  # a plugin's fault must not end the thread
                is_sent, why = False, f"{type(error).__name__}: {error}"
            else:
                why = " ".join(captured.getvalue().split())
        name = str(service.service_name)
        return Tried(name, "" if is_sent else one_line(why) or "not sent")


class DeliveryRound:
    """One look at what the store has not delivered yet; remembers when a failed alert may be tried
    again.
    """

    def __init__(self, deliverer: Deliverer) -> None:
        self._deliverer = deliverer
        self._failures: dict[str, tuple[int, float]] = {}

    def go(self, store: Store, now_s: float) -> int:
        """Sends what is due and returns how many alerts were sent. Raises MoescopeError if the
        store is away.

        Only alerts of weight, which nobody has dealt with yet, are sent; one that could not be sent
        for hours is given up, and its failure stays in the store.
        """
        store.end_silences(now_s)
        if not self._deliverer:
            return 0
        num_sent = 0
        names: dict[str, str] = {}
        for alert in store.undelivered_alerts(now_s, now_s - TOO_OLD_S):
            num_failed, due_s = self._failures.get(alert.id, (0, 0.0))
            if alert.severity == "info":
                store.mark_delivered(alert.id, now_s)
            elif now_s >= due_s:
                if alert.run_id not in names:
                    names[alert.run_id] = store.find_run(alert.run_id).name
                failure = self._deliverer.send(alert, names[alert.run_id])
                store.mark_delivered(alert.id, now_s, failure)
                if failure:
                    wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0**num_failed)
                    self._failures[alert.id] = (num_failed + 1, now_s + wait_s)
                    _log.warning("alert %s was not delivered: %s", alert.id, failure)
                else:
                    self._failures.pop(alert.id, None)
                    num_sent += 1
        return num_sent


class DeliveryThread:
    """Delivers from a side thread, for a trainer: as long as no other process does it for this
    store.
    """

    def __init__(
        self,
        store_url: str,
        urls: Sequence[str],
        holder: str,
        *,
        dashboard_url: str = "",
        every_s: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises MoescopeError on an address that apprise cannot read. Without addresses there is
        nothing to do. dashboard_url: as of `Deliverer`.
        """
        self._round = DeliveryRound(Deliverer(urls, dashboard_url))
        self._door = StoreDoor(store_url)
        self._holder = holder
        self._every_s = every_s
        self._clock = clock
        self._stop = threading.Event()
        self._is_away = False
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        if urls:
            self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """Delivers once more, so that the last alert of a run goes out, and lets the lease go."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(self._every_s)
            try:
                store, now_s = self._door.enter(), self._clock()
                if leases.claim(store, LEASE, self._holder, now_s, LEASE_S):
                    self._round.go(store, now_s)
                    if is_last:
                        leases.release(store, LEASE, self._holder)
                self._is_away = False
            except Exception as error:  # whatever the store does, the thread goes on
                if not self._is_away:
                    _log.warning("alerts cannot be delivered now: %s", error)
                self._is_away = True
        self._door.shut()
