"""Signals by buckets, read once and from then on only at their ends, for all viewers together.

A closed bucket never changes, so what is known stays; a look at a run that has not moved reads
nothing but where its signals end.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
import streamlit as st

from ..platform.compacted.reading import Source
from ..platform.matrices import bands_of, bucket_width, joined_bands, narrowed
from ..platform.records import Bands
from ..platform.store import Store
from .window import selected

Piece = tuple[int, int, int]
"""(segment, first step, last step)"""

MOST_KEPT = 1500
_EVERY_STEP_UP_TO = {0: 16_384, 1: 4_096, 2: 4_096}
"""{dimensions: steps} of a picture whose points are read one by one, so that a sparse signal's
stand where they were measured; they would be read so anyway."""
_ALIGNED = 256
"""A range that moves with the newest step begins at a multiple of so many, to be found again."""


@dataclass(slots=True)
class _Kept:
    lock: threading.Lock = field(default_factory=threading.Lock)
    bands: Bands | None = None
    until: int = -1
    """The signal's last step in this segment when it was read."""


class KeptBands:
    """What was read of a store; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], _Kept] = OrderedDict()

    def read(
        self, store: Store, run_id: str, source: Source, pieces: list[Piece], most: int,
        row: int | None,
    ) -> Bands:  # fmt: skip
        """Reads pieces of a signal in at most about `most` buckets of one width.

        The result's width is a power of two, in steps; sparse signals have 1 as long as the
        pictures are short.
        """
        ends = {segment: (first, last) for segment, first, last, _ in source.spans}
        inside = [
            (s, max(first, ends[s][0]), min(last, ends[s][1]))
            for s, first, last in pieces
            if s in ends
        ]
        inside = [piece for piece in inside if piece[1] <= piece[2]]
        width = bucket_width(inside, most)
        num_steps = sum(last - first + 1 for _, first, last in inside)
        is_step_by_step = num_steps <= _EVERY_STEP_UP_TO[source.num_dimensions]
        read_width = 1 if is_step_by_step else width
        parts = [
            self._piece(store, run_id, source, piece, ends[piece[0]][1], read_width, row)
            for piece in inside
        ]
        bands = joined_bands(source.signal, parts)
        if bands.width < width and len(bands.steps) > most:
            bands = narrowed(bands, width)
        return bands

    def _piece(
        self,
        store: Store,
        run_id: str,
        source: Source,
        piece: Piece,
        end: int,
        width: int,
        row: int | None,
    ) -> Bands:
        segment, first, last = piece
        # a range that moves with the newest step is short enough to be read step by step
        begin = first // _ALIGNED * _ALIGNED if width == 1 else first
        key = (run_id, source.signal, row, segment, begin, None if last >= end else last, width)
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        with kept.lock:
            if kept.bands is None or kept.until != min(end, last):
                kept.bands = _brought_up(store, source, kept, (segment, begin, last), width, row)
                kept.until = min(end, last)
            bands = kept.bands
        return bands if begin == first else selected(bands, bands.steps >= first)


def _brought_up(
    store: Store, source: Source, kept: _Kept, piece: Piece, width: int, row: int | None
) -> Bands:
    segment, first, last = piece
    known = kept.bands
    if known is None or not len(known.steps) or known.width != width:
        return bands_of(store, source, [piece], width, row)
    # the last bucket may have been open
    again = int(known.steps[-1])
    new = bands_of(store, source, [(segment, max(first, again), last)], width, row)
    if new.width != known.width or new.low.shape[1] != known.low.shape[1]:
        return bands_of(store, source, [piece], width, row)
    closed = selected(known, np.arange(len(known.steps)) < len(known.steps) - 1)
    return joined_bands(source.signal, [closed, new])


@st.cache_resource(show_spinner=False, max_entries=4)
def kept_bands(store_url: str) -> KeptBands:
    """What is kept of a store, in this process."""
    return KeptBands()


def side_by_side(parts: list[Bands]) -> Bands:
    """Puts rows of a matrix beside each other: (B, K) each becomes (B, rows * K).

    Buckets that not every row has are left out.
    """
    first = parts[0]
    keys = [part.segments.astype(np.int64) << 48 | part.steps for part in parts]
    common = keys[0]
    for key in keys[1:]:
        common = np.intersect1d(common, key, assume_unique=True)
    here = [selected(part, np.isin(key, common)) for part, key in zip(parts, keys, strict=True)]
    return replace(
        here[0],
        width=max(part.width for part in parts) if len(parts) > 1 else first.width,
        low=np.hstack([part.low for part in here]),
        high=np.hstack([part.high for part in here]),
        mean=np.hstack([part.mean for part in here]),
        num_finite=np.hstack([part.num_finite for part in here]),
    )
