"""What a person is told: at the start what was found in the model, and what was left and why;
after a rollback what a trainer's own loop will not make up for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...platform.errors import MoescopeError
from .find_blocks import FoundBlocks
from .find_routers import Found

if TYPE_CHECKING:
    from .together import FollowingRun
    from .watched_run import WatchedRun

MOST_LEFT = 8


def found_lines(found: Found, blocks: FoundBlocks, compiled: str) -> Iterator[str]:
    """Lines about routers, blocks and what is not watched. compiled: which part of the model is, or
    nothing."""
    if compiled:
        yield (
            f"{compiled} compiled, where hooks do not fire: loss, gradients and weights are "
            "watched, activations and routers are not (compile less, or nothing, to see them)"
        )
    elif found.routers:
        first = found.routers[0]
        chosen = f"{first.num_chosen} chosen" if first.num_chosen else "chosen ones to be counted"
        kinds = ", ".join(dict.fromkeys(type(router.module).__name__ for router in found.routers))
        yield (
            f"routers: {len(found.routers)} of {first.num_experts} experts, {chosen} ({kinds}): "
            f"{_names([router.name for router in found.routers])}"
        )
    else:
        yield "routers: none was found: loss, gradients, weights and activations are watched"
    if not compiled:
        yield f"blocks: {len(blocks.modules)}: {_names(blocks.names)}"
    for line in found.left[:MOST_LEFT]:
        yield f"left: {line}"
    if len(found.left) > MOST_LEFT:
        yield f"left: {len(found.left) - MOST_LEFT} more"


def refuse_no_more_steps(run: "WatchedRun | FollowingRun", num_steps: int) -> None:
    """Raises MoescopeError where a run that goes on has all its steps, of which a trainer would
    make one more."""
    if run.num_steps >= num_steps:
        run.finish()
        raise MoescopeError(
            f"run {run.name} is at step {run.num_steps} of {num_steps} already: ask for more steps"
        )


def tell_what_is_left(run: "WatchedRun | FollowingRun", planned: int, possible: int | None) -> None:
    """Says that a trainer's epochs end before it has made again the steps that were taken back.

    planned: steps from here to its end; possible: those until its epochs end, None for no end."""
    if possible is None or possible >= planned:
        return
    text = (
        f"the trainer counts its epochs and not its steps: they end after {possible} steps more, "
        f"{planned - possible} before those it was to make (resume it, or give it more epochs)"
    )
    run.tell(text)
    run.say_event("note", text, {"planned": planned, "possible": possible})


def _names(names: list[str] | tuple[str, ...]) -> str:
    if len(names) <= 3:
        return ", ".join(names) or "none"
    return f"{names[0]}, {names[1]}, ... {names[-1]}"
