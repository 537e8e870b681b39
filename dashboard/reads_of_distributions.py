"""Samples, blocks or experts of a run by stretches of steps, for pictures of how they are spread.

A picture reads some thousand steps at most, however long the run: of each stretch its beginning.
"""

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from ..platform.series import measured_steps
from ..platform.store import Store
from .distributions import Columns
from .reads import RunReader
from .window import StepRange

MOST_COLUMNS = 64
STEPS_OF_A_COLUMN = 64


def columns_of(
    store: Store, reader: RunReader, signal: str, row: int | None, step_range: StepRange
) -> Columns | None:
    """Returns what counts of a signal in a range of steps; None where nothing was measured.

    row: one index of the first dimension of a signal with two; None puts all together.
    """
    spans = measured_steps(store, reader.run_id, [signal])
    if not spans:
        return None
    first = min(start for start, _ in spans.values())
    last = spans[max(spans)][1]
    if step_range is not None:
        first, last = max(first, step_range[0]), min(last, step_range[1])
    if first > last:
        return None
    width = 1
    while last // width - first // width + 1 > MOST_COLUMNS:
        width *= 2
    num_read = min(width, STEPS_OF_A_COLUMN)
    steps, segments, values = [], [], []
    for start in range(first // width * width, last + 1, width):
        begin, end = max(start, first), min(start + num_read - 1, last)
        is_closed = start == begin and end == start + num_read - 1
        read = _kept if is_closed else _read
        found = read(reader, store.url, reader.run_id, len(reader.segments), signal, begin, end)
        if found is None:
            continue
        segment, all_values = found
        segments.append(segment)
        steps.append(start + (width - 1) / 2)
        values.append(all_values if row is None else all_values[:, row])
    if not values:
        return None
    return Columns(width, num_read, np.array(segments, np.int32), np.array(steps), values)


def _read(
    reader: RunReader,
    store_url: str,
    run_id: str,
    num_segments: int,
    signal: str,
    first: int,
    last: int,
) -> tuple[int, NDArray[np.float32]] | None:
    found = reader.stretch(signal, first, last) if last >= first else None
    return None if found is None else (int(found.segments[0]), found.values)


@st.cache_data(show_spinner=False, max_entries=2000)
def _kept(
    _reader: RunReader,
    store_url: str,
    run_id: str,
    num_segments: int,
    signal: str,
    first: int,
    last: int,
) -> tuple[int, NDArray[np.float32]] | None:
    """A stretch that is over stays what it is until a rollback opens another segment."""
    return _read(_reader, store_url, run_id, num_segments, signal, first, last)
