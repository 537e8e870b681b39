"""A window of one signal survives packing bit for bit, also where its shape changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moescope.platform.compacted.codec import WINDOW, Points, decode, encode, merged, of_rows

FLOATS = st.floats(width=32)
BLOBS = st.integers(0, 5).flatmap(lambda n: arrays("<f4", n, elements=FLOATS)).map(bytes)


@settings(deadline=None, derandomize=True)
@given(
    rows=st.dictionaries(st.integers(0, WINDOW - 1), BLOBS, max_size=40),
    window=st.integers(0, 10**9),
)
def test_rows_come_back_as_they_were(rows: dict[int, bytes], window: int) -> None:
    steps = sorted(rows)
    points = of_rows([window * WINDOW + step for step in steps], [rows[step] for step in steps])
    found = decode(encode(points), window)
    assert found.steps_N.tolist() == [window * WINDOW + step for step in steps]
    for index, step in enumerate(steps):
        length = found.values_NK.shape[1] if found.lengths_N is None else found.lengths_N[index]
        assert found.values_NK[index, :length].tobytes() == rows[step]


def test_times_keep_all_their_digits() -> None:
    times = 1.7e9 + np.arange(300) / 7
    points = Points(np.arange(300), times[:, None])
    assert decode(encode(points), 0).values_NK[:, 0].tolist() == times.tolist()


def test_neighbours_pack_well_and_chance_costs_next_to_nothing() -> None:
    chance = np.random.default_rng(0)
    steps = np.arange(WINDOW)
    smooth = (1 + 0.01 * chance.normal(size=(WINDOW, 8))).astype("f4")
    rounded = smooth.astype("f2").astype("f4")
    noise = np.frombuffer(chance.bytes(4 * 8 * WINDOW), "f4").reshape(WINDOW, 8)
    shares = [len(encode(Points(steps, values))) / values.nbytes for values in (smooth, rounded)]
    assert shares[0] < 0.85
    assert shares[1] < 0.5
    assert len(encode(Points(steps, noise))) < noise.nbytes + 64


@settings(deadline=None, derandomize=True)
@given(
    old=st.dictionaries(st.integers(0, 30), BLOBS, max_size=20),
    new=st.dictionaries(st.integers(0, 30), BLOBS, max_size=20),
)
def test_of_two_that_share_a_step_the_newer_counts(
    old: dict[int, bytes], new: dict[int, bytes]
) -> None:
    def points(rows: dict[int, bytes]) -> Points:
        return of_rows(sorted(rows), [rows[step] for step in sorted(rows)])

    found, expected = merged(points(old), points(new)), points({**old, **new})
    assert found.steps_N.tolist() == expected.steps_N.tolist()
    assert found.values_NK.tobytes() == expected.values_NK.tobytes()
    assert (found.lengths_N is None) == (expected.lengths_N is None)


@pytest.mark.parametrize("cut", [0, 5, 20, 60])
def test_bytes_that_are_no_chunk_are_refused(cut: int) -> None:
    whole = encode(Points(np.arange(64), np.ones((64, 4), np.float32) / 3))
    with pytest.raises(ValueError, match="chunk"):
        decode(whole[:cut], 0)
