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
    level = level_for(sum(last - first + 1 for _, first, last in stretches), max_points)
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
    whole = joined(source.signal, parts, 0)
    bucket = whole.steps // level
    is_new = (np.diff(bucket) != 0) | (np.diff(whole.segments) != 0)
    # thinning all points takes buckets of this width or wider only if those are too many
    if 1 + int(is_new.sum()) <= max_points:
        return None
    return thinned_from(whole, max_points, level, always)[0]
