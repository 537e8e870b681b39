"""Commands of people to a watched run, taken after a step."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ...platform.errors import MoescopeError
from ...platform.records import Action, Command, Mode
from ..going_back import HalfRestored, asked_step
from ..rule_table import asked_versions, checked, said_changes, write_record
from .acting import carry_out

if TYPE_CHECKING:
    from .watched_run import WatchedRun

PAUSE_POLL_S = 0.2


def obey(run: "WatchedRun") -> Action | None:
    """Takes what is asked, and stays here while the run is paused; returns the last action that the
    loop must know of, a rollback before a damping."""
    found = _take_all(run)
    if run.is_paused:
        run.tell(f"step {run.state.step}: paused, waiting for the command to continue")
    while run.is_paused:
        time.sleep(PAUSE_POLL_S)
        found = _take_all(run) or found
    return found


def record_rules(run: "WatchedRun") -> None:
    """Writes what the run is judged by into its folder."""
    try:
        write_record(Path(run.folder), run.table)
    except OSError as error:
        run.tell(f"what rules hold cannot be recorded: {error.strerror}")


def _take_all(run: "WatchedRun") -> Action | None:
    found = None
    for command in run.contact.commands():
        state: Literal["done", "refused"] = "done"
        try:
            answer, action = _take(run, command)
            if action is not None and (found is None or action.kind != "damp"):
                # of several the loop is told of the one that it has to mind
                found = action
        except HalfRestored as broken:
            # no refusal: something was done, and by half
            run.contact.answer(command, "refused", str(broken))
            raise
        except (MoescopeError, ValueError, TypeError) as refusal:
            state, answer = "refused", str(refusal)
        run.contact.answer(command, state, answer)
        run.tell(f"command {command.kind} of {command.asked_by}: {state}: {answer}")
    return found


def _take(run: "WatchedRun", command: Command) -> tuple[str, Action | None]:
    args, reason = command.args, f"asked by {command.asked_by}"
    match command.kind:
        case "rollback":
            action = carry_out(run, _rollback(run, command, reason), is_automatic=False)
            return f"went back to step {action.to_step}", action
        case "checkpoint":
            return _checkpoint(run), None
        case "damp":
            scale, steps = _number(args, "scale", 0.5), int(_number(args, "steps", 50))
            if not 0 < scale < 1 or steps < 1:
                raise MoescopeError(
                    f"scale is {scale}, steps is {steps}: 0 < scale < 1 and steps >= 1"
                )
            asked = Action("damp", reason, learning_rate_scale=scale, for_steps=steps)
            carry_out(run, asked, is_automatic=False)
            return f"learning rate x{scale:g} for {steps} steps", asked
        case "pause":
            run.is_paused = True
            return f"paused at step {run.state.step}", None
        case "continue":
            run.is_paused = False
            return f"continued at step {run.state.step}", None
        case "set_mode":
            return _set_mode(run, args.get("mode")), None
        case "set_rules":
            return _set_rules(run, args), None
        case "stop":
            run.is_paused = False
            asked = Action("halt", reason)
            run.end_with(asked, "stopped")
            return f"the loop is told to stop at step {run.state.step}", asked


def _checkpoint(run: "WatchedRun") -> str:
    if run.keeper is None:
        raise MoescopeError(f"run {run.name} keeps no states: give watch() its state=")
    if not run.keeper.is_on_disk:
        raise MoescopeError(f"run {run.name} keeps its states in memory alone: watch it on_disk")
    saved = run.keeper.save_now(run.state, run.segment.index)
    if saved is None:
        raise MoescopeError("the checkpoint could not be written: see the run's alerts")
    return f"checkpoint of step {saved.step} written"


def _rollback(run: "WatchedRun", command: Command, reason: str) -> Action:
    if run.keeper is None:
        raise MoescopeError(f"run {run.name} keeps no states: give watch() its state=")
    to_step = asked_step(run.keeper.checkpoints, command.args.get("to_step"))
    return Action("rollback", reason, to_step=to_step)


def _set_mode(run: "WatchedRun", wanted: Any) -> str:
    modes: dict[Any, Mode] = {mode: mode for mode in get_args(Mode)}
    mode = modes.get(wanted)
    if mode is None:
        raise MoescopeError(f"mode is {wanted!r}: allowed are {', '.join(modes)}")
    if mode == "on" and run.keeper is None:
        raise MoescopeError(f"run {run.name} keeps no states, so it is not acted: give state=")
    run.mode = mode
    run.contact.set_mode(mode)
    text = f"automatic action is {mode}"
    run.say_event("note", text, {})
    return text


def _set_rules(run: "WatchedRun", args: Mapping[str, Any]) -> str:
    versions = asked_versions(args.get("versions", ()), run.id)
    table = run.table.overlaid(versions)
    rules = table.rules()
    checked(rules, run.certify_after_steps)
    run.state.judge = run.state.judge.with_rules(rules)
    run.table = table
    done = said_changes(versions, rules)
    run.say_event("note", done, {"by": [version.changed_by for version in versions]})
    record_rules(run)
    return done


def _number(args: Mapping[str, Any], name: str, default: float) -> float:
    value = args.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MoescopeError(f"{name} is {value!r}: a number is expected")
    return float(value)
