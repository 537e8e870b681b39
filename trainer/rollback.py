"""Carries out what the policy or a person decided: skip data, damp, roll back, halt."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ..monitors.going_back import rollback_told, segment_after
from ..platform.errors import MoescopeError
from ..platform.records import Action
from .vetting import start_vetting

if TYPE_CHECKING:
    from .loop import Trainer


def carry_out(trainer: "Trainer", action: Action, *, is_automatic: bool = True) -> str:
    """Carries the action out at a step boundary and returns in words what was done.

    Where no state is left to go back to, an automatic rollback becomes a halt. One that a person
    asked for raises MoescopeError then, and neither the training nor the policy knows of it.
    """
    state = trainer.state
    if action.kind == "carry_on":
        return ""
    if action.kind == "rollback":
        return _roll_back(trainer, action, is_automatic)
    _note(trainer, action, is_automatic)
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


def _note(trainer: "Trainer", action: Action, is_automatic: bool) -> None:
    """Remembers the action before it takes effect: a crash in the middle must not give the budget
    back."""
    trainer.policy.note(
        action,
        trainer.state.step,
        trainer.state.batch,
        is_automatic=is_automatic,
        segment=trainer.segment.index,
    )


def _roll_back(trainer: "Trainer", action: Action, is_automatic: bool) -> str:
    """Restores everything that computes and opens a new segment; what must remember stays as it
    is."""
    assert action.to_step is not None, action
    state, from_step, from_batch = trainer.state, trainer.state.step, trainer.state.batch
    start_s = time.perf_counter()
    try:
        saved, checkpoint, source = trainer.keeper.load(action.to_step)
    except MoescopeError as error:
        if not is_automatic:
            raise
        reason = f"halt: {error}; it was to {action.reason}"
        return carry_out(trainer, Action("halt", reason, action.alert_id))
    # only now: the state that could be read may be an older one, and the run goes to that
    _note(trainer, replace(action, to_step=checkpoint.step), is_automatic)
    trainer.forget_pending()
    state.restore(saved)
    took_s = time.perf_counter() - start_s
    trainer.keeper.drop_after(checkpoint.step)
    trainer.open_segment(segment_after(checkpoint, trainer.segment.index + 1, action))
    start_vetting(trainer, action)
    if action.learning_rate_scale != 1.0:
        state.damp_scale = action.learning_rate_scale
        state.damp_until = state.step + action.for_steps
    done, details = rollback_told(action, checkpoint, from_step, from_batch, source, took_s)
    trainer.say_event("rollback", done, {**details, "step_s": trainer.median_step_s()})
    trainer.progress.say(f"step {from_step}: {done}: {action.reason}")
    return done
