"""Data in deliveries: sub-folders that are read one after the other, some of them with other clips
than the rest, and nobody is told. The demo's are three, the second corrupt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config import DataConfig
from .chance import share_of
from .make_clips import clip_name, make_clips
from .spoil_clips import spoil_clips

Rewrite = Callable[[list[Path], int], object]
"""What becomes of a delivery's clips once they are made: called with their paths and the seed."""


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
    `by_folder`; see `make_deliveries`.
    """
    wanted = {"part-1": clean_batches, "part-2": spoiled_batches, "part-3": last_batches}
    counts = make_deliveries(
        folder, wanted, data, seed, {"part-2": spoil_clips}, size=size, progress=progress
    )
    drawn = {part: num_clips_for(num, data) * data.windows_per_clip for part, num in wanted.items()}
    first = drawn["part-1"]
    return Deliveries(
        folder=Path(folder).expanduser(),
        num_clips=sum(counts.values()),
        first_spoiled_batch=first // data.batch,
        last_spoiled_batch=(first + drawn["part-2"] - 1) // data.batch,
        num_batches=sum(drawn.values()) // data.batch,
    )


def make_deliveries(
    folder: Path | str,
    wanted: Mapping[str, int],
    data: DataConfig,
    seed: int = 0,
    rewritten: Mapping[str, Rewrite] | None = None,
    *,
    size: int = 64,
    duration_s: float = 2.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Writes a sub-folder for each of `wanted`, {name: batches}, to be read with data.order
    `by_folder`. Returns {name: clips written}.

    Each gets as many clips as its number of batches needs with this batch, windows_per_clip and
    validation_share; whole clips only, so that it may be up to windows_per_clip - 1 samples longer.
    rewritten: {name: what becomes of its clips}. Raises MoescopeError as make_clips does.
    """
    root = Path(folder).expanduser()
    counts = {
        part: _with_held_out(part, num_clips_for(num, data), data) for part, num in wanted.items()
    }
    total, written = sum(counts.values()), 0
    for number, (part, count) in enumerate(counts.items()):

        def told(done: int, _: int, before: int = written) -> None:
            if progress is not None:
                progress(before + done, total)

        paths = make_clips(
            root / part,
            count,
            seed=seed * len(counts) + number,
            size=size,
            duration_s=duration_s,
            progress=told,
        )
        written += count
        if rewritten is not None and part in rewritten:
            rewritten[part](paths, seed)
    return counts


def num_clips_for(num_batches: int, data: DataConfig) -> int:
    """Returns how many clips so many batches need."""
    return -(-num_batches * data.batch // data.windows_per_clip)


def _with_held_out(part: str, num_training: int, data: DataConfig) -> int:
    """Returns how many clips a part needs so that num_training of them are not held out by their
    names.
    """
    count = found = 0
    while found < num_training:
        found += share_of(f"{part}/{clip_name(count)}") >= data.validation_share
        count += 1
    return count
