"""Two trainers take turns, step by step, in one process: one with healthy sinks, one whose sinks
fail all the time.
"""

import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.loop import Trainer
from moescope.trainer.recipes.stream import tiny
from moescope.trainer.run import open_trainer

pytestmark = pytest.mark.story

NUM_TURNS = 200
MOST_SLOWER = 1.05


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Somebody holds the database's write lock and does not let go."""
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    yield
    holder.execute("ROLLBACK")
    holder.close()


@contextmanager
def gone(file: Path) -> Iterator[None]:
    """The disk that the database lies on was taken away; it comes back as it was."""
    names = [path for path in file.parent.iterdir() if path.name.startswith(file.name)]
    for path in names:
        path.rename(path.with_name(f"away-{path.name}"))
    yield
    for path in names:
        path.with_name(f"away-{path.name}").rename(path)


@contextmanager
def full(file: Path) -> Iterator[None]:
    """The disk that the database lies on has no byte left."""
    filler = file.with_name("filler")
    with suppress(OSError), filler.open("wb", buffering=0) as rest:
        while True:
            rest.write(bytes(4096))
    yield
    filler.unlink()


@contextmanager
def read_only(file: Path) -> Iterator[None]:
    """The disk comes back as it was, but mounted so that nothing can be written."""
    folder = file.parent
    twin = folder.with_name("read-only-twin")
    with small_disk(twin):
        for path in folder.iterdir():
            shutil.copy(path, twin)
        mount("-o", "remount,ro", str(twin))
        mount("--bind", str(twin), str(folder))
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own for the database; False where this process may not mount one."""
    folder.mkdir()
    is_mounted = os.geteuid() == 0 and mount("-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder))
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], check=False).returncode == 0


@contextmanager
def hanging_server() -> Iterator[str]:
    """An MLflow that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in taken:
            connection.close()


def test_a_step_takes_as_long_with_broken_sinks_as_with_good_ones(tmp_path: Path) -> None:
    make_clips(tmp_path / "clips", 24)
    changes = {"data.folder": str(tmp_path / "clips"), "steps": 10_000, "watch.probe_every": 0}
    config = changed(tiny(), {**changes, "data.batch": 4, "checkpoint.disk_every_steps": 10_000})
    faults: list[Callable[[Path], AbstractContextManager[None]]] = [locked, gone]
    good_s: list[float] = []
    bad_s: list[float] = []
    with ExitStack() as stack:
        mlflow = stack.enter_context(hanging_server())
        good_home = Settings(home=tmp_path / "good", mlflow="off")
        if stack.enter_context(small_disk(tmp_path / "disk")):
            # only who may mount a disk can fill it; the contract suite has these faults for all
            faults += [full, read_only]
        file = tmp_path / "disk" / "store.db"
        bad_home = Settings(home=tmp_path / "bad", store=f"sqlite:///{file}", mlflow=mlflow)
        good = stack.enter_context(open_trainer(config, good_home, run_id="r"))
        bad = stack.enter_context(open_trainer(config, bad_home, run_id="r"))
        for trainer in (good, bad) * 5:
            trainer.train_step()
        for fault in faults:
            with fault(file):
                for turn in range(NUM_TURNS // len(faults)):
                    order = (good, bad) if turn % 2 else (bad, good)
                    for trainer in order:
                        (good_s if trainer is good else bad_s).append(timed(trainer))
            assert_caught_up(bad, bad_home)
        status = bad.fan_out.status()
        assert {sink.name: sink.state for sink in status.sinks}["mlflow"] in ("hangs", "fails")
        assert list((tmp_path / "bad" / "runs" / "r" / "journal").iterdir())
        assert status.coalesced == 0
    ratio = float(np.median(bad_s) / np.median(good_s))
    assert ratio <= MOST_SLOWER, f"{ratio:.3f} times the step with healthy sinks"


def timed(trainer: Trainer) -> float:
    start_s = time.perf_counter()
    trainer.train_step()
    return time.perf_counter() - start_s


def assert_caught_up(trainer: Trainer, settings: Settings) -> None:
    """Everything lossless is in the store, once the fault is over."""
    store = open_store(settings.store_url)
    try:
        until_s = time.monotonic() + 40
        while time.monotonic() < until_s:
            steps = read_series(store, "r", catalogue.LOSS_TOTAL).steps
            if len(steps) == trainer.state.step:
                break
            time.sleep(0.5)
        np.testing.assert_array_equal(steps, np.arange(trainer.state.step))
    finally:
        store.close()
