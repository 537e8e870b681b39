"""Two trainers and the service on one store at once: nobody is turned away, nothing is missing."""

import json
import subprocess
import sys
from pathlib import Path

from moescope.platform.commands import commands
from moescope.platform.series import read_series
from moescope.platform.store import open_store

PROGRAM = Path(__file__).with_name("live_with_others.py")


# the same for two minutes, with real trainers and the real service: tests/stories
SECONDS = 5


def test_two_trainers_and_the_service_share_a_store(store_url: str) -> None:
    roles = ["r0", "r1", "serve"]
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), store_url, role, str(SECONDS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for role in roles
    ]
    outputs = [process.communicate(timeout=SECONDS + 60) for process in processes]
    assert [errors for _, errors in outputs] == [""] * 3
    said = {role: json.loads(out) for role, (out, _) in zip(roles, outputs, strict=True)}
    num_commands = 0
    with open_store(store_url) as store:
        for run_id in ("r0", "r1"):
            num_steps = said[run_id]["num_steps"]
            assert num_steps > 5 * SECONDS
            for signal in ("loss/total", "router/expert_load"):
                series = read_series(store, run_id, signal)
                assert series.steps.tolist() == list(range(num_steps))
            assert len(store.events(run_id)) == -(-num_steps // 5)
            assert len(store.alerts(run_id)) == -(-num_steps // 20)
            assert store.find_run(run_id).status == "finished"
            # whatever was asked was taken, once
            asked = commands(store, run_id)
            assert said[run_id]["num_taken"] == sum(c.state != "asked" for c in asked)
            num_commands += len(asked)
        assert num_commands == said["serve"]["num_asked"] > 0
        assert said["serve"]["num_reads"] > 0
