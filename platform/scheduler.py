"""Ticks: small jobs that the service does every few seconds. The truth about work lies in tables;
the clock only ticks.
"""

import logging
from collections.abc import Callable

from apscheduler.schedulers.background import BackgroundScheduler

_log = logging.getLogger(__name__)


class Ticker:
    """Calls functions at intervals from a few threads of its own; a function that raises is called
    again next time.
    """

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            # None: a tick that is late for whatever reason still runs, once for all that were
            # missed
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._failing: set[str] = set()
        # a tick that is still running when the next is due is told as a warning each time; that is
        # what max_instances is for
        logging.getLogger("apscheduler").setLevel(logging.ERROR)

    def add(self, name: str, every_s: float, tick: Callable[[], None]) -> None:
        """Calls `tick` every so many seconds, the first time after one interval; never twice at
        once.
        """

        def guarded() -> None:
            try:
                tick()
            except Exception as error:  # one failing tick must not end the service
                if name not in self._failing:
                    _log.warning("%s fails: %s", name, error)
                    self._failing.add(name)
            else:
                if name in self._failing:
                    _log.warning("%s works again", name)
                    self._failing.discard(name)

        self._scheduler.add_job(guarded, "interval", seconds=every_s, id=name)

    def start(self) -> None:
        self._scheduler.start()

    @property
    def is_running(self) -> bool:
        return bool(self._scheduler.running)

    def stop(self) -> None:
        """Ends the ticking after the ticks that are running."""
        if self.is_running:
            self._scheduler.shutdown(wait=True)
