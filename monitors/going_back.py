"""What rollbacks of ours and of watched trainers have in common: where to, in which order, and how
it is told."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from ..platform.errors import MoescopeError
from ..platform.records import Action, Checkpoint, Segment
from .policy import Policy
from .states.keeping import Keeper, NoUsableState


class HalfRestored(MoescopeError):
    """A state was not put back as a whole: the training is between two states and must not go on.
    Nobody may pass it over."""


class Computes(Protocol):
    """What a rollback restores."""

    @property
    def step(self) -> int: ...
    @property
    def batch(self) -> int: ...
    def restore(self, state: Any, /) -> None: ...


class GoesBack(Protocol):
    """A training that can go back."""

    @property
    def state(self) -> Computes: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def segment(self) -> Segment: ...
    def forget_pending(self) -> None: ...
    def open_segment(self, segment: Segment, /) -> None: ...


class Gone(NamedTuple):
    """A rollback that was carried out."""

    action: Action
    """With the step that was really gone back to."""
    text: str
    details: Mapping[str, Any]
    """Of the event."""


def go_back(
    training: GoesBack,
    keeper: Keeper,
    action: Action,
    *,
    is_automatic: bool,
    misfit: Callable[[Any], str] = lambda saved: "",
) -> Gone:
    """Restores everything that computes and opens a new segment; what must remember stays as it
    is.

    misfit: says why a state that was read cannot be put back, before anything is touched. Raises
    NoUsableState there and where no state is left to go back to, and neither the training nor the
    policy knows of it then; HalfRestored where the state was read and is not put back.
    """
    assert action.to_step is not None, action
    state, from_step, from_batch = training.state, training.state.step, training.state.batch
    start_s = time.perf_counter()
    saved, checkpoint, source = keeper.load(action.to_step)
    if why := misfit(saved):
        raise NoUsableState(f"the state of step {checkpoint.step} cannot be put back: {why}")
    # the state that could be read may be an older one, and the run goes to that
    action = replace(action, to_step=checkpoint.step)
    # remembered before it takes effect: a crash in the middle must not give the budget back
    training.policy.note(
        action,
        from_step,
        from_batch,
        is_automatic=is_automatic,
        segment=training.segment.index,
    )
    training.forget_pending()
    put_back(
        state,
        saved,
        f"the training is between step {from_step} and step {checkpoint.step} and cannot go on: "
        "end it, and resume it from its states on disk",
    )
    took_s = time.perf_counter() - start_s
    keeper.drop_after(checkpoint.step)
    training.open_segment(segment_after(checkpoint, training.segment.index + 1, action))
    return Gone(action, *rollback_told(action, checkpoint, from_step, from_batch, source, took_s))


def put_back(state: Computes, saved: Any, else_told: str) -> None:
    """Restores a state. Raises HalfRestored, on whatever error, with the words `else_told`."""
    try:
        state.restore(saved)
    except Exception as error:
        why = str(error) if isinstance(error, MoescopeError) else f"{type(error).__name__}: {error}"
        raise HalfRestored(f"{why}; so {else_told}") from error


def asked_step(checkpoints: Sequence[Checkpoint], wanted: Any) -> int:
    """The step that a person asks for; the newest certified one for None. Raises MoescopeError
    where there is none such."""
    if wanted is None:
        certified = [c.step for c in checkpoints if c.health == "certified"]
        if not certified:
            raise MoescopeError("there is no certified checkpoint yet: name a step")
        wanted = certified[-1]
    steps = [c.step for c in checkpoints]
    if int(wanted) not in steps:
        raise MoescopeError(f"there is no checkpoint of step {wanted}: there are {steps}")
    return int(wanted)


def segment_after(checkpoint: Checkpoint, index: int, action: Action) -> Segment:
    """The segment that begins, as number `index` of its run, where a checkpoint was restored."""
    return Segment(
        checkpoint.run_id,
        index,
        checkpoint.step,
        "rollback",
        time.time(),
        parent_segment=checkpoint.segment,
        parent_step=checkpoint.step - 1,
        alert_id=action.alert_id,
    )


def rollback_told(
    action: Action,
    checkpoint: Checkpoint,
    from_step: int,
    from_batch: int,
    source: str,
    took_s: float,
) -> tuple[str, dict[str, Any]]:
    """Text and details of the event. source: "memory" or "disk"."""
    text = (
        f"went back from step {from_step} to {checkpoint.step} "
        f"({checkpoint.health}, from {source}, {took_s * 1000:.0f} ms)"
    )
    details = {
        "from_step": from_step,
        "to_step": checkpoint.step,
        "from_batch": from_batch,
        "to_batch": checkpoint.batch,
        "alert_id": action.alert_id,
        "reason": action.reason,
        "source": source,
        "health": checkpoint.health,
        "took_s": took_s,
    }
    return text, details
