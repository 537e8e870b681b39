"""The order of draws is a pure function, fair to every clip, and true to the deliveries."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.platform.errors import MoescopeError
from moescope.trainer.config import DataConfig
from moescope.trainer.data.clips import Clip
from moescope.trainer.data.order import DrawOrder, split


def clips_in(**folders: int) -> list[Clip]:
    return [
        Clip(Path(f"/{folder}/{i}"), f"{folder}/{i}", "", folder, 2.0, 16.0, True)
        for folder, count in folders.items()
        for i in range(count)
    ]


@given(
    st.sampled_from(["shuffled", "by_folder"]),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_a_pass_draws_every_clip_windows_per_clip_times(
    order: str, windows: int, first: int, second: int
) -> None:
    clips = clips_in(a=first, b=second)
    data = DataConfig.model_validate({"order": order, "windows_per_clip": windows})
    draws = DrawOrder(clips, data, seed=3)
    length = len(clips) * windows
    for number in range(2):
        drawn = Counter(draws.draw(p).name for p in range(number * length, (number + 1) * length))
        assert drawn == {clip.name: windows for clip in clips}


def test_a_pass_too_long_for_the_memory_is_refused_with_what_fits() -> None:
    clips = clips_in(a=3) * 2000
    with pytest.raises(MoescopeError, match=r"with 6000 clips .* use 8333"):
        DrawOrder(clips, DataConfig(windows_per_clip=10_000), seed=0)
    assert DrawOrder(clips, DataConfig(windows_per_clip=8333), seed=0)


def test_folders_come_one_after_the_other_and_then_again() -> None:
    data = DataConfig(order="by_folder", windows_per_clip=2)
    draws = DrawOrder(clips_in(a=3, b=2, c=4), data, seed=0)
    folders = "".join(draws.draw(p).folder for p in range(36))
    assert folders == "aaaaaabbbbcccccccc" * 2


@pytest.mark.parametrize("order", ["shuffled", "by_folder"])
def test_every_pass_and_every_seed_has_an_order_of_its_own(order: str) -> None:
    clips = clips_in(a=20)
    data = DataConfig.model_validate({"order": order})
    one, two = DrawOrder(clips, data, seed=0), DrawOrder(clips, data, seed=1)
    first, second, other = (
        [draws.draw(p).name for p in range(start, start + 20)]
        for draws, start in ((one, 0), (one, 20), (two, 0))
    )
    assert first != second
    assert first != other
    assert first == [DrawOrder(clips, data, seed=0).draw(p).name for p in range(20)]


def test_a_clip_keeps_its_side_of_the_split_when_others_come() -> None:
    few, many = clips_in(a=100), clips_in(a=200)
    _, held_out = split(few, 0.1)
    _, held_out_of_many = split(many, 0.1)
    assert {clip.name for clip in held_out} <= {clip.name for clip in held_out_of_many}
    assert 2 <= len(held_out) <= 20


@given(st.integers(2, 12), st.floats(0.001, 0.999))
def test_both_sides_of_a_split_get_a_clip(count: int, share: float) -> None:
    clips = clips_in(a=count)
    training, held_out = split(clips, share)
    assert training
    assert held_out
    assert sorted([*training, *held_out], key=lambda c: clips.index(c)) == clips


def test_nothing_is_held_out_of_one_clip_or_with_a_share_of_0() -> None:
    assert split(clips_in(a=1), 0.5) == (clips_in(a=1), [])
    assert split(clips_in(a=9), 0.0) == (clips_in(a=9), [])
