"""What the page of an incident reads: the alert, its account, what was done and what came of it."""

from dataclasses import dataclass
from pathlib import Path

from ..platform.incident_story import Followed, what_followed
from ..platform.incidents import incident_of
from ..platform.records import Alert, Incident, Run
from ..platform.store import Store

MOST_LISTED = 30


@dataclass(frozen=True, slots=True)
class IncidentNow:
    alert: Alert
    run: Run
    incident: Incident | None
    followed: list[Followed]

    @property
    def command(self) -> str:
        return f"moescope incident {self.alert.id}"


def incident_now(store: Store, alert_id: str) -> IncidentNow:
    """Reads an incident anew. Raises MoescopeError on an unknown alert."""
    alert = store.alert(alert_id)
    run = store.find_run(alert.run_id)
    return IncidentNow(alert, run, incident_of(store, alert_id), what_followed(store, alert))


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
