"""What rollbacks of ours and of watched trainers have in common: where to, and how it is told."""

import time
from collections.abc import Sequence
from typing import Any

from ..platform.errors import MoescopeError
from ..platform.records import Action, Checkpoint, Segment


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
