"""Each arm meets what its case says, from its turn or batch on, and is judged after the same
batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.faults import three_arms
from moescope.trainer.faults.three_arms import (
    CASES,
    CLEAN,
    arm_config,
    case_of,
    make_case_clips,
    train_arm,
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(three_arms, "NUM_JUDGED", 2)
    monkeypatch.setattr(three_arms, "STRETCH", 3)


@pytest.mark.usefixtures("short")
def test_arms_that_nothing_is_done_to_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    config = arm_config(tmp_path, 0, 6)
    make_case_clips(CLEAN, config, tmp_path, onset=2, num_batches=6)
    met: list[int] = []
    looked_on = replace(CLEAN, make_plant=lambda: lambda _, since: met.append(since))
    found = [
        train_arm(arm, case, config, tmp_path, tmp_path / arm, onset=2, judged_at=[6, 4])
        for arm, case in (("clean", CLEAN), ("advisory", looked_on))
    ]
    # called at the boundaries from turn 2 on, not at the one where the run ends
    assert met == [0, 1, 2, 3]
    assert found[0] == found[1]
    assert list(found[0].losses) == [4, 6]
    assert found[0].losses[4] > found[0].losses[6] > 0
    assert (found[0].went_back, found[0].done, found[0].status) == ([], [], "stopped")


@pytest.mark.usefixtures("short")
def test_other_clips_lie_in_the_batches_from_the_onset_on_and_in_no_others(tmp_path: Path) -> None:
    rewritten: dict[str, list[Path]] = {"batch": [], "stretch": []}

    def noting(part: str) -> Callable[[list[Path], int], None]:
        return lambda paths, seed: rewritten[part].extend(paths)

    case = replace(CLEAN, rewritten={part: noting(part) for part in rewritten})
    config = changed(arm_config(tmp_path, 0, 12), {"data.validation_share": 0.0})
    make_case_clips(case, config, tmp_path, onset=4, num_batches=12)
    with Batches(find_clips(tmp_path / "clips"), config.data, 0) as batches:
        parts = [{clip.path for _, clip in batches.which(n)} for n in range(12)]
    assert parts[4] == set(rewritten["batch"])
    assert parts[5] | parts[6] == set(rewritten["stretch"])
    others = set().union(*parts[:4], *parts[7:])
    assert not others & {path for paths in rewritten.values() for path in paths}


def test_there_are_faults_and_cases_that_are_none() -> None:
    assert {case.is_fault for case in CASES.values()} == {True, False}
    # each case does something
    assert all((case.make_plant is None) == bool(case.rewritten) for case in CASES.values())
    with pytest.raises(MoescopeError, match="did you mean learning_rate"):
        case_of("learning_rat")
