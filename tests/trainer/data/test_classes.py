"""A class is a folder or a word in captions.jsonl, and keeps its number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.platform.errors import MoescopeError
from moescope.trainer.data.classes import (
    Given,
    number_classes,
    number_of,
    read_class_file,
    read_classes,
    refuse_more_classes,
    write_classes,
)
from moescope.trainer.data.clips import find_clips

Listed = Callable[..., Path]


def named(*names: str) -> list[Given]:
    return [Given(name, None) for name in names]


@pytest.fixture
def listed(tmp_path: Path) -> Listed:
    """Writes a captions.jsonl of these entries."""

    def write(*entries: dict[str, Any]) -> Path:
        path = tmp_path / "captions.jsonl"
        path.write_text("\n".join(json.dumps(entry) for entry in entries))
        return path

    return write


def test_folders_are_numbered_by_their_sorted_names() -> None:
    # plainly sorted, as ImageFolder does: class-10 comes before class-2
    numbers = number_classes(named("dog", "class-2", "cat", "class-10", "dog"), {})
    assert list(numbers.items()) == [("cat", 0), ("class-10", 1), ("class-2", 2), ("dog", 3)]


def test_a_known_class_keeps_its_number_and_new_ones_follow() -> None:
    known = number_classes(named("cat", "dog"), {})
    assert number_classes(named("ape", "dog"), known) == {"cat": 0, "dog": 1, "ape": 2}
    assert number_classes(named("ape", "cat", "dog"), known) == {"cat": 0, "dog": 1, "ape": 2}


def test_where_weights_go_on_with_other_clips_a_class_that_is_gone_leaves_its_number() -> None:
    known = {"ape": 0, "cat": 1, "dog": 2}
    numbers = number_classes(named("cat", "yak"), known, is_resumed=False)
    assert numbers == {"yak": 0, "cat": 1}


def test_a_number_that_is_given_counts_and_names_take_the_free_ones() -> None:
    of_clips = [Given(None, 0), Given("dog", 2), Given("dog", None), *named("cat", "eel")]
    numbers = number_classes(of_clips, {})
    assert numbers == {"class 0": 0, "cat": 1, "dog": 2, "eel": 3}
    assert [number_of(given, numbers) for given in of_clips] == [0, 2, 2, 1, 3]


def test_a_number_finds_its_name_later() -> None:
    numbers = number_classes([Given(None, 4)], {})
    assert numbers == {"class 4": 4}
    assert number_classes([Given("dog", 4)], numbers) == {"dog": 4}
    assert number_classes([Given(None, 4)], {"dog": 4}) == {"dog": 4}


@pytest.mark.parametrize(
    ("of_clips", "known", "expected"),
    [
        pytest.param([Given("dog", 1), Given("dog", 2)], {}, "class dog .* 2, but it has 1"),
        pytest.param([Given("dog", 1), Given("cat", 1)], {}, "number 1 .* cat, but dog has it"),
        pytest.param([Given("dog", 1)], {"dog": 0}, "class dog .* 1, but it has 0"),
        pytest.param([Given("dog", 0)], {"cat": 0}, "number 0 .* dog, but cat has it"),
    ],
)
def test_a_contradiction_is_an_error(
    of_clips: list[Given], known: dict[str, int], expected: str
) -> None:
    with pytest.raises(MoescopeError, match=expected):
        number_classes(of_clips, known)


@given(
    st.lists(st.builds(Given, st.sampled_from("abcde"), st.none()), min_size=1),
    st.lists(st.integers(0, 9).map(lambda number: Given(None, number))),
    st.dictionaries(st.sampled_from("abcxyz"), st.integers(0, 9), max_size=4),
)
def test_every_class_has_a_number_of_its_own_whatever_the_order(
    by_name: list[Given], by_number: list[Given], drawn: dict[str, int]
) -> None:
    # a number twice would be a damaged record
    known = {name: number for number, name in {n: name for name, n in drawn.items()}.items()}
    numbers = number_classes(by_name + by_number, known)
    assert len(set(numbers.values())) == len(numbers)
    assert numbers == number_classes([*reversed(by_number), *reversed(by_name)], known)
    assert known.items() <= numbers.items()
    assert {number_of(one, numbers) for one in by_name + by_number} <= set(numbers.values())


def test_a_line_gives_a_name_or_a_number_or_both(listed: Listed) -> None:
    path = listed(
        {"file": "a.mp4", "label": 3},
        {"file": "b.mp4", "class": "dog"},
        {"file": "in/c.mp4", "class": "dog", "label": 3, "caption": "a dog"},
        {"file": "d.mp4", "label": "dog", "class": None},
        {"file": "e.mp4", "caption": "no class"},
    )
    dog = Given("dog", 3)
    named_only = Given("dog", None)
    expected = {"a.mp4": Given(None, 3), "b.mp4": named_only, "in/c.mp4": dog, "d.mp4": named_only}
    assert read_class_file(path) == expected


@pytest.mark.parametrize("label", [-1, 1.5, True, [1], 1_000_000])
def test_a_class_that_is_neither_is_named_with_its_line(listed: Listed, label: Any) -> None:
    path = listed({"file": "a.mp4", "label": 0}, {"file": "b.mp4", "label": label})
    with pytest.raises(MoescopeError, match=r"captions\.jsonl line 2: label is"):
        read_class_file(path)


def test_clips_are_of_the_folder_at_the_top(tmp_path: Path, made_folder: Path) -> None:
    index = find_clips(made_folder)
    assert index.classes == {"part-1": 0, "part-10": 1, "part-2": 2}
    assert [clip.label for clip in index.clips] == [0] * 6 + [2] * 6 + [1] * 6
    (tmp_path / "all").symlink_to(made_folder)
    assert find_clips(tmp_path).classes == {"all": 0}


def test_clips_outside_all_folders_are_of_one_class(made_folder: Path) -> None:
    index = find_clips(made_folder / "part-1")
    assert index.classes == {"": 0}
    assert {clip.label for clip in index.clips} == {0}


def test_the_nearest_list_wins_over_one_above_and_over_the_folder(
    tmp_path: Path, made_folder: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for name in ("near", "far", "none"):
        (inner / f"{name}.mp4").symlink_to(made_folder / "part-1" / "clip-0000.mp4")
    (inner / "captions.jsonl").write_text('{"file": "near.mp4", "class": "dog"}')
    (tmp_path / "captions.jsonl").write_text(
        '{"file": "inner/near.mp4", "class": "cat"}\n{"file": "inner/far.mp4", "label": 7}\n'
        '{"file": "inner/gone.mp4", "class": "cat"}\n'
    )
    index = find_clips(tmp_path)
    assert index.classes == {"dog": 0, "inner": 1, "class 7": 7}
    assert {clip.path.stem: clip.label for clip in index.clips} == {"near": 0, "far": 7, "none": 1}
    assert index.passed_over == (("inner/gone.mp4", "has a class, but is not there"),)


def test_more_classes_than_the_network_knows_are_told_with_the_key() -> None:
    refuse_more_classes({"a": 0, "b": 1}, 2, Path("/clips"))
    with pytest.raises(
        MoescopeError, match=r"of 6 classes, but model\.num_classes is 2: set model\.num_classes=6"
    ):
        refuse_more_classes({"a": 0, "class 5": 5}, 2, Path("/clips"))


def test_the_numbers_of_a_run_are_written_and_read(tmp_path: Path) -> None:
    assert read_classes(tmp_path) == {}
    classes = {"": 0, "größer": 1}
    write_classes(tmp_path, classes)
    assert read_classes(tmp_path) == classes
    assert [path.name for path in tmp_path.iterdir()] == ["classes.json"]


@pytest.mark.parametrize("text", ["{", '["a"]', '{"a": "0"}', '{"a": -1}'])
def test_a_damaged_record_of_numbers_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(MoescopeError, match=r"classes\.json (is damaged|cannot be read)"):
        read_classes(tmp_path)
