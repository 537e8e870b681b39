"""A long stretch of a scalar, thinned out of roll-ups: the points that thinning all of it would
keep.
"""

from collections.abc import Sequence

import numpy as np

from ..engines import Database
from ..packing import WHOLE
from ..records import Series
from ..stretches import joined, stretch
from ..thinning import thinned_from
from .buckets import kept_points, read_scalar_buckets
from .codec import WINDOW
from .reading import Source
from .rollup_reading import Steps, level_for, walk


def thinned_out_of_rollups(
    database: Database,
    source: Source,
    stretches: Sequence[tuple[int, int, int]],
    max_points: int,
    always: Sequence[int],
) -> Series | None:
    """The thinned series; None where it is so short, or so sparse, that its points must be read.

    stretches: (segment, first step, last step). always: steps that are kept.
    """
    # of a bucket mostly two points are kept
    num_steps = sum(last - first + 1 for _, first, last in stretches)
    level = level_for(num_steps, max_points // 2)
    if level is None:
        return None
    named = {step // WINDOW for step in always}
    parts: list[Series] = []
    for segment, first, last in stretches:
        for piece in walk(database, source, WHOLE, (segment, first, last), level, named):
            if isinstance(piece, Steps):
                rows = [WHOLE]
                span = piece.first, piece.last
                parts += stretch(database, source, segment, *span, rows, False)
                continue
            records = read_scalar_buckets(piece.windows, piece.data)
            steps, times_s, values = kept_points(*records)
            here = np.full(len(steps), segment, np.int32)
            parts.append(Series(source.signal, here, steps, times_s, values))
    found, width = thinned_from(joined(source.signal, parts, 0), max_points, level, always)
    # with buckets of half the width there are no fewer points, so thinning all of them would have
    # come here too; where the level itself was enough, half of it might have been
    return found if width > level else None
