"""Which clip is drawn when: a pure function of the clips, the configuration, the seed and the place
in the stream.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...platform.errors import MoescopeError
from ..config import DataConfig
from .chance import generator, share_of
from .clips import Clip

MOST_DRAWS = 50_000_000
"""Of one pass: its order is held in memory, with 8 bytes a draw."""


class DrawOrder:
    """Endless order of draws.

    shuffled: each pass draws every clip windows_per_clip times, in a new order. by_folder: a pass
    goes through the sub-folders as they were delivered and draws every clip of one windows_per_clip
    times, in random order, before the next one begins; after the last folder it starts again with
    the first, in a new order. Raises MoescopeError where a pass has more than MOST_DRAWS.
    """

    def __init__(self, clips: Sequence[Clip], data: DataConfig, seed: int) -> None:
        assert clips, "an order of no clips"
        self._clips = clips
        if len(clips) * data.windows_per_clip > MOST_DRAWS:
            raise MoescopeError(
                f"data.windows_per_clip is {data.windows_per_clip}: with {len(clips)} clips a pass "
                f"would have more than {MOST_DRAWS} draws: use {max(1, MOST_DRAWS // len(clips))}"
            )
        self._windows = data.windows_per_clip
        self._seed = seed
        names = [clip.folder if data.order == "by_folder" else "" for clip in clips]
        changes = [i for i in range(1, len(names)) if names[i] != names[i - 1]]
        # clip numbers at which a delivery begins, and the end of the last
        self._bounds = [0, *changes, len(clips)]
        self._permutation = lru_cache(maxsize=8)(self._shuffled)

    def draw(self, position: int) -> Clip:
        """Returns the clip of the position-th draw of the stream."""
        number, place = divmod(position, len(self._clips) * self._windows)
        part = (
            int(np.searchsorted(np.asarray(self._bounds) * self._windows, place, side="right")) - 1
        )
        first = self._bounds[part]
        drawn = self._permutation(number, part)[place - first * self._windows]
        return self._clips[first + int(drawn)]

    def _shuffled(self, number: int, part: int) -> NDArray[np.int64]:
        size = self._bounds[part + 1] - self._bounds[part]
        chance = generator(self._seed, f"part {part}", number, "order")
        return chance.permutation(np.repeat(np.arange(size), self._windows))


def split(clips: Sequence[Clip], share: float) -> tuple[list[Clip], list[Clip]]:
    """Splits clips into (for training, held out) by the hash of their names.

    A clip stays on its side when others come or go. Where a share is asked for, both sides get at
    least one of two or more clips. With a share of 0, or one clip, nothing is held out and the
    second list is empty.
    """
    if not share or len(clips) < 2:
        return list(clips), []
    by_hash = sorted(clips, key=lambda clip: share_of(clip.name))
    held_out = {clip.name for clip in by_hash if share_of(clip.name) < share}
    held_out = (held_out | {by_hash[0].name}) - {by_hash[-1].name}
    return (
        [clip for clip in clips if clip.name not in held_out],
        [clip for clip in by_hash if clip.name in held_out],
    )
