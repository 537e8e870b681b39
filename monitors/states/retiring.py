"""Which states stay on disk: by age, then by quota."""

from collections.abc import Sequence

from ...platform.records import Checkpoint


def steps_to_keep(checkpoints: Sequence[Checkpoint], delay: int, num_certified: int) -> set[int]:
    """Returns the steps that stay on disk: the newest, every fresh one, and certified ones aged
    about delay * 4**i."""
    if not checkpoints:
        return set()
    newest = max(c.step for c in checkpoints)
    kept = {newest} | {c.step for c in checkpoints if c.health == "fresh"}
    certified = [c.step for c in checkpoints if c.health == "certified"]
    for i in range(num_certified if certified else 0):
        wanted = newest - delay * 4**i
        kept.add(min(certified, key=lambda step: (abs(step - wanted), -step)))
    return kept | set(certified[-1:])


def steps_within(checkpoints: Sequence[Checkpoint], kept: set[int], quota: float) -> set[int]:
    """Returns those of the steps `kept` that fit into `quota` bytes; the oldest go first.

    Two always stay, whatever they take, and among them the newest and the way back: the newest
    certified state, or the oldest that is not tainted while none is certified.

    checkpoints: what is on disk, oldest first.
    """
    kept = set(kept)
    total = sum(c.num_bytes for c in checkpoints if c.step in kept)
    way_back = [c.step for c in checkpoints if c.health == "certified"][-1:] or [
        c.step for c in checkpoints if c.health != "tainted"
    ][:1]
    held = {*way_back, *(c.step for c in checkpoints[-1:])}
    for checkpoint in checkpoints:
        if total <= quota or len(kept) <= 2:
            break
        if checkpoint.step in kept - held:
            kept.discard(checkpoint.step)
            total -= checkpoint.num_bytes
    return kept
