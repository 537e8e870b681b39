"""What the page of an incident reads: the alert, its account, what was done and what came of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..platform.catalogue import CATALOGUE
from ..platform.incident_story import WATCHED_STEPS, Followed, Recovery, recovery_of, what_followed
from ..platform.incidents import incident_of
from ..platform.records import Alert, Incident, Run
from ..platform.series import read_series
from ..platform.store import Store
from ..platform.watchman import SILENT_AFTER_S, is_stalled
from .before_and_after import LOOKED_AT_STEPS, SHOWN, Row, row_of

MOST_LISTED = 30
SHOWN_AROUND = 60
"""Steps before and after an incident that a link to the run shows too."""
_NEEDED = ("onset", "alarm", "movers", "num_movers", "clips", "num_clips", "course", "verdict")
_NEEDED_TOO = ("across", "next", "notes")


@dataclass(frozen=True, slots=True)
class IncidentNow:
    alert: Alert
    run: Run
    incident: Incident | None
    followed: list[Followed]
    recovery: Recovery | None
    is_silent: bool
    """Whether the trainer has fallen silent, so that nothing more follows for now."""

    @property
    def command(self) -> str:
        return f"moescope incident {self.alert.id}"

    @property
    def content(self) -> Mapping[str, Any] | None:
        """The account; None where there is none, or another program wrote it otherwise."""
        if self.incident is None:
            return None
        content = self.incident.content
        is_whole = all(name in content for name in (*_NEEDED, *_NEEDED_TOO))
        return content if is_whole else None

    @property
    def onset_step(self) -> int:
        content = self.content
        return self.alert.onset_step if content is None else int(content["onset"]["step"])

    @property
    def steps_around(self) -> str:
        """The range of steps in which all of it happened, as an address has it."""
        steps = [self.onset_step, self.alert.fired_step, *(f.step for f in self.followed)]
        return f"{max(0, min(steps) - SHOWN_AROUND)}-{max(steps) + SHOWN_AROUND}"


def incident_now(store: Store, alert_id: str) -> IncidentNow:
    """Reads an incident anew. Raises MoescopeError on an unknown alert."""
    alert = store.alert(alert_id)
    run = store.find_run(alert.run_id)
    is_silent = run.status == "running" and is_stalled(run.heartbeat_s, time.time(), SILENT_AFTER_S)
    return IncidentNow(
        alert,
        run,
        incident_of(store, alert_id),
        what_followed(store, alert),
        recovery_of(store, alert),
        is_silent,
    )


def before_and_after(store: Store, now: IncidentNow) -> list[Row]:
    """The rows of the signals that the run measured around the incident."""
    alert, segments = now.alert, store.segments(now.alert.run_id)
    signals = dict(SHOWN)
    own = alert.evidence.get("signal")
    if isinstance(own, str) and own in CATALOGUE and CATALOGUE[own].is_scalar:
        signals.setdefault(own, own)
    ends = [alert.fired_step + WATCHED_STEPS]
    if now.recovery is not None and now.recovery.step is not None:
        ends = [alert.fired_step, now.recovery.step + LOOKED_AT_STEPS]
    starts = [f.step for f in now.followed]
    first = max(0, min([alert.onset_step - LOOKED_AT_STEPS, *starts]))
    rows = []
    for signal, words in signals.items():
        series = read_series(
            store, alert.run_id, signal, from_step=first, to_step=max(first, *ends)
        )
        if len(series.steps):
            rows.append(row_of(series, words, alert, segments, now.recovery))
    return rows


def accounts(store: Store, alerts: Sequence[Alert]) -> dict[str, Incident]:
    """{alert id: account} of those that have one."""
    found = {alert.id: incident_of(store, alert.id) for alert in alerts}
    return {alert_id: incident for alert_id, incident in found.items() if incident is not None}


def recorded_alerts(store: Store) -> list[Alert]:
    """The newest alerts that have a flight record."""
    return [alert for alert in store.alerts() if "record" in alert.evidence][:MOST_LISTED]


def clip_file(run: Run, name: str) -> Path | None:
    """The file of a clip, where it is on this machine and lies in the run's data folder."""
    data = run.config.get("data")
    folder = data.get("folder") if isinstance(data, dict) else None
    if not folder:
        return None
    root = Path(folder).expanduser().resolve()
    file = (root / name).resolve()
    return file if file.is_relative_to(root) and file.is_file() else None
