"""Records survive the way through bytes."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from moescope.platform.catalogue import EXPERT_TOKENS, LOSS_TOTAL
from moescope.platform.record_codec import decode, encode
from moescope.platform.records import Alert, Checkpoint, Event, Frame, Segment

ALERT = Alert(
    "a1", "r", 2, "spike", "critical", 10, 12, math.nan, 4.0, "µ above 4 €", 1.5, "r/spike/10",
    evidence={"signal": LOSS_TOTAL, "layers": [1, 2]},
)  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        Event("r", 0, 3, 1.0, "note", "words", {"a": [1, 2]}),
        Checkpoint("r", 0, 3, "folder", 4, 100, 1.0, "certified", False),
        Segment("r", 1, 3, "rollback", 1.0, 0, 2, "a1", {"optim.eps": [1e-8, 1e-7]}),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_comes_back_equal(record: Event | Checkpoint | Segment) -> None:
    assert decode(encode(record)) == record


def test_an_alert_with_a_value_that_is_not_a_number_comes_back() -> None:
    back = decode(encode(ALERT))
    assert isinstance(back, Alert)
    assert math.isnan(back.value)
    assert back.evidence == ALERT.evidence


@given(hn.arrays(np.float32, hn.array_shapes(min_dims=0, max_dims=3), elements=st.floats(width=32)))
def test_a_frame_keeps_every_bit(values: np.ndarray) -> None:
    frame = Frame("r", 1, 7, 2.5, {LOSS_TOTAL: np.full((), 0.1, np.float32), EXPERT_TOKENS: values})
    back = decode(encode(frame))
    assert isinstance(back, Frame)
    assert (back.run_id, back.segment, back.step, back.time_s) == ("r", 1, 7, 2.5)
    assert back.values[EXPERT_TOKENS].shape == values.shape
    assert back.values[EXPERT_TOKENS].tobytes() == values.tobytes()


def test_what_json_cannot_hold_becomes_the_nearest_plain_value() -> None:
    odd = {"path": Path("a/b"), "count": np.int64(3), "loss": np.float32(0.5), "all": {2, 1}}
    back = decode(encode(Event("r", 0, 0, 1.0, "note", "", odd)))
    assert isinstance(back, Event)
    assert back.details == {"path": "a/b", "count": 3, "loss": 0.5, "all": [1, 2]}


@pytest.mark.parametrize("payload", [b"", b"\x05\x00\x00\x00{}", encode(ALERT)[:-3], b"\xff" * 40])
def test_bytes_that_are_no_record_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a journaled record"):
        decode(payload)
