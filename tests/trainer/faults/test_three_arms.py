"""Only the arms with the fault meet it, from its turn on, and each ends after the same batches."""

from pathlib import Path

import pytest

from moescope.platform.errors import MoescopeError
from moescope.trainer.faults import three_arms
from moescope.trainer.faults.three_arms import arm_config, passing, train_arm


@pytest.mark.story
def test_each_arm_ends_after_the_same_batches_and_the_clean_one_meets_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(three_arms, "NUM_CLIPS", 12)
    monkeypatch.setattr(three_arms, "NUM_JUDGED", 2)
    config = arm_config(tmp_path, 0, 5)
    met: dict[str, list[int]] = {"clean": [], "advisory": []}
    found = {
        arm: train_arm(
            arm,
            lambda _, since, arm=arm: met[arm].append(since),  # type: ignore[misc]
            config,
            tmp_path,
            onset=2,
            num_batches=5,
        )
        for arm in met
    }
    assert met == {"clean": [], "advisory": [0, 1, 2]}
    # nothing was done to either: bit for bit the same training
    assert found["clean"] == found["advisory"]
    assert found["clean"].loss > 0
    assert found["clean"].went_back == []


def test_an_unknown_fault_is_one_line() -> None:
    with pytest.raises(MoescopeError, match="did you mean learning_rate"):
        passing("learning_rat")
