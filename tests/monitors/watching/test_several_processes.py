"""Two processes that train together: one is watched, and both do the same."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moescope.platform import catalogue
from moescope.platform.commands import ask, commands
from moescope.platform.series import read_series
from moescope.platform.store import Store

NUM_RANKS, MOST_S = 2, 150


@contextmanager
def ranks(what: str, folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Starts them, and afterwards fills in what each has written down."""
    found: list[dict[str, Any]] = []
    script = str(Path(__file__).with_name("a_rank_that_is_watched.py"))
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={NUM_RANKS}"]
    process = subprocess.Popen(
        [sys.executable, "-m", *launcher, script, what, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield found
        said, _ = process.communicate(timeout=MOST_S)
        assert process.returncode == 0, said
    finally:
        # the launcher ends its processes when it is asked to end
        process.terminate()
        process.communicate()
    found += [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(NUM_RANKS)]


def answered(store: Store, kind: Any, args: dict[str, Any]) -> str:
    """Asks the run, once it is there, and returns the answer."""
    until_s = time.monotonic() + MOST_S
    while not store.runs():
        assert time.monotonic() < until_s, "no run was begun"
        time.sleep(0.1)
    [run] = store.runs()
    asked = ask(store, run.id, kind, args, "ada", time.time())
    while True:
        [command] = [c for c in commands(store, run.id) if c.id == asked.id]
        if command.state in ("done", "refused"):
            return command.answer
        assert time.monotonic() < until_s, f"{kind} was never answered"
        time.sleep(0.1)


def test_both_processes_do_the_same_and_one_is_recorded(tmp_path: Path, store: Store) -> None:
    """Before that each is refused a state, and nothing of the refusal is left."""
    with ranks("train", tmp_path) as found:
        assert answered(store, "damp", {"scale": 0.5, "steps": 3}) == (
            "learning rate x0.5 for 3 steps"
        )
        answered(store, "stop", {})
    first, second = found
    for rank in found:
        assert rank["refused"].startswith("state is given, but 2 processes train together")
    assert first["actions"] == second["actions"]
    kinds = [kind for kind, _ in first["actions"]]
    assert kinds[-1] == "halt"
    assert kinds.count("damp") == 1
    # rates are lower in both at the same three updates, and then as they were
    assert first["rates"] == second["rates"]
    assert [rate for rate in first["rates"] if rate < max(first["rates"])] == [
        0.5 * max(first["rates"])
    ] * 3
    # what is odd in the second process alone is held back in both
    assert first["held"] == second["held"]
    assert [step for step, is_held in enumerate(first["held"]) if is_held] == [5]
    assert first["weights"] == second["weights"]
    assert first["losses"] != second["losses"]
    for run_id, _, num_steps, fault in (first["run"], second["run"]):
        assert (run_id, num_steps, fault) == (first["run"][0], len(kinds), "")
    assert second["told"] == []
    [run] = store.runs()
    assert (run.name, run.status, run.mode) == ("both", "stopped", "advisory")
    losses = read_series(store, run.id, catalogue.LOSS_TOTAL)
    assert losses.values == pytest.approx(first["losses"])
    assert losses.steps.tolist() == list(range(len(kinds)))


@pytest.mark.story
def test_what_the_first_process_is_refused_the_other_is_refused_too(
    tmp_path: Path, store: Store
) -> None:
    with ranks("begin", tmp_path) as found:
        pass
    assert [rank["run"][1] for rank in found] == ["finished", "finished"]
    with ranks("begin", tmp_path) as found:
        pass
    assert found[0]["refused"] == found[1]["refused"]
    assert found[0]["refused"].startswith("there is a run called both already")
    assert len(store.runs()) == 1


@pytest.mark.story
def test_a_process_that_is_watched_alone_is_told_so(tmp_path: Path, store: Store) -> None:
    with ranks("alone", tmp_path) as found:
        pass
    assert found[0]["refused"] == (
        "watch() was called in process 0 of 2, but not in process 1 within 2 s: call it in each "
        "of them"
    )
    assert store.runs() == []
