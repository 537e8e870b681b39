"""Three trainings from one seed, as processes: never poisoned; poisoned and only advised;
poisoned and rolled back.
"""

import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.data.deliveries import Deliveries, make_demo_deliveries
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.recipes.stream import tiny

pytestmark = pytest.mark.story

EVERY = 10
AFTER_BACK = 20

ARM = """
import json, sys
from pathlib import Path
import torch
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.evaluation.evaluate import probe, probe_passes
from moescope.trainer.run import train

torch.set_num_threads(1)
config = RunConfig.model_validate_json(sys.argv[1])
home, clean, until_batch, every = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
with Batches(find_clips(clean), config.data, 0) as judge:
    batch = judge.validation_batch(16)
passes = probe_passes(config, batch)
seen = {"by_step": {}, "back": [], "at_end": None}

def on_step(trainer):
    step, data = trainer.state.step, trainer.state.batch
    is_end = data >= until_batch and seen["at_end"] is None
    if trainer.segment.reason == "rollback" and len(seen["back"]) < trainer.segment.index:
        seen["back"].append([step, data])
    if is_end or step >= 70 and step % every == 0:
        loss = probe(trainer.state.model, batch, passes, config).total
        seen["by_step"][step] = loss
        if is_end:
            seen["at_end"] = loss
            trainer.stop()

settings = Settings(home=home, mlflow="off")
result = train(config, settings=settings, run_id="r", progress=False, on_step=on_step)
seen["status"] = result.status
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def config() -> RunConfig:
    changes = {"steps": 400, "data.order": "by_folder", "data.windows_per_clip": 16}
    return changed(tiny(), {**changes, "watch.probe_every": 0})


@pytest.fixture(scope="module")
def arms(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("arms")
    poisoned, clean = root / "poisoned", root / "clean"
    deliveries = make_demo_deliveries(poisoned, config.data, clean_batches=120, last_batches=40)
    copytree(poisoned, clean)
    # the same clips of the second delivery, before anybody spoiled them
    num_clips = len(list((clean / "part-2").glob("*.mp4")))
    rmtree(clean / "part-2")
    make_clips(clean / "part-2", num_clips, seed=1)
    processes = {
        name: start(config, folder, mode, root / name, clean, deliveries)
        for name, folder, mode in (
            ("clean", clean, "off"),
            ("advisory", poisoned, "advisory"),
            ("rollback", poisoned, "on"),
        )
    }
    return {name: finish(process) for name, process in processes.items()}


def start(
    config: RunConfig, folder: Path, mode: str, home: Path, clean: Path, deliveries: Deliveries
) -> subprocess.Popen[str]:
    arm = changed(config, {"data.folder": str(folder), "policy.mode": mode})
    until = deliveries.last_spoiled_batch + 1
    command = [sys.executable, "-c", ARM, arm.model_dump_json(), str(home), str(clean)]
    return subprocess.Popen(
        [*command, str(until), str(EVERY)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    seen: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert seen["at_end"] is not None, f"the stretch was never passed: {seen}"
    return seen


def test_twenty_steps_after_going_back_the_run_is_where_a_clean_one_is(
    arms: dict[str, dict[str, Any]],
) -> None:
    step, _ = arms["rollback"]["back"][0]
    later = str(step + AFTER_BACK)
    back, clean = arms["rollback"]["by_step"][later], arms["clean"]["by_step"][later]
    assert back <= 1.05 * clean, f"{back:.4f} after going back, {clean:.4f} in the clean run"


def test_without_rollback_the_model_is_a_quarter_worse_at_equal_batches_consumed(
    arms: dict[str, dict[str, Any]],
) -> None:
    advised, back = arms["advisory"]["at_end"], arms["rollback"]["at_end"]
    assert advised >= 1.25 * back, f"{advised:.4f} advised only, {back:.4f} rolled back"


def test_only_the_poisoned_run_that_may_act_goes_back(arms: dict[str, dict[str, Any]]) -> None:
    assert arms["rollback"]["back"]
    assert arms["clean"]["back"] == []
    assert arms["advisory"]["back"] == []
