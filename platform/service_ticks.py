"""What the service does every few seconds: look for silent runs, deliver alerts, catch up with
journals left behind, and with living ones where many runs share an embedded store; keep the store
small.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import leases
from .catalogue import LOSS_TOTAL
from .catch_up import catch_up, journals_left_behind
from .compacted.housekeeping import Housekeeping, rule_of
from .delivery import LEASE as DELIVERY_LEASE
from .delivery import LEASE_S as DELIVERY_LEASE_S
from .delivery import Deliverer, DeliveryRound
from .errors import MoescopeError
from .ingest import Ingest
from .mlflow_sink import MlflowSink
from .records import Run
from .series import latest
from .settings import Settings
from .sql_sink import SqlSink
from .store import Store
from .trials import trial_of_run
from .watchman import Look, Watchman, segment_of

if TYPE_CHECKING:
    from .sinks import Sink


class ServiceTicks:
    """The ticks of one service; each is called by one thread at a time and may raise."""

    def __init__(
        self,
        settings: Settings,
        store_url: str,
        store: Store,
        holder: str,
        dashboard_url: str = "",
        mlflow_url: str = "",
        *,
        watchman: Watchman | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises MoescopeError if an address to notify cannot be read."""
        self.stop = threading.Event()
        self._settings = settings
        self._store_url = store_url
        self._store = store
        self._holder = holder
        self._dashboard_url = settings.dashboard_url or dashboard_url
        self._mlflow_url = mlflow_url
        self._watchman = watchman or Watchman()
        self._housekeeping = Housekeeping(store, rule_of(settings), self.stop, clock)
        self._round = DeliveryRound(Deliverer(settings.notify.split(), self._dashboard_url))
        self._ingest = Ingest(store, holder, clock=clock)
        self._clock = clock

    def ingest(self) -> None:
        """Writes the frames of living runs in, where many share an embedded store."""
        self._ingest.tick()

    def let_go(self) -> None:
        """Called once at the end, after the last tick."""
        self._ingest.let_go()

    def watch(self) -> None:
        """Raises and resolves the alerts that a dead trainer cannot judge."""
        now_s = self._clock()
        try:
            self._store.end_silences(now_s)
            looks = []
            for run in self._store.runs():
                if run.status == "running":
                    newest = latest(self._store, run.id, [LOSS_TOTAL])
                    step = newest[LOSS_TOTAL][0] if LOSS_TOTAL in newest else 0
                    segment = segment_of(self._store.segments(run.id))
                    looks.append(Look(run, segment, step))
            standing = self._store.alerts(states=["open", "acknowledged", "silenced"])
            judgement = self._watchman.look(looks, standing, now_s)
            for alert in judgement.raised:
                self._store.put_alert(alert)
            for alert_id in judgement.resolved:
                self._store.set_alert_state(alert_id, "resolved", "watchman", now_s)
        except MoescopeError:
            self._watchman.store_was_away(self._clock())
            raise

    def deliver(self) -> None:
        """Delivers alerts, unless a trainer of this store is doing it just now."""
        now_s = self._clock()
        if leases.claim(self._store, DELIVERY_LEASE, self._holder, now_s, DELIVERY_LEASE_S):
            self._round.go(self._store, now_s)

    def keep_house(self) -> None:
        """Compacts samples of closed windows, and forgets vectors where a rule is set."""
        self._housekeeping.tick()

    def catch_up(self) -> None:
        """Brings in what runs that have ended left in their journals."""
        for folder in journals_left_behind(self._settings.home_path):
            run_id = folder.parent.name
            try:
                run = self._store.find_run(run_id)
            except MoescopeError:
                continue  # a run of another store
            if run.id != run_id:
                continue

            def make(name: str, run: Run = run) -> "Sink | None":
                if name == SqlSink.name:
                    return SqlSink(self._store_url)
                if not self._mlflow_url:
                    return None
                trial = trial_of_run(self._store, run.id)
                return MlflowSink(self._mlflow_url, run, self._dashboard_url, trial=trial)

            catch_up(folder, make, timeout_s=8.0, stop=self.stop)
