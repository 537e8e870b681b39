"""What a run does at this moment, in words: training, paused, rolling back, silent for 3 min, ...

Pure. What a person waits for comes first: a command on its way says more than that it trains.
"""

from dataclasses import dataclass

from ..platform.fleet import Doings
from ..platform.records import Command, CommandKind, EventKind
from .reads import RunNow

TRAINING = "training"
LATELY_S = 600.0
"""How long an event is told beside what a run does."""
_UNDER_WAY: dict[CommandKind, str] = {
    "rollback": "rolling back",
    "checkpoint": "saving a checkpoint",
    "stop": "saving, then stopping",
    "damp": "lowering its rate",
    "pause": "pausing",
    "continue": "continuing",
    "set_mode": "taking a command",
    "set_rules": "taking new rules",
}
_ASKED: dict[CommandKind, str] = {
    "rollback": "roll back",
    "checkpoint": "save a checkpoint",
    "stop": "stop",
    "damp": "lower its rate",
    "pause": "pause",
    "continue": "continue",
    "set_mode": "set automatic action",
    "set_rules": "take new rules",
}
_HAPPENED: dict[EventKind, str] = {
    "rollback": "rolled back",
    "skip_data": "passes over odd data",
    "damp": "rate lowered",
    "halt": "halted",
    "resume": "resumed",
    "data_change": "new data",
    "resolution": "new resolution",
    "decay": "rate decays",
}
_ENDED = {
    "finished": "finished",
    "stopped": "stopped",
    "crashed": "crashed",
    "halted": "halted: waits for a person",
}


@dataclass(frozen=True, slots=True)
class Doing:
    text: str
    since_s: float | None = None
    """Since when, where that matters."""
    is_over: bool = False
    """It happened then, and does not last."""
    more: str = ""
    """What else is on its way, or happened lately; text of a run may be in it."""
    more_s: float | None = None
    """When that was."""


def doing(now: RunNow, about: Doings, now_s: float) -> Doing:
    """What a run does. about: its commands and newest event."""
    run = now.run
    if run.status != "running":
        return Doing(_ENDED[run.status], run.finished_s, is_over=run.status != "halted")
    if now.lamp == "silent":
        # it may train on, with nobody to hear it
        return Doing("silent", run.heartbeat_s)
    taken = [command for command in about.commands if command.state == "taken"]
    asked = [command for command in about.commands if command.state == "asked"]
    more, more_s = _more(asked, about, now_s)
    if taken:
        return Doing(_UNDER_WAY[taken[-1].kind], taken[-1].asked_s, False, more, more_s)
    paused_s = _paused_s(about)
    if paused_s is not None:
        return Doing("paused", paused_s, False, more, more_s)
    if now.step is None:
        return Doing("starting", run.created_s, False, more, more_s)
    if not more and run.mode != "on":
        more = "only shows what it would do" if run.mode == "advisory" else "automatic action off"
    return Doing(TRAINING, None, False, more, more_s)


def _more(asked: list[Command], about: Doings, now_s: float) -> tuple[str, float | None]:
    if asked:
        return f"asked to {_ASKED[asked[-1].kind]}", asked[-1].asked_s
    event = about.event
    if event is None or now_s - event.time_s > LATELY_S:
        return "", None
    return f"{_HAPPENED.get(event.kind, event.kind)} at step {event.step:,}", event.time_s


def _paused_s(about: Doings) -> float | None:
    """Since when a run is paused; None where it is not."""
    done = [c for c in about.commands if c.state == "done" and c.kind in ("pause", "continue")]
    if not done or done[-1].kind != "pause":
        return None
    paused_s = done[-1].answered_s or done[-1].asked_s
    # a new process begins without the pause of the one before
    return None if about.resumed_s is not None and about.resumed_s > paused_s else paused_s
