"""Records as bytes, for the journal: a JSON head and, for a frame, its float32 arrays behind it.
Nothing is pickled.

payload = head length (u32) | head (JSON) | arrays, little-endian float32, in the order of the
head's `names`
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .records import Alert, Checkpoint, Event, Frame, Incident, Segment

Record = Frame | Event | Alert | Checkpoint | Segment | Incident

_Plain = Event | Alert | Checkpoint | Segment | Incident
_PLAIN: dict[str, type[_Plain]] = {
    "event": Event,
    "alert": Alert,
    "checkpoint": Checkpoint,
    "segment": Segment,
    "incident": Incident,
}
_LENGTH = struct.Struct("<I")
_FRAME = b'{"record": "frame"'


def encode(record: Record) -> bytes:
    """Returns a record's bytes. Values that JSON cannot hold (paths, numpy scalars) become the
    nearest plain value.
    """
    if isinstance(record, Frame):
        return encode_frame(record, record.values)
    kind = type(record).__name__.lower()
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    head = json.dumps({"record": kind, **values}, default=_plain).encode()
    return _LENGTH.pack(len(head)) + head


def encode_frame(frame: Frame, values: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Returns a frame's bytes with the given values in place of its own (some may have been left
    out).
    """
    head = json.dumps(
        {
            "record": "frame",
            "run_id": frame.run_id,
            "segment": frame.segment,
            "step": frame.step,
            "time_s": frame.time_s,
            "names": list(values),
            "shapes": [value.shape for value in values.values()],
        },
        default=_plain,
    ).encode()
    arrays = [value.astype("<f4", copy=False).tobytes() for value in values.values()]
    return b"".join([_LENGTH.pack(len(head)), head, *arrays])


def is_frame(payload: bytes) -> bool:
    """Whether a record's bytes are a frame's, by their beginning."""
    return payload.startswith(_FRAME, _LENGTH.size)


def decode(payload: bytes) -> Record:
    """Returns the record. Raises ValueError if the bytes are none."""
    try:
        (length,) = _LENGTH.unpack_from(payload)
        at = _LENGTH.size + length
        head = json.loads(payload[_LENGTH.size : at])
        kind = head.pop("record")
        if kind in _PLAIN:
            return _PLAIN[kind](**head)
        values: dict[str, NDArray[np.float32]] = {}
        for name, shape in zip(head["names"], head["shapes"], strict=True):
            count = math.prod(shape)
            values[name] = np.frombuffer(payload, "<f4", count, at).reshape(shape)
            at += 4 * count
        return Frame(head["run_id"], head["segment"], head["step"], head["time_s"], values)
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"not a journaled record: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
