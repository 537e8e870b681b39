"""Trials of a study meet the same spoiled clips: the autopsy of one says that it is the data, as
the others were hit by the same batches.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from moescope.platform.frozen import difference
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.faults.autopsies import ONSET, asked_causes, cause_config
from moescope.trainer.recipes.stream import tiny

pytestmark = pytest.mark.story

SEED = 3
OF_THE_PLAN = {"seed", "steps", "data.folder"}
"""What a study says by fields of its own."""


def moescope(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "moescope.cli", *words, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_clips_that_hit_all_trials_of_a_study_are_the_data(tmp_path: Path) -> None:
    home = tmp_path / "home"
    config = cause_config(asked_causes(["poisoned_clips"]), tmp_path / "clips", SEED)
    changes = {key: value for key, (_, value) in difference(tiny(), config).items()}
    rate = config.optim.learning_rate
    study = {
        "name": "rates",
        "kind": "grid",
        "data": config.data.folder,
        "changes": {key: changes[key] for key in changes.keys() - OF_THE_PLAN},
        "axes": {"optim.learning_rate": [rate, 1.2 * rate]},
        "seeds": [SEED],
        "budget": {"tokens": [config.steps * config.data.batch * config.tokens_per_sample]},
        "launch": {"slots": 2, "cores": 1},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    moescope(home, "study", "run", str(tmp_path / "study.yaml"))

    settings = Settings(home=home)
    with open_store(settings.store_url) as store:
        runs = store.runs()
        spikes = {
            run.name: [
                a for a in store.alerts(run.id) if a.rule == "loss_spike" and a.fired_step >= ONSET
            ]
            for run in runs
        }
    assert len(runs) == 2
    assert all(spikes.values()), spikes
    mine, other = sorted(spikes)
    told = json.loads(moescope(home, "incident", spikes[mine][0].id, "--json"))["incident"]
    assert told["verdict"] == "data"
    across = told["content"]["across"]
    # the order of the data is the seed's, so that the other trial saw the same batches
    assert [row["run"] for row in across["odd_in"]] == [other]
    assert across["fine_in"] == []
    assert any(other in text and "it is the data" in text for text in across["said"])
