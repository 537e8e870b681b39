"""NaN and infinities as tags: what, where, from when to when, and how often."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.platform.catalogue import ACTIVATION_RMS, GRAD_NORM, LOSS_TOTAL
from moescope.platform.mlflow_mirror.non_finite import NonFinite
from moescope.platform.records import Frame

LOSS = "moescope.non_finite.loss/total"


def frame(step: int, loss: float, rms: tuple[float, ...] = (1.0, 1.0)) -> Frame:
    values = {LOSS_TOTAL: loss, GRAD_NORM: 1.0, ACTIVATION_RMS: rms}
    arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return Frame("r", 0, step, 1000.0 + step, arrays)


def test_a_tag_says_what_was_not_finite() -> None:
    seen = NonFinite(dict)
    seen.take(frame(16, 1.0))
    assert seen.unsent() == {}
    seen.take(frame(17, math.nan))
    seen.take(frame(18, 2.0, (math.inf, 1.0)))
    seen.take(frame(19, -math.inf, (math.nan, -math.inf)))
    assert seen.unsent() == {
        LOSS: "first at step 17, last at step 19, in 2 steps: nan, -inf",
        "moescope.non_finite.activation/rms": "first at step 18, last at step 19, in 2 steps: "
        "inf, nan, -inf; in layer_00, layer_01",
    }
    seen.sent()
    assert seen.unsent() == {}


@given(
    st.lists(st.sampled_from([1.0, math.nan, math.inf, -math.inf]), min_size=1, max_size=12),
    st.data(),
)
def test_another_process_goes_on_whatever_comes_again(
    losses: list[float], data: st.DataObject
) -> None:
    frames = [frame(step, loss, (loss, 1.0)) for step, loss in enumerate(losses)]
    whole = NonFinite(dict)
    for one in frames:
        whole.take(one)
    until = data.draw(st.integers(0, len(frames)))
    again_from = data.draw(st.integers(0, until))
    first = NonFinite(dict)
    for one in frames[:until]:
        first.take(one)
    tags = {"alert.spike.3": "words", **first.unsent()}
    second = NonFinite(lambda: tags)
    for one in frames[again_from:]:
        second.take(one)
    assert {**tags, **second.unsent()} == {**tags, **whole.unsent()}


@pytest.mark.parametrize("text", ["", "of another version", "first at step x"])
def test_a_tag_that_is_none_of_ours_is_left_behind(text: str) -> None:
    seen = NonFinite(lambda: {LOSS: text})
    seen.take(frame(3, math.nan))
    assert seen.unsent() == {LOSS: "first at step 3, last at step 3, in 1 step: nan"}
