"""Carries out on a watched training what the policy or a person decided."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ...platform.errors import MoescopeError
from ...platform.records import Action, Checkpoint
from ..going_back import rollback_told, segment_after
from ..judge import Judgement
from ..policy import ADVISED

if TYPE_CHECKING:
    from .watched_run import WatchedRun


def decide(run: "WatchedRun", judgement: Judgement, *, is_ended: bool) -> Action:
    """Stamps the states that are kept, asks the policy and carries out its answer.

    is_ended: whether the loop was told to halt, after which nothing more is done."""
    keeper, checkpoints = run.keeper, list[Checkpoint]()
    if keeper is not None:
        keeper.stamp(run.policy.certify(judgement.step, keeper.checkpoints, judgement))
        checkpoints = keeper.checkpoints
    action = run.policy.decide(
        step=judgement.step,
        batch=run.state.batch,
        judgement=judgement,
        checkpoints=checkpoints,
        mode="off" if is_ended else run.mode,
    )
    if action.reason.startswith(ADVISED):
        run.say_event("note", action.reason, {"alert_id": action.alert_id})
        run.tell(f"step {judgement.step}: {action.reason}")
    return carry_out(run, action)


def carry_out(run: "WatchedRun", action: Action, *, is_automatic: bool = True) -> Action:
    """Does what is ours to do, and returns the action as the loop is told it: a rollback with the
    step that was really gone back to."""
    if action.kind == "carry_on":
        return action
    step = run.state.step
    # remembered before it starts: a crash in the middle must not give the budget back
    run.policy.note(action, step, run.state.batch, is_automatic=is_automatic)
    if action.kind == "rollback":
        return _roll_back(run, action)
    if action.kind == "damp":
        run.damping.start(action.learning_rate_scale, action.for_steps)
        done = f"learning rate x{action.learning_rate_scale:g} for {action.for_steps} steps"
        run.say_event("damp", done, {"reason": action.reason})
    elif action.kind == "skip_data":
        done = "the loop is asked to look at its next batches"
        run.say_event("skip_data", done, {"reason": action.reason})
    else:
        done = "halted"
        run.end_with(action, "halted")
    run.tell(f"step {step}: {done} ({action.reason})")
    return action


def _roll_back(run: "WatchedRun", action: Action) -> Action:
    keeper, state = run.keeper, run.state
    assert keeper is not None, action
    assert action.to_step is not None, action
    from_step, from_batch = state.step, state.batch
    run.forget_pending()
    start_s = time.perf_counter()
    try:
        saved, checkpoint, source = keeper.load(action.to_step)
    except MoescopeError as gone:
        halt = Action("halt", f"halt: {gone}", action.alert_id)
        run.end_with(halt, "halted")
        run.tell(f"step {from_step}: {halt.reason}")
        return halt
    state.restore(saved)
    took_s = time.perf_counter() - start_s
    keeper.drop_after(checkpoint.step)
    run.open_segment(segment_after(checkpoint, run.segment.index + 1, action))
    if action.learning_rate_scale != 1.0:
        run.damping.start(action.learning_rate_scale, action.for_steps)
    done, details = rollback_told(action, checkpoint, from_step, from_batch, source, took_s)
    run.say_event("rollback", done, details)
    run.tell(f"step {from_step}: {done}: {action.reason}")
    return replace(action, to_step=checkpoint.step)
