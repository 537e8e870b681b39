"""A small study with real trainers: finished, killed, changed, stopped, taken over."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from moescope.platform import trials
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed, parsed
from moescope.platform.records import Trial
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.studies.plan import plan
from moescope.studies.run import run_study, start_study
from moescope.studies.spec import StudySpec
from moescope.studies.worker import Worker
from moescope.trainer.data.make_clips import make_clips

pytestmark = pytest.mark.story

STEPS = 12
SMALL = {
    "data.batch": 4,
    "data.num_frames": 4,
    "data.height": 16,
    "data.width": 16,
    "data.num_mels": 8,
    "data.num_mel_steps": 8,
    "data.num_text_bytes": 8,
    "model.width": 32,
    "model.layers": 2,
    "model.heads": 2,
    "moe.num_experts": 4,
    "moe.hidden": 16,
    "optim.warmup_steps": 2,
    "watch.probe_every": 0,
    "checkpoint.disk_every_steps": 4,
    "checkpoint.min_free_gib": 0.0,
}
TOKENS_PER_STEP = 4 * 12
"""A batch of 4, each with 8 tokens of video, 2 of sound and 2 of text."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder, 12, seed=0)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", mlflow="off")


@pytest.fixture
def opened(settings: Settings) -> Iterator[Store]:
    settings.make_home()
    with open_store(settings.store_url) as store:
        yield store


@pytest.fixture
def spec(clips: Path) -> Callable[..., StudySpec]:
    def made(**keys: Any) -> StudySpec:
        base = {
            "name": "s",
            "kind": "seeds",
            "data": str(clips),
            "changes": SMALL,
            "budget": {"tokens": [STEPS * TOKENS_PER_STEP]},
            "seeds": [0, 1],
        }
        return parsed(StudySpec, {**base, **keys}, "study")

    return made


def run(store: Store, settings: Settings, spec: StudySpec) -> list[Trial]:
    """With a worker in this process."""
    start_study(store, plan(spec, {}), is_served=False)
    Worker(store, settings, spec.name).work(threading.Event())
    return trials.trials(store, spec.name)


def test_each_trial_is_in_the_result_once_with_what_it_was_to_see(
    opened: Store, settings: Settings, spec: Callable[..., StudySpec]
) -> None:
    found = run(opened, settings, spec())
    assert [trial.state for trial in found] == ["done", "done"]
    for trial in found:
        assert trial.result["tokens"] == STEPS * TOKENS_PER_STEP
        assert trial.result["verdict"] == "healthy"
        assert 0 < trial.result["loss"] < 3
    assert found[0].result["loss"] != found[1].result["loss"]
    # asked again with one seed more: what is done stays done
    more = run(opened, settings, spec(seeds=[0, 1, 2]))
    assert [trial.num_attempts for trial in more] == [1, 1, 1]
    assert [trial.run_id for trial in more[:2]] == [trial.run_id for trial in found]
    assert len(opened.runs()) == 3


def test_a_branch_goes_on_from_the_run_of_the_larger_budget(
    opened: Store, settings: Settings, spec: Callable[..., StudySpec]
) -> None:
    wanted = spec(
        changes={**SMALL, "optim.schedule": "wsd"},
        kind="ladder",
        sizes={"recipes": ["tiny"]},
        seeds=[0],
        budget={"tokens": [10 * TOKENS_PER_STEP, 20 * TOKENS_PER_STEP]},
        has_branches=True,
        learning_rate="fixed",
        batch="fixed",
    )
    trunk, branch = run(opened, settings, wanted)
    assert (trunk.state, branch.state) == ("done", "done")
    assert (trunk.result["steps"], branch.result["steps"]) == (20, 2)
    assert branch.result["tokens"] == 2 * TOKENS_PER_STEP


def test_a_trainer_that_is_killed_is_resumed(
    opened: Store, settings: Settings, spec: Callable[..., StudySpec], monkeypatch: Any
) -> None:
    monkeypatch.setattr(trials, "FIRST_WAIT_S", 0.1)
    wanted = spec(budget={"tokens": [120 * TOKENS_PER_STEP]}, seeds=[0, 1])
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for folder in (settings.home_path / "runs").glob("*/checkpoints/*"):
                for child in psutil.Process().children(recursive=True):
                    if folder.exists() and "moescope.trainer" in " ".join(child.cmdline()):
                        child.kill()
                        killed.append(child.pid)
                        return
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    found = run(opened, settings, wanted)
    thread.join()
    assert [trial.state for trial in found] == ["done", "done"]
    assert sorted(trial.num_attempts for trial in found) == [1, 2]
    assert {trial.result["tokens"] for trial in found} == {120 * TOKENS_PER_STEP}
    assert len(opened.runs()) == 2
    again = next(trial for trial in found if trial.num_attempts == 2)
    assert trials.attempts(opened, "s", again.key)[0].exit_reason == "ended by signal 9"


def test_a_trainer_that_outlives_its_worker_is_taken_over(
    opened: Store, settings: Settings, spec: Callable[..., StudySpec], monkeypatch: Any
) -> None:
    wanted = spec(budget={"tokens": [120 * TOKENS_PER_STEP]}, seeds=[0, 1])
    start_study(opened, plan(wanted, {}), is_served=False)
    dead = Worker(opened, settings, "s")
    dead.look()
    orphan = dead.process
    assert orphan is not None
    until_s = time.monotonic() + 60
    while not opened.runs():
        assert time.monotonic() < until_s
        time.sleep(0.1)
    # the dead worker's claims are over at once for the one that comes
    later = Worker(opened, settings, "s", clock=lambda: time.time() + 31)
    monkeypatch.setattr("moescope.studies.worker.LEASE_S", 60.0)
    later.work(threading.Event())
    assert orphan.exit_code == 0
    found = trials.trials(opened, "s")
    assert [trial.state for trial in found] == ["done", "done"]
    assert len(opened.runs()) == 2


def test_a_stop_lets_trainers_save_and_nothing_is_lost(
    opened: Store, settings: Settings, spec: Callable[..., StudySpec]
) -> None:
    wanted = spec(budget={"tokens": [120 * TOKENS_PER_STEP]})

    def stop() -> None:
        while not any(run.status == "running" for run in opened.runs()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    # with a worker process for each slot
    two = changed(wanted, {"launch.slots": 2})
    run_study(opened, settings, plan(two, {}), lambda line: None)
    thread.join()
    found = trials.trials(opened, "s")
    assert [trial.state for trial in found] == ["waiting", "waiting"]
    assert [trial.num_failures for trial in found] == [0, 0]
    found = run(opened, settings, wanted)
    assert [trial.result["verdict"] for trial in found] == ["healthy", "healthy"]
    assert [trial.result["steps"] for trial in found] == [120, 120]


def test_what_cannot_train_is_given_up_with_its_reason(
    opened: Store, settings: Settings, spec: Callable[..., StudySpec], monkeypatch: Any
) -> None:
    monkeypatch.setattr(trials, "FIRST_WAIT_S", 0.1)
    wanted = spec(changes={**SMALL, "device": "cuda"}, seeds=[0, 1])
    found = run(opened, settings, wanted)
    assert [(trial.state, trial.num_attempts) for trial in found] == [("failed", 4)] * 2
    assert found[0].result["reason"] == "ended with code 2"
    assert "cuda" in trials.attempts(opened, "s", found[0].key)[-1].log_tail.lower()
    assert opened.runs() == []


def test_a_study_without_data_or_cancelled_does_not_start(
    opened: Store, settings: Settings, spec: Callable[..., StudySpec]
) -> None:
    with pytest.raises(MoescopeError, match="study s has no data: give a folder"):
        run_study(opened, settings, plan(spec(data=""), {}), lambda line: None)
    assert trials.studies(opened) == []
    run(opened, settings, spec())
    trials.set_state(opened, "s", "cancelled")
    with pytest.raises(MoescopeError, match="study s is cancelled: `moescope study resume s`"):
        run(opened, settings, spec())
