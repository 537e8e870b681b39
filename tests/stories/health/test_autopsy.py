"""One seed of each kind of planted cause gets its verdict, from its record and its replay alone."""

from pathlib import Path

import pytest
import torch

from moescope.platform.settings import Settings
from moescope.trainer.faults.autopsies import ONSET, AutopsyRun, asked_causes, make_autopsy_runs
from moescope.trainer.faults.causes import causes

pytestmark = pytest.mark.story

FAMILIES = {
    "clips": ["poisoned_clips", "clips_and_rate", "clips_and_moments"],
    "others": [
        "learning_rate",
        "spoiled_moments",
        "noisy_answers",
        "noisy_gradients",
        "no_number_once",
        "bf16_weights",
    ],
    "monopoly": ["monopoly"],
    "bf16 router": ["bf16_router"],
    "false alarm": ["false_alarm"],
}
SEEN_LATE = {"bf16_router": 3}
"""Steps that the onset may lie before the plant, where its signal is measured every 20 steps."""
FIRST_TO_MOVE = {"learning_rate": "learning rate"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_verdict_names_what_was_planted(family: str, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    # replays are exact on one thread, and so are the figures of make score
    torch.set_num_threads(1)
    try:
        settings = Settings(home=tmp_path / "home", mlflow="off")
        causes = asked_causes(FAMILIES[family])
        runs = make_autopsy_runs(causes, tmp_path, 1, settings)
    finally:
        torch.set_num_threads(before)
    assert [run.cause.name for run in runs] == FAMILIES[family]
    for run in runs:
        _assert_right(run)


def _assert_right(run: AutopsyRun) -> None:
    name = run.cause.name
    assert run.incident is not None, f"{name}: no alert"
    content = run.incident.content
    told = [e["text"] for e in content["verdict"]["evidence"]]
    assert run.is_right, (name, run.said, told)
    if name != "false_alarm":
        error = abs(content["onset"]["step"] - ONSET)
        assert error <= SEEN_LATE.get(name, 1), (name, content["onset"])
    if name in FIRST_TO_MOVE:
        at_onset = [m["what"] for m in content["movers"] if m["step"] >= ONSET]
        assert at_onset[0] == FIRST_TO_MOVE[name]
    if run.spoiled_clips:
        named = {clip["name"] for clip in content["clips"]}
        assert named
        assert named <= run.spoiled_clips


def test_every_planted_cause_has_its_story() -> None:
    told = [name for family in FAMILIES.values() for name in family]
    assert sorted(told) == sorted(cause.name for cause in causes())
