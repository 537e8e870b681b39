"""Frames become rows: the scalars of a group side by side, a vector as it is, a matrix row by row;
and back.

All numbers are little-endian float32.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .catalogue import signal_spec
from .errors import MoescopeError
from .records import Frame
from .signals.spec import SignalSpec
from .spans import Span

BETWEEN_NAMES = "\n"
"""Divides the names of a layout; a blank may be part of a user's name."""
LARGEST_STEP = (1 << 62) - 1
"""No step is further from 0."""
WHOLE = -1
"""The row of a signal that has none."""
FLOAT = np.dtype("<f4")


GroupKey = tuple[str, str, int, int]
"""(run id, group, segment, step)"""
VectorKey = tuple[str, str, int, int, int]
"""(run id, signal, row, segment, step)"""
SpanKey = tuple[str, str, int]
"""(run id, signal, segment)"""


@dataclass(frozen=True, slots=True)
class PackedFrames:
    """What some frames become; a later frame of the same step wins."""

    specs: dict[str, SignalSpec] = field(default_factory=dict)
    times_s: dict[GroupKey, float] = field(default_factory=dict)
    scalars: dict[GroupKey, dict[str, float]] = field(default_factory=dict)
    vectors: dict[VectorKey, bytes] = field(default_factory=dict)
    spans: dict[SpanKey, Span] = field(default_factory=dict)


def pack(frames: Iterable[Frame]) -> PackedFrames:
    """Packs frames. Raises MoescopeError on a signal that nobody defined or that has other
    dimensions than its spec, or a step that the store cannot count to.
    """
    packed = PackedFrames()
    with np.errstate(over="ignore"):  # what a float32 cannot hold is infinite
        for frame in frames:
            _add(packed, frame)
    return packed


def _add(packed: PackedFrames, frame: Frame) -> None:
    run_id, segment, step = frame.run_id, frame.segment, frame.step
    if not -LARGEST_STEP <= step <= LARGEST_STEP:
        raise MoescopeError(f"step {step} is too far from 0: expected at most {LARGEST_STEP}")
    groups: dict[str, dict[str, float]] = {}
    for name, value in frame.values.items():
        spec = packed.specs.get(name) or packed.specs.setdefault(name, _spec(name))
        if type(value) is not np.ndarray or value.dtype != FLOAT:
            value = np.asarray(value, dtype=FLOAT)
        num_dimensions = value.ndim
        if num_dimensions != len(spec.dimensions):
            raise _wrong_shape(spec, value)
        scalars = groups.get(spec.group)
        if scalars is None:
            group = run_id, spec.group, segment, step
            scalars = groups[spec.group] = packed.scalars.setdefault(group, {})
            packed.times_s[group] = frame.time_s
        span = packed.spans.get((run_id, name, segment))
        if span is None:
            span = packed.spans[run_id, name, segment] = Span(step, step)
        if num_dimensions == 0:
            scalars[name] = number = float(value)
            span.add_value(step, number)
        elif num_dimensions == 1:
            span.add(step, 0)
            packed.vectors[run_id, name, WHOLE, segment, step] = value.tobytes()
        else:
            num_rows = value.shape[0]
            span.add(step, num_rows)
            data = value.tobytes()
            size = len(data) // num_rows if num_rows else 0
            for row in range(num_rows):
                at = row * size
                packed.vectors[run_id, name, row, segment, step] = data[at : at + size]


def _wrong_shape(spec: SignalSpec, value: NDArray[np.float32]) -> MoescopeError:
    return MoescopeError(
        f"{spec.name} has shape {value.shape}, expected {len(spec.dimensions)} dimensions"
        f" ({', '.join(spec.dimensions) or 'a single number'})"
    )


def _spec(name: str) -> SignalSpec:
    if BETWEEN_NAMES in name or "\x00" in name:
        raise MoescopeError(f"signal name {name!r} must be one line of text")
    return signal_spec(name)


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
