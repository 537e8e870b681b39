"""The demo's data: three deliveries in sub-folders, the second corrupt, and nobody is told."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config import DataConfig
from .chance import share_of
from .make_clips import clip_name, make_clips
from .spoil_clips import spoil_clips


@dataclass(frozen=True, slots=True)
class Deliveries:
    """What was written, for the account that is given afterwards; training gets the folder and
    nothing else.
    """

    folder: Path
    num_clips: int
    first_spoiled_batch: int
    """Number of the first batch that holds a spoiled clip."""
    last_spoiled_batch: int
    num_batches: int
    """Batches of one pass through all deliveries."""


def make_demo_deliveries(
    folder: Path | str,
    data: DataConfig,
    seed: int = 0,
    *,
    clean_batches: int = 220,
    spoiled_batches: int = 45,
    last_batches: int = 130,
    size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Deliveries:
    """Writes part-1 (good), part-2 (spoiled) and part-3 (good), to be read with data.order
    `by_folder`.

    Each part gets as many clips as its number of batches needs with this batch, windows_per_clip
    and validation_share; whole clips only, so that a part may be up to windows_per_clip - 1 samples
    longer. Raises MoescopeError as make_clips does.
    """
    root = Path(folder).expanduser()
    wanted = {"part-1": clean_batches, "part-2": spoiled_batches, "part-3": last_batches}
    drawn = {
        part: -(-batches * data.batch // data.windows_per_clip) for part, batches in wanted.items()
    }
    counts = {part: _with_held_out(part, num, data) for part, num in drawn.items()}
    total, written = sum(counts.values()), 0
    for number, (part, count) in enumerate(counts.items()):

        def told(done: int, _: int, before: int = written) -> None:
            if progress is not None:
                progress(before + done, total)

        paths = make_clips(root / part, count, seed=seed * 3 + number, size=size, progress=told)
        written += count
        if part == "part-2":
            spoil_clips(paths, seed)
    first = drawn["part-1"] * data.windows_per_clip
    after = first + drawn["part-2"] * data.windows_per_clip
    every = sum(drawn.values()) * data.windows_per_clip
    return Deliveries(
        folder=root,
        num_clips=total,
        first_spoiled_batch=first // data.batch,
        last_spoiled_batch=(after - 1) // data.batch,
        num_batches=every // data.batch,
    )


def _with_held_out(part: str, num_training: int, data: DataConfig) -> int:
    """Returns how many clips a part needs so that num_training of them are not held out by their
    names.
    """
    count = found = 0
    while found < num_training:
        found += share_of(f"{part}/{clip_name(count)}") >= data.validation_share
        count += 1
    return count
