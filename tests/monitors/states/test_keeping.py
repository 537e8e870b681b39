"""What a disk that refuses does to the states that are kept: said, and nothing else is lost."""

import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from moescope.monitors.states import keeping
from moescope.monitors.states.checkpoint import read_checkpoint, write_checkpoint
from moescope.monitors.states.keeping import Keeper
from moescope.monitors.states.retiring import steps_within
from moescope.monitors.states.stamps import HEALTH, read_health, write_health
from moescope.platform.records import Checkpoint, Health

NoFileAbove = Callable[[int], AbstractContextManager[None]]


@dataclass
class Limits:
    memory_every_steps: int = 1
    ring_gib: float = 0.0
    disk_every_steps: int = 1
    keep: int = 2
    quota_gib: float = 1.0
    min_free_gib: float = 0.0


@dataclass
class Training:
    """A model of 400 kB in a state of its own."""

    model: nn.Module = field(default_factory=lambda: nn.Linear(1000, 100))
    step: int = 0
    batch: int = 0

    def capture(self) -> dict[str, Any]:
        return {"model": self.model.state_dict()}


@dataclass
class Kept:
    keeper: Keeper
    faults: list[str]

    def health(self, step: int) -> Health:
        return next(c for c in self.keeper.checkpoints if c.step == step).health

    def stamp(self, step: int, health: Health) -> None:
        there = next(c for c in self.keeper.checkpoints if c.step == step)
        self.keeper.stamp([replace(there, health=health)])


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    faults: list[str] = []
    said: list[Checkpoint] = []
    keeper = Keeper(
        tmp_path, Limits(), 100, "r", say=said.append, tell=faults.append, fail=faults.append
    )
    yield Kept(keeper, faults)
    keeper.close()


@pytest.mark.parametrize("kind", ["tensors", "objects"])
def test_a_full_disk_is_an_os_error_with_its_reason(
    tmp_path: Path, no_file_above: NoFileAbove, kind: str
) -> None:
    large = {"weight": torch.zeros(100_000)}
    state: Mapping[str, Any] = {"model": large} if kind == "tensors" else {"objects": large}
    write_checkpoint(tmp_path / "step-1", state, {"step": 1})
    with no_file_above(65536), pytest.raises(OSError, match="File too large") as caught:
        write_checkpoint(tmp_path / "step-1", state, {"step": 2})
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    read_checkpoint(tmp_path / "step-1")


def test_the_writer_outlives_a_full_disk(kept: Kept, no_file_above: NoFileAbove) -> None:
    training = Training()
    kept.keeper.first(training, 0)
    with no_file_above(65536):
        training.step = 1
        kept.keeper.after_step(training, 0)
        kept.keeper.flush()
    assert [c.step for c in kept.keeper.checkpoints] == [0]
    training.step = 2
    assert kept.keeper.save_now(training, 0) is not None
    assert kept.faults == [
        "checkpoint of step 1 not written: File too large; the older ones are untouched"
    ]
    read_checkpoint(Path(kept.keeper.checkpoints[0].path))


def test_the_writer_outlives_what_nobody_thought_of(kept: Kept) -> None:
    class Odd(Training):
        def capture(self) -> dict[str, Any]:
            return {"odd": object()}

    kept.keeper.first(Odd(), 0)
    assert "checkpoint of step 0 not written: AssertionError: /odd is" in kept.faults[0]
    assert kept.keeper.save_now(Training(step=1), 0) is not None


def test_a_fault_of_the_last_write_is_said_on_closing(
    tmp_path: Path, no_file_above: NoFileAbove
) -> None:
    faults: list[str] = []
    keeper = Keeper(
        tmp_path, Limits(), 100, "r", say=lambda _: None, tell=faults.append, fail=faults.append
    )
    with no_file_above(65536):
        keeper.after_step(Training(step=1), 0)
        keeper.close()
    assert len(faults) == 1


def test_a_taint_during_a_slow_write_outlives_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a ring the state is in no place but on its way to the disk
    begun, go_on = threading.Event(), threading.Event()

    def slow(*args: Any) -> int:
        begun.set()
        assert go_on.wait(10)
        return write_checkpoint(*args)

    training = Training()
    kept.keeper.first(training, 0)
    monkeypatch.setattr(keeping, "write_checkpoint", slow)
    training.step = 1
    kept.keeper.after_step(training, 0)
    assert begun.wait(10)
    training.step = 2
    kept.keeper.after_step(training, 0)
    kept.stamp(1, "tainted")
    kept.stamp(2, "tainted")
    go_on.set()
    kept.keeper.flush()
    assert (kept.health(1), kept.health(2)) == ("tainted", "tainted")
    for checkpoint in kept.keeper.checkpoints[1:]:
        assert read_health(Path(checkpoint.path)) == "tainted"


def test_a_taint_comes_after_the_health_that_the_writer_writes(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, stamped = threading.Event(), threading.Event()

    def slow(folder: Path, health: Health) -> None:
        if health == "fresh":
            writing.set()
            # with the order right, the stamp waits for this thread and the time runs out
            stamped.wait(0.2)
        write_health(folder, health)

    training = Training(step=1)
    monkeypatch.setattr(keeping, "write_health", slow)
    kept.keeper.after_step(training, 0)
    assert writing.wait(10)
    kept.stamp(1, "tainted")
    stamped.set()
    kept.keeper.flush()
    assert read_health(Path(kept.keeper.checkpoints[0].path)) == "tainted"


def test_a_revoked_certificate_is_never_read_again(kept: Kept, no_file_above: NoFileAbove) -> None:
    kept.keeper.first(Training(), 0)
    folder = Path(kept.keeper.checkpoints[0].path)
    assert read_health(folder) == "certified"
    with no_file_above(4):
        kept.stamp(0, "tainted")
        kept.stamp(0, "tainted")
        assert not (folder / HEALTH).exists()
    (fault,) = kept.faults
    assert fault == (
        "the health of step 0 (tainted) cannot be written beside its checkpoint, which counts as "
        "fresh without: File too large"
    )
    assert kept.health(0) == "tainted"
    kept.keeper.after_step(Training(step=1), 0)
    assert read_health(folder) == "tainted"


def test_the_quota_never_takes_the_way_back() -> None:
    def on_disk(*healths: Health) -> list[Checkpoint]:
        return [Checkpoint("r", 0, i, "", i, 1, 0.0, health) for i, health in enumerate(healths)]

    many = on_disk("certified", "certified", "fresh", "tainted", "fresh", "fresh")
    every = set(range(6))
    assert steps_within(many, every, 6) == every
    assert steps_within(many, every, 4) == {1, 3, 4, 5}
    assert steps_within(many, every, 0) == {1, 5}
    # nothing is certified yet: the first that is not tainted
    assert steps_within(on_disk("fresh", "fresh", "fresh"), {0, 1, 2}, 0) == {0, 2}
    assert steps_within(on_disk("tainted", "fresh", "fresh", "fresh"), {0, 1, 2, 3}, 0) == {1, 3}
    assert steps_within(on_disk("fresh", "fresh", "certified"), {0, 1, 2}, 0) == {1, 2}
