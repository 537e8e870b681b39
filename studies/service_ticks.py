"""What a service that leads does for studies, every second: schedules, workers, reports."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable

from ..platform import reports, trials
from ..platform.errors import MoescopeError
from ..platform.frozen import parsed
from ..platform.records import Study
from ..platform.settings import Settings
from ..platform.store import Store
from . import schedules
from .launchers.by_name import launcher_for
from .launchers.contract import Launcher
from .spec import Launch, StudySpec

REPORT_AGAIN_S = 300.0
"""After a report that failed."""

_log = logging.getLogger(__name__)


class StudyTicks:
    """Called by one thread at a time. Whatever it does may be done twice, or be left half done by a
    service that dies, without a trial being lost or run twice."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        holder: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._holder = holder
        self._clock = clock
        self._launchers: dict[str, tuple[Launch, Launcher]] = {}
        self._replaced: list[Launcher] = []
        """Of studies whose launch changed: their workers end when they have nothing left."""
        self._reports: dict[str, subprocess.Popen[bytes]] = {}
        self._not_before_s: dict[str, float] = {}
        self._faults: dict[str, str] = {}

    def tick(self) -> None:
        for firing in schedules.tick(self._store, self._holder, self._clock()):
            _log.warning("schedule %s: %s", firing.schedule, firing.outcome)
        for launcher in list(self._replaced):
            if not launcher.is_idle:
                launcher.look(0)
            if launcher.is_idle:
                self._replaced.remove(launcher)
        for study in trials.studies(self._store):
            if study.is_served:
                try:
                    self._see_to(study)
                    self._faults.pop(study.name, None)
                except MoescopeError as error:  # one study's fault holds no other up
                    if self._faults.get(study.name) != str(error):
                        _log.warning("study %s: %s", study.name, error)
                    self._faults[study.name] = str(error)

    def stop(self) -> None:
        """Lets the workers of this machine save and end; others go on."""
        for launcher in (*self._replaced, *(one for _, one in self._launchers.values())):
            launcher.stop()
        for report in self._reports.values():
            report.terminate()
            report.wait()

    def _see_to(self, study: Study) -> None:
        now_s = self._clock()
        if study.state == "running" and not trials.is_over(self._store, study.name):
            for line in self._launcher(study).look(
                trials.num_wanted(self._store, study.name, now_s)
            ):
                _log.warning("study %s: %s", study.name, line)
            return
        if study.name in self._launchers:
            self._replaced.append(self._launchers.pop(study.name)[1])
        self._report(study, now_s)

    def _launcher(self, study: Study) -> Launcher:
        spec: StudySpec = parsed(StudySpec, study.spec, f"study {study.name}")
        launch, launcher = self._launchers.get(study.name, (None, None))
        if launcher is None or launch != spec.launch:
            if launcher is not None:
                self._replaced.append(launcher)
            log = self._settings.home_path / "studies" / study.name / "workers.log"
            launcher = launcher_for(self._store, self._settings, study.name, spec.launch, log)
            self._launchers[study.name] = (spec.launch, launcher)
        return launcher

    def _report(self, study: Study, now_s: float) -> None:
        """Has a report made, in a process of its own, where trials have ended since the last."""
        made = self._reports.get(study.name)
        if made is not None:
            code = made.poll()
            if code is None:
                return
            del self._reports[study.name]
            if code != 0:
                _log.warning("study %s: its report ended with code %d", study.name, code)
                self._not_before_s[study.name] = now_s + REPORT_AGAIN_S
        ended_s = trials.last_end(self._store, study.name)
        made_s = reports.made_at(self._store, study.name) or 0.0
        if made_s >= ended_s or now_s < self._not_before_s.get(study.name, 0.0):
            return
        folder = self._settings.home_path / "studies" / study.name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "moescope.studies", "report", study.name]
        command += ["--home", str(self._settings.home_path)]
        with (folder / "report.log").open("ab") as log:
            self._reports[study.name] = subprocess.Popen(
                command,
                # passed on whole, not read; the store's address may hold a password
                env={**os.environ, "MOESCOPE_STORE": self._store.url},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
