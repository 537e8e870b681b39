"""A window of one signal as bytes: the steps, and the numbers in planes of equal bytes.

    head | offsets of the steps | lengths, where they differ | a plane per byte of a number

The bytes of neighbours that mean the same (signs and exponents) lie side by side, so that zlib
finds what repeats; a plane of chance, such as low mantissa bytes, is stored as it is. All
little-endian.
"""

# N points  K numbers of each
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..packing import FLOAT, unpack_equal

WINDOW = 1024
"""Steps of a window."""
_HEAD = struct.Struct("<BBHII")  # version, flags, bytes of a number, points, numbers of each
_VERSION = 1
_IS_REGULAR = 1
_IS_RAGGED = 2
_REGULAR = struct.Struct("<HH")
_PLANE = struct.Struct("<I")
_IS_STORED = 1 << 31
_TRIED = 2048
# below this saving unpacking costs more than the disk is worth
_WORTH_IT = 0.95


@dataclass(frozen=True, slots=True)
class Points:
    """Some steps of one signal, or of one row of it, in the order of the steps."""

    steps_N: NDArray[np.int64]
    values_NK: NDArray[np.floating[Any]]
    """float32, or float64 where they are times; NaN behind the end of a shorter one."""
    lengths_N: NDArray[np.int64] | None = None
    """Numbers of each point; None where all have K."""

    def between(self, first: int, last: int) -> "Points":
        """The points from step `first` to `last`, no wider than they need."""
        if len(self.steps_N) == 0 or (first <= self.steps_N[0] and self.steps_N[-1] <= last):
            return self
        at = slice(*np.searchsorted(self.steps_N, [first, last + 1]))
        lengths_N = None if self.lengths_N is None else self.lengths_N[at]
        widest = self.values_NK.shape[1] if lengths_N is None else int(lengths_N.max(initial=0))
        return Points(self.steps_N[at], self.values_NK[at, :widest], lengths_N)


def of_rows(steps: Sequence[int], data: Sequence[bytes]) -> Points:
    """Points out of rows of the store; `data` are float32 blobs."""
    lengths_N = np.fromiter(map(len, data), np.int64, len(data)) // FLOAT.itemsize
    is_equal = len(data) == 0 or bool((lengths_N == lengths_N[0]).all())
    return Points(np.array(steps, np.int64), unpack_equal(data), None if is_equal else lengths_N)


def merged(old: Points, new: Points) -> Points:
    """Both; where they share a step the new one counts."""
    if len(old.steps_N) == 0 or len(new.steps_N) == 0:
        return new if len(new.steps_N) else old
    steps_N = np.concatenate([old.steps_N, new.steps_N])
    lengths_N = np.concatenate([_lengths(old), _lengths(new)])
    widest = int(lengths_N.max())
    kind = np.promote_types(old.values_NK.dtype, new.values_NK.dtype)
    values_NK = np.full((len(steps_N), widest), np.nan, kind)
    num_old = len(old.steps_N)
    values_NK[:num_old, : old.values_NK.shape[1]] = old.values_NK
    values_NK[num_old:, : new.values_NK.shape[1]] = new.values_NK
    order = np.argsort(steps_N, kind="stable")
    kept = order[np.append(np.diff(steps_N[order]) != 0, True)]  # of equals the last
    lengths_N = lengths_N[kept]
    widest = int(lengths_N.max())
    is_equal = bool((lengths_N == widest).all())
    return Points(steps_N[kept], values_NK[kept, :widest], None if is_equal else lengths_N)


def encode(points: Points) -> bytes:
    """Packs the points of one window; they must lie in it."""
    values_NK = points.values_NK
    flags = 0 if points.lengths_N is None else _IS_RAGGED
    offsets_N = (points.steps_N % WINDOW).astype("<u2")
    strides = np.diff(offsets_N)
    if len(offsets_N) and (len(strides) == 0 or bool((strides == strides[0]).all())):
        flags |= _IS_REGULAR
        where = _REGULAR.pack(offsets_N[0], strides[0] if len(strides) else 1)
    else:
        where = _pack_planes(offsets_N)
    head = _HEAD.pack(_VERSION, flags, values_NK.dtype.itemsize, *values_NK.shape)
    lengths = b"" if points.lengths_N is None else _pack_planes(points.lengths_N.astype("<u4"))
    return b"".join([head, where, lengths, _pack_planes(values_NK)])


def decode(data: bytes, window: int) -> Points:
    """The points of a window; float64 numbers (times) come back as such. Raises ValueError where
    the bytes are none."""
    try:
        version, flags, itemsize, num_points, num_numbers = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise ValueError(f"chunk of version {version}")
        at = _HEAD.size
        if flags & _IS_REGULAR:
            start, stride = _REGULAR.unpack_from(data, at)
            at += _REGULAR.size
            offsets_N = start + stride * np.arange(num_points)
        else:
            planes, at = _unpack_planes(data, at, num_points, 2)
            offsets_N = planes.view("<u2").astype(np.int64)
        lengths_N = None
        if flags & _IS_RAGGED:
            planes, at = _unpack_planes(data, at, num_points, 4)
            lengths_N = planes.view("<u4").astype(np.int64)
        planes, at = _unpack_planes(data, at, num_points * num_numbers, itemsize)
        values_NK = planes.view(f"<f{itemsize}").reshape(num_points, num_numbers)
    except (struct.error, zlib.error, TypeError) as error:
        raise ValueError(f"not a chunk: {error}") from error
    return Points(window * WINDOW + offsets_N, values_NK, lengths_N)


def _lengths(points: Points) -> NDArray[np.int64]:
    if points.lengths_N is not None:
        return points.lengths_N
    return np.full(len(points.steps_N), points.values_NK.shape[1], np.int64)


def _pack_planes(array: NDArray[np.generic]) -> bytes:
    numbers = np.ascontiguousarray(array).reshape(-1)
    if len(numbers) == 0:
        return b""
    parts = []
    for plane in numbers.view(np.uint8).reshape(len(numbers), -1).T:
        raw = plane.tobytes()
        middle = raw[len(raw) // 2 :][:_TRIED]
        packed = raw
        if len(zlib.compress(middle, 1)) < _WORTH_IT * len(middle):
            packed = zlib.compress(raw, 1)
        is_packed = len(packed) < _WORTH_IT * len(raw)
        kept = packed if is_packed else raw
        parts += [_PLANE.pack(len(kept) | (0 if is_packed else _IS_STORED)), kept]
    return b"".join(parts)


def _unpack_planes(
    data: bytes, at: int, count: int, itemsize: int
) -> tuple[NDArray[np.uint8], int]:
    """The bytes of `count` numbers in their own order, and where to read on."""
    numbers = np.empty((count, itemsize), np.uint8)
    for byte in range(itemsize if count else 0):
        (length,) = _PLANE.unpack_from(data, at)
        at += _PLANE.size
        is_stored, length = length & _IS_STORED, length & ~_IS_STORED
        plane = data[at : at + length]
        numbers[:, byte] = np.frombuffer(plane if is_stored else zlib.decompress(plane), np.uint8)
        at += length
    return numbers.reshape(-1), at
