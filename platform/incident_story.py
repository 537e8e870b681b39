"""What followed an alert: what was done about it, and when the loss was back where it had been."""

from dataclasses import dataclass

import numpy as np

from . import catalogue
from .records import Alert, EventKind
from .series import is_living, read_series
from .store import Store

_ACTIONS: tuple[EventKind, ...] = ("rollback", "skip_data", "damp", "halt", "guard")
_ADVISED = "advisory"
"""What begins the words of an action that was only shown; as `monitors/policy.py` has it."""
BACK_STEPS = 10
"""Steps whose median says where the loss is."""
WATCHED_STEPS = 400
"""After an alert; later events belong to others."""
WORST = 1.1
"""Times the loss from before the onset: a run that is below again has recovered."""


@dataclass(frozen=True, slots=True)
class Followed:
    what: str
    """action, advice (what would have been done), note or recovery"""
    step: int
    segment: int
    text: str


def what_followed(store: Store, alert: Alert) -> list[Followed]:
    """Returns actions, notes about the alert and recovery in order of time. An action belongs to
    the alert where it names it, or comes from the alarm on in its segment or the next; a note where
    it names it."""
    found: list[Followed] = []
    for event in store.events(alert.run_id, kinds=(*_ACTIONS, "note")):
        named = event.details.get("alert_id")
        if named != alert.id and (named is not None or event.kind == "note"):
            continue
        if event.kind == "note":
            what = "advice" if event.text.startswith(_ADVISED) else "note"
            found.append(Followed(what, event.step, event.segment, event.text))
            continue
        is_after = event.segment > alert.segment or event.step >= alert.onset_step
        is_near = event.segment <= alert.segment + 1 and (
            abs(event.step - alert.fired_step) <= WATCHED_STEPS
        )
        if named == alert.id or (is_after and is_near):
            found.append(Followed("action", event.step, event.segment, event.text))
    # what comes again at every step is told once
    guards = [f for f in found if f.text.startswith("the guard")]
    advised = [f for f in found if f.what == "advice"]
    for again in (*guards[1:], *advised[1:]):
        found.remove(again)
    recovered = _recovered(store, alert)
    if recovered is not None:
        found.append(recovered)
    return sorted(found, key=lambda f: (f.segment, f.step))


@dataclass(frozen=True, slots=True)
class Recovery:
    """Whether the loss is back where it was before the onset."""

    step: int | None
    """Where it was back; None while it is not."""
    segment: int | None
    num_steps: int
    """Steps that were trained since the alarm, abandoned ones too: until it was back, or so far."""
    loss: float
    """Median of the last steps there."""
    loss_before: float
    """Median before the onset."""


def recovery_of(store: Store, alert: Alert) -> Recovery | None:
    """Returns None where too little was measured, before the onset or since, to say so."""
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
    is_later = series.segments > alert.segment
    is_since = is_later | ((series.segments == alert.segment) & (series.steps > alert.fired_step))
    from_step = np.where(is_later, 0, alert.fired_step)
    after = living & (series.steps > from_step) & (series.segments >= alert.segment)
    if len(before) < BACK_STEPS or after.sum() < BACK_STEPS:
        return None
    usual = float(np.median(before))
    places, losses = np.flatnonzero(after), series.values[after]
    for last in range(BACK_STEPS, len(losses) + 1):
        middle = float(np.median(losses[last - BACK_STEPS : last]))
        if middle <= WORST * usual:
            at = places[last - 1]
            num_steps = int(is_since[: at + 1].sum())
            step, segment = int(series.steps[at]), int(series.segments[at])
            return Recovery(step, segment, num_steps, middle, usual)
    newest = float(np.median(losses[-BACK_STEPS:]))
    return Recovery(None, None, int(is_since.sum()), newest, usual)


def _recovered(store: Store, alert: Alert) -> Followed | None:
    found = recovery_of(store, alert)
    if found is None or found.step is None or found.segment is None:
        return None
    text = (
        f"healthy again after {found.num_steps} steps: the loss is back at {found.loss:.3g}, "
        f"before the onset it was {found.loss_before:.3g}"
    )
    return Followed("recovery", found.step, found.segment, text)
