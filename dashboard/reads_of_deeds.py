"""What people did in the dashboard: who, when, what, to what, and what came of it."""

from collections.abc import Mapping, Sequence

import pandas as pd

from ..platform.deeds import deeds
from ..platform.records import Deed
from ..platform.store import Store

MOST_SHOWN = 100


def recent_deeds(store: Store, most: int = MOST_SHOWN, before_s: float | None = None) -> list[Deed]:
    """The newest first; before_s: the page after the one that ended there."""
    return deeds(store, most=most, before_s=before_s)


def deeds_of_run(store: Store, run_id: str, most: int = MOST_SHOWN) -> list[Deed]:
    """What was done to a run, and to its alerts; the newest first."""
    of_run = deeds(store, most=most, about="run", about_ids=[run_id])
    alert_ids = [alert.id for alert in store.alerts(run_id=run_id)]
    of_alerts = deeds(store, most=most, about="alert", about_ids=alert_ids)
    return sorted([*of_run, *of_alerts], key=lambda deed: deed.asked_s, reverse=True)[:most]


def deed_rows(found: Sequence[Deed], names: Mapping[str, str]) -> pd.DataFrame:
    """A row for each deed, with its time in UTC. names: {run id: its name}."""
    return pd.DataFrame(
        [
            {
                "when": pd.Timestamp(deed.asked_s, unit="s"),
                "who": deed.who.removesuffix(f" ({deed.role})"),
                "role": deed.role,
                "what": deed.what,
                "about": f"{deed.about} {names.get(deed.about_id, deed.about_id)}".rstrip(),
                "with": ", ".join(
                    f"{key} {' '.join(str(value).split())[:80]}"
                    for key, value in deed.args.items()
                    if value not in (None, "")
                ),
                "outcome": deed.outcome or "not known",
            }
            for deed in found
        ],
        columns=["when", "who", "role", "what", "about", "with", "outcome"],
    )
