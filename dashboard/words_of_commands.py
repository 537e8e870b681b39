"""Commands in words: what one will do, and how far it has come; pure."""

from dataclasses import dataclass

from ..platform.claims import how_to_go_on
from ..platform.records import Command, CommandKind, CommandState, Mode
from .reads import RunNow
from .states_of_a_run import SavedState
from .words import age, number, plain, plain_with_code

MODES: dict[Mode, str] = {
    "on": "It skips data, damps or rolls back by itself, within its budget.",
    "advisory": "It decides and shows what it would do, and does nothing.",
    "off": "It only alerts.",
}
NAMES: dict[CommandKind, str] = {
    "rollback": "roll back",
    "checkpoint": "save a checkpoint",
    "damp": "damp the learning rate",
    "pause": "pause",
    "continue": "continue",
    "set_mode": "set automatic action",
    "set_rules": "change rules",
    "stop": "stop",
}
_WHEN = "The trainer does it between two steps and answers under **What was asked**."
_LATE_S = 60.0
"""After so long without an answer a beating trainer is said to be late."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One station on a command's way."""

    state: CommandState
    words: str
    """Who, or how long it took; empty where nothing is known but that it was reached."""


def in_words(command: Command) -> str:
    """A command and its arguments, as Markdown."""
    name = NAMES.get(command.kind, command.kind)
    versions = command.args.get("versions")
    if command.kind == "set_rules" and isinstance(versions, list):
        rules = ", ".join(str(version.get("name", "")) for version in versions)
        return f"{name} ({plain(rules, 80)})"
    args = ", ".join(
        f"{key.replace('_', ' ')} {number(value) if isinstance(value, float) else value}"
        for key, value in command.args.items()
        if value is not None
    )
    return f"{name} ({plain(args, 80)})" if args else name


def way(command: Command, now_s: float) -> list[Stage]:
    """The stations that a command has reached: asked, taken, done or refused."""
    asked = f"by {plain(command.asked_by, 40)}, {age(now_s - command.asked_s)} ago"
    stages = [Stage("asked", asked)]
    if command.state == "asked":
        return stages
    stages.append(Stage("taken", ""))
    if command.state in ("done", "refused"):
        took = ""
        if command.answered_s is not None:
            took = f"{took_in_words(command.answered_s - command.asked_s)} after it was asked"
        stages.append(Stage(command.state, took))
    return stages


def took_in_words(seconds: float) -> str:
    """A short duration with a digit more than an age has; clocks may differ by a little."""
    return f"{max(0.0, seconds):.1f} s" if seconds < 10 else age(seconds)


def why_no_answer(command: Command, now: RunNow, now_s: float, is_paused: bool = False) -> str:
    """What a person should know of a command that was not answered yet; empty of another one."""
    if command.state not in ("asked", "taken"):
        return ""
    waited_s = now_s - command.asked_s
    waited = f"Asked {age(waited_s)} ago, no answer"
    if not now.is_live:
        return f"{waited}: the run has {now.run.status}. It is taken if the run is resumed."
    beat = age(now.heartbeat_age_s)
    if now.lamp == "silent":
        return (
            f"{waited}: the trainer is silent, its last heartbeat is {beat} old. It is taken when "
            "the trainer is back, or by the process that resumes the run."
        )
    if command.state == "taken":
        return f"{waited} yet: the trainer has taken it and is at it; it beats, {beat} ago."
    step = f" of about {age(now.step_time_s)}" if now.step_time_s and now.step_time_s >= 2 else ""
    if waited_s < max(_LATE_S, 3 * (now.step_time_s or 0.0)):
        at = "at once, as it stands" if is_paused else f"at the end of its step{step}"
        return f"{waited} yet: the trainer beats, {beat} ago, and takes it {at}."
    return (
        f"{waited}: the trainer beats, {beat} ago, but reaches no end of a step. It waits for "
        "data, writes clips or a checkpoint, or hangs."
    )


def will_do(kind: CommandKind, now: RunNow, *, scale: float = 0.5, steps: int = 50) -> str:
    """What a command will do, said before it is asked. scale, steps: of damp."""
    name = f"**{plain(now.run.name)}**"
    is_watched = "watched" in now.run.config
    match kind:
        case "checkpoint":
            said = f"{name} writes its whole state to its disk after the present step."
        case "damp":
            until = "" if now.step is None else f" (to about step {now.step + 1 + steps:,})"
            said = (
                f"{name} trains {steps:,} steps{until} with {number(scale)} times its learning "
                "rate, then with the whole of it again by itself. A damping that still holds is "
                "replaced."
            )
        case "pause":
            said = (
                f"{name} stands still after the present step. It keeps its device, its memory and "
                "its heartbeat until it is continued or stopped; after 15 minutes an alert says "
                "that it stands."
            )
        case "continue":
            said = f"{name} goes on from where it stands; nothing is lost by the pause."
        case "stop" if is_watched:
            said = (
                f"The loop of {name} is told to stop after the present step; what it saves is its "
                "own affair. Its script goes on with it by `resume=True`."
            )
        case "stop":
            said = (
                f"{name} ends after the present step, with a checkpoint, and frees its device; "
                f"{plain_with_code(how_to_go_on(now.run))}."
            )
        case _:
            raise ValueError(f"{kind} is not one of what is said here")
    return f"{said} {_WHEN}"


def rollback_in_words(now: RunNow, state: SavedState | None) -> str:
    """What a rollback will do. state: None lets the trainer take its newest certified one."""
    name = f"**{plain(now.run.name)}**"
    if state is None:
        to, given_up = "its newest certified state, in memory or on disk", ""
        if now.step is not None:
            given_up = " and gives up the steps since"
    else:
        health = state.health or "which the trainer knows the health of"
        to = f"its state of step {state.step:,} ({health})"
        num = 0 if now.step is None else max(0, now.step + 1 - state.step)
        given_up = f" and gives up the {num:,} steps since" if now.step is not None else ""
    return (
        f"{name} goes back to {to}{given_up}. Weights, optimizer, averages, schedule, randomness, "
        "data position and router biases return to that moment. The steps given up stay visible as "
        f"an abandoned branch; alerts stay too. {_WHEN}"
    )


def why_not(now: RunNow) -> str:
    """Why nobody would take a command at the moment; empty where somebody would."""
    if not now.is_live:
        return f"The run has {now.run.status}; there is no trainer that could take a command."
    if now.lamp == "silent":
        return (
            f"The last heartbeat is {age(now.heartbeat_age_s)} old, so nobody would take a command."
        )
    return ""


def mode_in_words(mode: Mode, now: RunNow) -> str:
    """What it means to set automatic action so."""
    means = {
        "on": f"**{plain(now.run.name)}** may skip data, damp or roll back by itself from the next "
        "step on, within its budget.",
        "advisory": f"**{plain(now.run.name)}** decides and shows what it would do, and does "
        "nothing by itself from the next step on.",
        "off": f"**{plain(now.run.name)}** only raises alerts from the next step on; nobody judges "
        "what to do.",
    }
    return f"{means[mode]} {_WHEN}"
