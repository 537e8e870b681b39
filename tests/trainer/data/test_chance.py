"""Keyed chance depends on its key and on nothing else."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moescope.trainer.data.chance import generator, key_of, share_of


def test_the_same_key_gives_the_same_numbers_in_another_process() -> None:
    here = generator(7, "a/b.mp4", 123, "noise").random(3)
    code = (
        "from moescope.trainer.data.chance import generator;"
        "print(*generator(7, 'a/b.mp4', 123, 'noise').random(3).tolist())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [float(word) for word in there.stdout.split()] == here.tolist()


def test_each_part_of_the_key_changes_the_numbers() -> None:
    keys = [(0, "a", 0, "crop"), (1, "a", 0, "crop"), (0, "b", 0, "crop"), (0, "a", 1, "crop")]
    drawn = [generator(*key).random() for key in [*keys, (0, "a", 0, "noise")]]
    assert len(set(drawn)) == 5


@given(st.lists(st.text(), min_size=1, max_size=3), st.lists(st.text(), min_size=1, max_size=3))
def test_different_parts_never_share_a_key(one: list[str], other: list[str]) -> None:
    assert (key_of(*one) == key_of(*other)) == (one == other)


def test_drawing_leaves_the_global_generator_alone() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    generator(0, "a", 0, "crop").random(100)
    assert np.random.random() == expected


def test_shares_are_spread_evenly() -> None:
    shares = np.array([share_of(f"clip-{i}.mp4") for i in range(4000)])
    assert 0 <= shares.min() < shares.max() < 1
    # 4000 draws: the standard error of a share of 5% is 0.34%
    assert abs((shares < 0.05).mean() - 0.05) < 0.014
