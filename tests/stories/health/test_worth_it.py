"""Going back is worth it where a learning rate slips or the optimizer's state is spoiled, and does
not happen where it would be wrong. The poisoned stretch has a story of its own
(tests/stories/spine); `benchmarks/score_rollback.py` has the figures of more seeds.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from moescope.platform.frozen import changed
from moescope.trainer.config import DataConfig, RunConfig
from moescope.trainer.data import decode_here
from moescope.trainer.data.decode_worker import Task, outcome_of
from moescope.trainer.faults.three_arms import (
    CLEAN,
    Arm,
    Case,
    arm_config,
    case_of,
    make_case_clips,
    train_arm,
)

pytestmark = pytest.mark.story

SEED = 0
# the first states are certified at step 68
ONSET = 72
# a few steps behind the twenty at another learning rate, and behind an alarm and its rollback
JUDGED_AT = {"learning_rate": 98, "optimizer_state": 86}
LAST = max(JUDGED_AT.values())
# behind the alarm of the spike and its grace window
HARD_BATCH = ONSET + 8


@pytest.fixture(scope="module", autouse=True)
def _decoded_once() -> Iterator[None]:
    """Each arm reads the same clips: what they decode to is kept, which is half of the time."""
    known: dict[tuple[str, int, bytes], Any] = {}

    def kept(task: Task, data: DataConfig, seed: int) -> Any:
        content = hashlib.blake2b(task.clip.path.read_bytes()).digest()
        key = (task.clip.name, task.position, content)
        if key not in known:
            known[key] = outcome_of(task, data, seed)
        return known[key]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_here, "outcome_of", kept)
        yield
    torch.set_num_threads(threads)


def config_of(folder: Path) -> RunConfig:
    # half of the blocks: two thirds of the time
    return changed(arm_config(folder, SEED, LAST), {"model.layers": 2})


def clips_of(case: Case, folder: Path, onset: int) -> Path:
    config = config_of(folder)
    make_case_clips(case, config, folder, onset=onset, num_batches=LAST)
    return folder


def trained(arm: str, case: Case, folder: Path, judged_at: Sequence[int]) -> Arm:
    config = config_of(folder)
    run = Path(mkdtemp(dir=folder))
    return train_arm(arm, case, config, folder, run, onset=ONSET, judged_at=judged_at)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of clips that nothing was done to."""
    return clips_of(CLEAN, tmp_path_factory.mktemp("clean"), ONSET)


@pytest.fixture(scope="module")
def clean(folder: Path) -> Arm:
    return trained("clean", CLEAN, folder, list(JUDGED_AT.values()))


@pytest.mark.parametrize("name", JUDGED_AT)
def test_after_a_fault_that_passes_going_back_is_as_good_as_no_fault(
    name: str, folder: Path, clean: Arm
) -> None:
    case, judged_at = case_of(name), JUDGED_AT[name]
    advised, back = (trained(arm, case, folder, [judged_at]) for arm in ("advisory", "rollback"))
    assert back.went_back
    assert all(to < ONSET for _, to in back.went_back), back.went_back
    assert (advised.went_back, advised.done) == ([], [])
    assert back.losses[judged_at] <= 1.1 * clean.losses[judged_at], (back, clean)
    assert advised.losses[judged_at] >= 1.2 * back.losses[judged_at], (advised, back)


def test_nothing_is_done_about_a_spike_that_heals_alone_nor_about_a_hard_but_honest_batch(
    tmp_path: Path,
) -> None:
    clips = clips_of(case_of("hard_batch"), tmp_path, HARD_BATCH)
    run = trained("rollback", case_of("heals_alone"), clips, [HARD_BATCH + 8])
    # there was an alarm, and the grace window over which it healed
    assert "loss_spike" in run.alerts
    assert (run.went_back, run.done) == ([], [])
