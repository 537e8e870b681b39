"""kill -9 at random moments of a run that does nothing but save and go back: the last good state is
never lost.
"""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig

pytestmark = pytest.mark.story

NUM_KILLS = 6
BUSY = """
import json, sys
from pathlib import Path
import torch
from moescope.platform.records import Action
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import train

torch.set_num_threads(1)
config, home, is_new = RunConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
turn = 0

def say(**what):
    print(json.dumps(what), flush=True)

def on_step(trainer):
    global turn
    if turn == 0:
        say(began=trainer.state.step)
    kept = [c.step for c in trainer.keeper.checkpoints if c.is_on_disk]
    say(kept=kept)
    turn += 1
    if turn % 6 == 0:
        to_step = max(s for s in kept if s < trainer.state.step)
        say(back=to_step)
        action = Action("rollback", "forced by the test", to_step=to_step)
        carry_out(trainer, action, is_automatic=False)

settings = Settings(home=home, mlflow="off")
train(config, settings=settings, progress=False, on_step=on_step,
      **({"run_id": "r"} if is_new == "new" else {"resume": "r"}))
"""


def killed(config: RunConfig, home: Path, which: str, after_s: float) -> list[dict[str, Any]]:
    """Runs until `after_s` after its first step and kills it; returns what it said."""
    command = [sys.executable, "-c", BUSY, config.model_dump_json(), str(home), which]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    if first:
        time.sleep(after_s)
    process.kill()
    out, err = process.communicate(timeout=60)
    assert first, err
    lines = (first + out).splitlines()
    # the last line may have been cut by the kill
    whole = [line for line in lines if line.endswith("}")]
    return [json.loads(line) for line in whole]


def test_a_kill_while_saving_or_going_back_never_loses_the_last_good_state(
    small: RunConfig, tmp_path: Path
) -> None:
    changes = {"steps": 5000, "policy.mode": "off", "checkpoint.disk_every_steps": 1}
    config = changed(small, {**changes, "checkpoint.ring_gib": 0.0, "checkpoint.keep": 3})
    chance = random.Random(0)
    said = killed(config, tmp_path / "home", "new", 1.0)
    for _ in range(NUM_KILLS):
        before = said
        said = killed(config, tmp_path / "home", "resumed", chance.uniform(0.0, 0.6))
        kept = [max(line["kept"]) for line in before if "kept" in line]
        last_kept = kept[-1] if kept else before[0]["began"]
        # a rollback that was being carried out may have taken away what it had left behind
        going_back = before[-1].get("back", last_kept)
        assert said[0]["began"] >= min(last_kept, going_back), (before[-3:], said[0])
