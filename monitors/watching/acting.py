"""Carries out on a watched training what the policy or a person decided."""

from typing import TYPE_CHECKING

from ...platform.records import Action, Checkpoint
from ..going_back import go_back
from ..judge import Judgement
from ..policy import ADVISED
from ..states.keeping import NoUsableState

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
    step that was really gone back to.

    Where no state is left to go back to, an automatic rollback becomes a halt. One that a person
    asked for raises NoUsableState then, and neither the training nor the policy knows of it.
    """
    if action.kind == "carry_on":
        return action
    if action.kind == "rollback":
        return _roll_back(run, action, is_automatic)
    step = run.state.step
    # before it takes effect: a crash in the middle must not give the budget back
    run.policy.note(
        action, step, run.state.batch, is_automatic=is_automatic, segment=run.segment.index
    )
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


def _roll_back(run: "WatchedRun", action: Action, is_automatic: bool) -> Action:
    assert run.keeper is not None, action
    from_step = run.state.step
    try:
        gone = go_back(run, run.keeper, action, is_automatic=is_automatic, misfit=run.state.misfit)
    except NoUsableState as error:
        if not is_automatic:
            raise
        reason = f"halt: {error}; it was to {action.reason}"
        return carry_out(run, Action("halt", reason, action.alert_id))
    if action.learning_rate_scale != 1.0:
        run.damping.start(action.learning_rate_scale, action.for_steps)
    run.say_event("rollback", gone.text, gone.details)
    run.tell(f"step {from_step}: {gone.text}: {action.reason}")
    return gone.action
