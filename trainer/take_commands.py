"""Commands of people and of the service, taken at a step boundary."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..monitors.going_back import HalfRestored, asked_step
from ..platform.errors import MoescopeError
from ..platform.records import Action, Command, Mode
from .rollback import carry_out
from .rules_of_a_run import set_rules

if TYPE_CHECKING:
    from .loop import Trainer

PAUSE_POLL_S = 0.2


def obey(trainer: "Trainer") -> None:
    """Takes what is asked of the run, and stays here while it is paused.

    Ends this trainer where another one has taken the run over, after this one could not beat.
    """
    if trainer.contact.replaced_by:
        trainer.progress.say(f"{trainer.contact.replaced_by} trains this run now: this one stops")
        trainer.stop()
        return
    _take_all(trainer)
    if trainer.is_paused:
        trainer.progress.say(
            f"step {trainer.state.step}: paused, waiting for the command to continue"
        )
    while trainer.is_paused and not trainer.is_stopping:
        time.sleep(PAUSE_POLL_S)
        _take_all(trainer)


def _take_all(trainer: "Trainer") -> None:
    for command in trainer.contact.commands():
        state: Literal["done", "refused"] = "done"
        try:
            answer = _take(trainer, command)
        except HalfRestored as broken:
            # no refusal: something was done, and by half
            trainer.contact.answer(command, "refused", str(broken))
            raise
        except (MoescopeError, ValueError, TypeError) as refusal:
            state, answer = "refused", str(refusal)
        trainer.contact.answer(command, state, answer)
        trainer.progress.say(f"command {command.kind} of {command.asked_by}: {state}: {answer}")


def _take(trainer: "Trainer", command: Command) -> str:
    args = command.args
    match command.kind:
        case "rollback":
            return _roll_back(trainer, command)
        case "checkpoint":
            trainer.settle()
            saved = trainer.keeper.save_now(trainer.state, trainer.segment.index)
            if saved is None:
                raise MoescopeError("the checkpoint could not be written: see the run's alerts")
            return f"checkpoint of step {saved.step} written"
        case "damp":
            scale, steps = _number(args, "scale", 0.5), int(_number(args, "steps", 50))
            if not 0 < scale < 1 or steps < 1:
                raise MoescopeError(
                    f"scale is {scale}, steps is {steps}: 0 < scale < 1 and steps >= 1"
                )
            reason = f"asked by {command.asked_by}"
            action = Action("damp", reason, learning_rate_scale=scale, for_steps=steps)
            return carry_out(trainer, action, is_automatic=False)
        case "pause":
            trainer.is_paused = True
            return f"paused at step {trainer.state.step}"
        case "continue":
            trainer.is_paused = False
            return f"continued at step {trainer.state.step}"
        case "set_mode":
            modes: dict[Any, Mode] = {mode: mode for mode in get_args(Mode)}
            mode = modes.get(args.get("mode"))
            if mode is None:
                raise MoescopeError(f"mode is {args.get('mode')!r}: allowed are {', '.join(modes)}")
            trainer.set_mode(mode)
            return f"automatic action is {mode}"
        case "set_rules":
            return set_rules(trainer, dict(args))
        case "stop":
            trainer.stop()
    return f"stops at step {trainer.state.step} after a checkpoint"


def _roll_back(trainer: "Trainer", command: Command) -> str:
    to_step = asked_step(trainer.keeper.checkpoints, command.args.get("to_step"))
    action = Action("rollback", f"asked by {command.asked_by}", to_step=to_step)
    return carry_out(trainer, action, is_automatic=False)


def _number(args: Mapping[str, Any], name: str, default: float) -> float:
    value = args.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MoescopeError(f"{name} is {value!r}: a number is expected")
    return float(value)
