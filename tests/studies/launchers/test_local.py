"""Slots of this machine: what each gets, who works in which, and what a worker leaves."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from moescope.platform import leases, trials
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Study, Trial
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.studies.launchers.local import LocalLauncher, place_leases, places
from moescope.studies.launchers.process import LocalProcess, Place
from moescope.studies.spec import Launch
from moescope.studies.work import work_in_slot


class TestPlaces:
    def test_cores_are_shared_out_and_gpus_are_each_slot_s_own(self) -> None:
        launch = Launch(slots=2, gpus=2)
        found = places(launch, range(8), ["0", "1", "2", "3"], 64.0)
        assert [place.cores for place in found] == [(0, 1, 2, 3), (4, 5, 6, 7)]
        assert [place.gpus for place in found] == [("0", "1"), ("2", "3")]

    def test_more_slots_than_cores_share_all_of_them(self) -> None:
        found = places(Launch(slots=3), range(2), [], 64.0)
        assert [place.cores for place in found] == [(), (), ()]
        assert found[0].gpus is None

    @pytest.mark.parametrize(
        ("keys", "says"),
        [
            ({"slots": 2, "gpus": 1}, "2 slots of 1 gpus, but this machine has 1"),
            ({"slots": 3, "cores": 2}, "3 slots of 2 cores, but this machine has 4"),
            ({"slots": 2, "memory_gib": 40}, "2 slots of 40 memory_gib, but this machine has 64"),
        ],
    )
    def test_what_this_machine_has_not_is_one_line(self, keys: dict[str, Any], says: str) -> None:
        with pytest.raises(MoescopeError, match=says):
            places(Launch(**keys), range(4), ["0"], 64.0)


class TestAProcess:
    def test_it_has_its_cores_its_gpus_and_says_what_it_holds(self, tmp_path: Path) -> None:
        code = (
            "import os, time; block = bytearray(200 << 20); "
            "print(os.sched_getaffinity(0), os.environ['CUDA_VISIBLE_DEVICES'], flush=True); "
            "time.sleep(60)"
        )
        process = LocalProcess(
            [sys.executable, "-c", code], tmp_path / "log", Place((0,), ("5", "7"))
        )
        until_s = time.monotonic() + 30
        while not process.tail():
            assert time.monotonic() < until_s
            time.sleep(0.05)
        assert process.tail().strip() == "{0} 5,7"
        assert 0.19 < process.memory_gib < 0.5
        process.stop(patience_s=5)
        assert process.exit_code == -15
        assert process.memory_gib == 0.0

    def test_what_it_started_ends_with_it(self, tmp_path: Path) -> None:
        code = (
            "import subprocess, sys, time; "
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
            "print(child.pid, flush=True); time.sleep(60)"
        )
        process = LocalProcess([sys.executable, "-c", code], tmp_path / "log", Place())
        until_s = time.monotonic() + 30
        while not process.tail().strip():
            assert time.monotonic() < until_s
            time.sleep(0.05)
        child = psutil.Process(int(process.tail()))
        process.stop(patience_s=5)
        _, alive = psutil.wait_procs([child], timeout=5)
        assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", mlflow="off")


@pytest.fixture
def opened(settings: Settings) -> Iterator[Store]:
    settings.make_home()
    with open_store(settings.store_url) as store:
        trials.ask(store, Study("s", {}, "running", 1.0), [])
        yield store


@pytest.fixture
def launcher(opened: Store, settings: Settings) -> Iterator[Callable[..., LocalLauncher]]:
    made: list[LocalLauncher] = []

    def make(slots: int = 1) -> LocalLauncher:
        log = settings.home_path / "workers.log"
        made.append(LocalLauncher(opened, settings, "s", Launch(slots=slots), log))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def lease_of(number: int) -> str:
    return place_leases(number, Place(), are_cores_own=False)[0]


def test_a_slot_that_somebody_works_in_is_left_alone(
    opened: Store, launcher: Callable[..., LocalLauncher], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(LocalLauncher, "_start", lambda self, number, now_s: started.append(number))
    assert leases.claim(opened, lease_of(0), "host:1:x:other", time.time(), 30.0)
    launcher(slots=2).look(2)
    assert started == [1]
    # one to do: the other study's worker will not do it
    started.clear()
    launcher(slots=2).look(1)
    assert started == [1]
    # but one of ours, whoever started it, will
    started.clear()
    leases.release(opened, lease_of(0), "host:1:x:other")
    assert leases.claim(opened, lease_of(0), "host:1:x:s", time.time(), 30.0)
    launcher(slots=2).look(1)
    assert started == []


def test_two_studies_never_have_one_gpu(
    opened: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    started: list[int] = []
    monkeypatch.setattr(LocalLauncher, "_start", lambda self, number, now_s: started.append(number))
    whole = place_leases(0, Place(gpus=("0", "1")), are_cores_own=False)
    assert whole[1:] == [name.replace("slot", "gpu") for name in (lease_of(0), lease_of(1))]
    for name in whole:
        assert leases.claim(opened, name, "host:1:x:other", time.time(), 30.0)
    # its slot 1 is free, the GPU of that is not
    LocalLauncher(opened, settings, "s", Launch(slots=2, gpus=1), None).look(2)
    assert started == []
    trials.ask(opened, Study("s", {}, "running", 1.0), [Trial("s", "k", 0, "t", {}, {}, {})])
    work_in_slot(opened, settings, "s", 1, Place(gpus=("1",)), lambda line: None)
    assert trials.trials(opened, "s")[0].num_attempts == 0
    assert leases.holder(opened, lease_of(1), time.time()) is None


def test_two_workers_for_one_slot_are_one(opened: Store, settings: Settings) -> None:
    assert leases.claim(opened, lease_of(0), "the other", time.time(), 30.0)
    trials.ask(opened, Study("s", {}, "running", 1.0), [Trial("s", "k", 0, "t", {}, {}, {})])
    work_in_slot(opened, settings, "s", 0, Place(), lambda line: None)
    assert trials.trials(opened, "s")[0].num_attempts == 0


def test_a_worker_with_nothing_to_do_ends_and_frees_its_slot(
    opened: Store, launcher: Callable[..., LocalLauncher]
) -> None:
    one = launcher()
    one.look(1)
    until_s = time.monotonic() + 30
    while one.look(0) == [] and one._workers:
        assert time.monotonic() < until_s
        time.sleep(0.1)
    assert leases.holder(opened, lease_of(0), time.time()) is None


def test_workers_that_end_at_once_are_started_ever_more_slowly(
    opened: Store, launcher: Callable[..., LocalLauncher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    one = launcher()
    told: list[str] = []
    until_s = time.monotonic() + 5.0
    while time.monotonic() < until_s:
        told += one.look(1)
        time.sleep(0.02)
    # at 0 s, 2 s later, 4 s after that
    assert 1 <= len(told) <= 3
    assert all("worker in slot 0 ended with code 1: see" in line for line in told)


def test_a_trainer_beyond_its_memory_is_ended_and_not_tried_again(
    opened: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moescope.platform.records import Run
    from moescope.studies.worker import Worker

    code = "import time; block = bytearray(300 << 20); time.sleep(60)"
    monkeypatch.setattr(Worker, "_command", lambda self, trial: [sys.executable, "-c", code])
    trials.ask(opened, Study("s", {}, "running", 1.0), [Trial("s", "k", 0, "t", {}, {}, {})])
    said: list[str] = []
    worker = Worker(opened, settings, "s", Place(memory_gib=0.2), say=said.append)
    worker.work(threading.Event())
    (trial,) = trials.trials(opened, "s")
    assert (trial.state, trial.num_attempts) == ("failed", 1)
    assert "took more than its 0.2 GiB of memory" in trial.result["reason"]
    assert opened.runs() == list[Run]()
