"""One seed of each kind of planted cause gets its verdict, from its record and its replay alone."""

from pathlib import Path

import pytest
import torch

from moescope.platform.settings import Settings
from moescope.trainer.faults.autopsies import ONSET, AutopsyRun, asked_causes, make_autopsy_runs

pytestmark = pytest.mark.story

# one of each verdict; the other planted causes, two of which take a minute each, are left to
# `make score`
FAMILIES = {
    "clips": ["poisoned_clips", "clips_and_moments"],
    "others": ["learning_rate", "noisy_answers", "bf16_weights"],
    "false alarm": ["false_alarm"],
}
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
        assert abs(content["onset"]["step"] - ONSET) <= 1, (name, content["onset"])
    if name in FIRST_TO_MOVE:
        at_onset = [m["what"] for m in content["movers"] if m["step"] >= ONSET]
        assert at_onset[0] == FIRST_TO_MOVE[name]
    if run.spoiled_clips:
        named = {clip["name"] for clip in content["clips"]}
        assert named
        assert named <= run.spoiled_clips
