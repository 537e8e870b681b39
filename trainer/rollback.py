"""Carries out what the policy or a person decided: skip data, damp, roll back, halt."""

from typing import TYPE_CHECKING

from ..monitors.going_back import go_back
from ..monitors.states.keeping import NoUsableState
from ..platform.records import Action
from .vetting import start_vetting

if TYPE_CHECKING:
    from .loop import Trainer


def carry_out(trainer: "Trainer", action: Action, *, is_automatic: bool = True) -> str:
    """Carries the action out at a step boundary and returns in words what was done.

    Where no state is left to go back to, an automatic rollback becomes a halt. One that a person
    asked for raises NoUsableState then, and neither the training nor the policy knows of it.
    """
    state = trainer.state
    if action.kind == "carry_on":
        return ""
    if action.kind == "rollback":
        return _roll_back(trainer, action, is_automatic)
    # before it takes effect: a crash in the middle must not give the budget back
    trainer.policy.note(
        action, state.step, state.batch, is_automatic=is_automatic, segment=trainer.segment.index
    )
    if action.kind == "skip_data":
        start_vetting(trainer, action)
        done = f"data is vetted from batch {action.vet_from_batch} on"
        trainer.say_event("skip_data", done, {"reason": action.reason})
    elif action.kind == "damp":
        state.damp_scale = action.learning_rate_scale
        state.damp_until = state.step + action.for_steps
        done = f"learning rate x{action.learning_rate_scale} for {action.for_steps} steps"
        trainer.say_event("damp", done, {"reason": action.reason})
    else:
        assert action.kind == "halt", action
        done = f"halted at step {state.step}: {action.reason}"
        trainer.say_event("halt", done, {})
        trainer.halt(action.reason)
    trainer.progress.say(f"step {state.step}: {done} ({action.reason})")
    return done


def _roll_back(trainer: "Trainer", action: Action, is_automatic: bool) -> str:
    from_step = trainer.state.step
    try:
        gone = go_back(trainer, trainer.keeper, action, is_automatic=is_automatic)
    except NoUsableState as error:
        if not is_automatic:
            raise
        reason = f"halt: {error}; it was to {action.reason}"
        return carry_out(trainer, Action("halt", reason, action.alert_id))
    start_vetting(trainer, action)
    if action.learning_rate_scale != 1.0:
        trainer.state.damp_scale = action.learning_rate_scale
        trainer.state.damp_until = trainer.state.step + action.for_steps
    trainer.say_event("rollback", gone.text, {**gone.details, "step_s": trainer.median_step_s()})
    trainer.progress.say(f"step {from_step}: {gone.text}: {action.reason}")
    return gone.text
