"""What followed an alert: what was done about it, and when the loss was back where it had been."""

from dataclasses import dataclass

import numpy as np

from . import catalogue
from .records import Alert, EventKind
from .series import is_living, read_series
from .store import Store

_ACTIONS: tuple[EventKind, ...] = ("rollback", "skip_data", "damp", "halt", "guard")
BACK_STEPS = 10
"""Steps whose median says where the loss is."""
WATCHED_STEPS = 400
"""After an alert; later events belong to others."""
WORST = 1.1
"""Times the loss from before the onset: a run that is below again has recovered."""


@dataclass(frozen=True, slots=True)
class Followed:
    what: str
    """action or recovery"""
    step: int
    segment: int
    text: str


def what_followed(store: Store, alert: Alert) -> list[Followed]:
    """Returns actions and recovery in order of time. An action belongs to the alert where it names
    it, or comes from the alarm on in its segment or the next."""
    found: list[Followed] = []
    for event in store.events(alert.run_id, kinds=_ACTIONS):
        named = event.details.get("alert_id")
        if named is not None and named != alert.id:
            continue
        is_after = event.segment > alert.segment or event.step >= alert.onset_step
        is_near = event.segment <= alert.segment + 1 and (
            abs(event.step - alert.fired_step) <= WATCHED_STEPS
        )
        if named == alert.id or (is_after and is_near):
            found.append(Followed("action", event.step, event.segment, event.text))
    guards = [f for f in found if f.text.startswith("the guard")]
    for guard in guards[1:]:
        found.remove(guard)
    recovered = _recovery(store, alert)
    if recovered is not None:
        found.append(recovered)
    return sorted(found, key=lambda f: (f.segment, f.step))


def _recovery(store: Store, alert: Alert) -> Followed | None:
    series = read_series(
        store,
        alert.run_id,
        catalogue.LOSS_TOTAL,
        from_step=max(0, alert.onset_step - 50),
        to_step=alert.fired_step + WATCHED_STEPS,
    )
    living = is_living(series, store.segments(alert.run_id))
    before = series.values[
        (series.steps < alert.onset_step - 2) & (series.segments <= alert.segment)
    ]
    from_step = np.where(series.segments > alert.segment, 0, alert.fired_step)
    after = living & (series.steps > from_step) & (series.segments >= alert.segment)
    if len(before) < BACK_STEPS or after.sum() < BACK_STEPS:
        return None
    limit = WORST * float(np.median(before))
    losses, steps, segments = series.values[after], series.steps[after], series.segments[after]
    for last in range(BACK_STEPS, len(losses) + 1):
        middle = float(np.median(losses[last - BACK_STEPS : last]))
        if middle <= limit:
            text = f"the loss is back at {middle:.3g}, before the onset it was {limit / WORST:.3g}"
            return Followed("recovery", int(steps[last - 1]), int(segments[last - 1]), text)
    return None
