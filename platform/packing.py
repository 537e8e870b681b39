"""Frames become rows: the scalars of a group side by side, a vector as it is, a matrix row by row;
and back.

All numbers are little-endian float32.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .catalogue import signal_spec
from .errors import MoescopeError
from .records import Frame
from .signals.spec import SignalSpec

BETWEEN_NAMES = "\n"
"""Divides the names of a layout; a blank may be part of a user's name."""
WHOLE_VECTOR = -1
"""The row of a 1-D signal."""
FLOAT = np.dtype("<f4")


class GroupKey(NamedTuple):
    run_id: str
    group: str
    segment: int
    step: int


class VectorKey(NamedTuple):
    run_id: str
    signal: str
    row: int
    segment: int
    step: int


class SpanKey(NamedTuple):
    run_id: str
    signal: str
    segment: int


@dataclass(frozen=True, slots=True)
class PackedFrames:
    """What some frames become; a later frame of the same step wins."""

    specs: dict[str, SignalSpec] = field(default_factory=dict)
    times_s: dict[GroupKey, float] = field(default_factory=dict)
    scalars: dict[GroupKey, dict[str, float]] = field(default_factory=dict)
    vectors: dict[VectorKey, bytes] = field(default_factory=dict)
    spans: dict[SpanKey, tuple[int, int, int]] = field(default_factory=dict)
    """{...: (first step, last step, rows of a matrix or 0)}"""


def pack(frames: Iterable[Frame]) -> PackedFrames:
    """Packs frames. Raises MoescopeError on a signal that nobody defined or that has other
    dimensions than its spec.
    """
    packed = PackedFrames()
    with np.errstate(over="ignore"):  # what a float32 cannot hold is infinite
        for frame in frames:
            for name, value in frame.values.items():
                spec = packed.specs.get(name) or packed.specs.setdefault(name, _spec(name))
                _add(packed, frame, spec, np.asarray(value, dtype=FLOAT))
    return packed


def _spec(name: str) -> SignalSpec:
    if BETWEEN_NAMES in name or "\x00" in name:
        raise MoescopeError(f"signal name {name!r} must be one line of text")
    return signal_spec(name)


def _add(packed: PackedFrames, frame: Frame, spec: SignalSpec, value: NDArray[np.float32]) -> None:
    if value.ndim != len(spec.dimensions):
        raise MoescopeError(
            f"{spec.name} has shape {value.shape}, expected {len(spec.dimensions)} dimensions"
            f" ({', '.join(spec.dimensions) or 'a single number'})"
        )
    run_id, segment, step = frame.run_id, frame.segment, frame.step
    group = GroupKey(run_id, spec.group, segment, step)
    packed.times_s[group] = frame.time_s
    scalars = packed.scalars.setdefault(group, {})
    num_rows = 0
    if value.ndim == 0:
        scalars[spec.name] = float(value)
    elif value.ndim == 1:
        packed.vectors[VectorKey(run_id, spec.name, WHOLE_VECTOR, segment, step)] = value.tobytes()
    else:
        num_rows = value.shape[0]
        for row in range(num_rows):
            key = VectorKey(run_id, spec.name, row, segment, step)
            packed.vectors[key] = value[row].tobytes()
    span = SpanKey(run_id, spec.name, segment)
    first, last, most = packed.spans.get(span, (step, step, num_rows))
    packed.spans[span] = (min(first, step), max(last, step), max(most, num_rows))


def pack_scalars(values: dict[str, float]) -> tuple[str, bytes]:
    """Returns (layout, data): the names in order, and the numbers in that order."""
    names = sorted(values)
    return BETWEEN_NAMES.join(names), np.array(
        [values[name] for name in names], dtype=FLOAT
    ).tobytes()


def layout_names(layout: str) -> list[str]:
    return layout.split(BETWEEN_NAMES) if layout else []


def unpack_scalars(layout: str, data: bytes) -> dict[str, float]:
    return dict(zip(layout_names(layout), np.frombuffer(data, FLOAT).tolist(), strict=True))


def unpack_equal(data: Sequence[bytes]) -> NDArray[np.float32]:
    """(n, k) from n blobs of k numbers each; shorter ones are filled up with NaN."""
    lengths = set(map(len, data))
    longest = max(lengths, default=0) // FLOAT.itemsize
    if len(lengths) <= 1:
        return np.frombuffer(b"".join(data), FLOAT).reshape(len(data), longest)
    out = np.full((len(data), longest), np.nan, FLOAT)
    for index, blob in enumerate(data):
        out[index, : len(blob) // FLOAT.itemsize] = np.frombuffer(blob, FLOAT)
    return out
