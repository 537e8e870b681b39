"""Keeps states: into the host ring often, onto the disk sometimes, stamped with their health,
retired by age and quota.

The disk holds the newest state and certified ones at ages of about 1, 4, 16, ... certification
delays (DESIGN.md section 4). A write happens in a side thread from the ring's copy, so that
training does not wait for the disk.
"""

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import psutil
from torch import nn

from ...platform.errors import MoescopeError
from ...platform.records import Checkpoint, Health
from .checkpoint import (
    DamagedCheckpoint,
    checkpoint_folders,
    copied,
    num_bytes,
    read_about,
    read_checkpoint,
    remove_partials,
    write_checkpoint,
)
from .host_ring import HostRing
from .retiring import steps_to_keep, steps_within
from .stall import Stall
from .stamps import read_health, write_health

RING_STATES = 8


class NoUsableState(MoescopeError):
    """There is nothing left to go back to, neither in memory nor on disk."""


class KeepLimits(Protocol):
    """The numbers of keeping; the trainer's `CheckpointConfig` fits, and so does any object with
    these fields."""

    @property
    def memory_every_steps(self) -> int: ...
    @property
    def ring_gib(self) -> float: ...
    @property
    def disk_every_steps(self) -> int: ...
    @property
    def keep(self) -> int: ...
    @property
    def quota_gib(self) -> float: ...
    @property
    def min_free_gib(self) -> float: ...


class Kept(Protocol):
    """A training whose states are kept. `capture` returns the live state: a copy is made of it
    before the next step."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def step(self) -> int: ...
    @property
    def batch(self) -> int: ...
    def capture(self) -> dict[str, Any]: ...


class Keeper:
    """The states of one run. Methods are called from the training thread; only `_write` runs in
    the side thread.

    `say` takes a record for the store, `tell` a line for a person, `fail` a line for a fault that
    a person must see.
    """

    def __init__(
        self,
        folder: Path,
        config: KeepLimits,
        certify_after_steps: int,
        run_id: str,
        *,
        say: Callable[[Checkpoint], None],
        tell: Callable[[str], None],
        fail: Callable[[str], None],
        is_on_disk: bool = True,
    ) -> None:
        """is_on_disk: whether states are written at all; else the ring alone has them."""
        self.folder = folder
        self.is_on_disk = is_on_disk
        self._config = config
        self._delay = certify_after_steps
        self._run_id = run_id
        self._say, self._tell, self._fail = say, tell, fail
        folder.mkdir(parents=True, exist_ok=True)
        self._ring = HostRing(0)
        self._is_ring_prepared = False
        self._stall = Stall(config.memory_every_steps, time.perf_counter())
        self._by_step: dict[int, Checkpoint] = {}
        # handed to the writer and not through yet
        self._in_writing: set[int] = set()
        # their health is not beside the files, as that failed
        self._unstamped: set[int] = set()
        self._lock = threading.Lock()
        self._jobs: queue.Queue[tuple[Checkpoint, dict[str, Any]] | None] = queue.Queue(maxsize=1)
        self._faults: queue.Queue[str] = queue.Queue()
        self._writer = threading.Thread(target=self._write_all, name="checkpoints", daemon=True)
        self._writer.start()

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The states that can be gone back to, oldest first."""
        with self._lock:
            return [self._by_step[step] for step in sorted(self._by_step)]

    def open_folder(self) -> list[Checkpoint]:
        """Reads what an earlier process left on disk; half-written ones are removed, damaged ones
        left out."""
        remove_partials(self.folder)
        for path in checkpoint_folders(self.folder):
            try:
                about = read_about(path)
            except DamagedCheckpoint as damage:
                self._fail(str(damage))
                continue
            self._by_step[about["step"]] = Checkpoint(
                self._run_id,
                about["segment"],
                about["step"],
                str(path),
                about["batch"],
                sum(file.stat().st_size for file in path.iterdir()),
                about["created_s"],
                health=read_health(path),
            )
        return self.checkpoints

    def plan_ring(self, state: Kept) -> None:
        """Sizes the ring and says beforehand what it takes (states x about 16 bytes per
        parameter)."""
        parameters = sum(p.numel() * p.element_size() for p in state.model.parameters())
        # weights, two moments and the EMA: four times the weights, before the optimizer has made
        # its moments
        each = max(num_bytes(state.capture()), 4 * parameters)
        limit = int(self._config.ring_gib * 2**30)
        free = psutil.virtual_memory().available
        capacity, line = HostRing.planned_capacity(each, RING_STATES, limit, free)
        self._ring = HostRing(capacity)
        self._tell(line)
        if not capacity and not self.is_on_disk:
            raise MoescopeError(
                "states are kept in memory alone, and none fits: let them be kept on disk, too, or "
                "raise ring_gib"
            )

    def after_step(self, state: Kept, segment: int) -> None:
        """Takes a snapshot or writes to disk where the state's step is due for it."""
        self._stamp_again()
        self._tell_faults()
        if not self._is_ring_prepared:
            # not sooner: the optimizer makes its moments in the first step
            self._is_ring_prepared = True
            self._ring.prepare(state.capture())
        step = state.step
        to_disk = self.is_on_disk and step % self._config.disk_every_steps == 0
        if to_disk or (self._ring.capacity and step % self._config.memory_every_steps == 0):
            start_s = time.perf_counter()
            self._take(state, segment, to_disk=to_disk)
            line = self._stall.taken(start_s, time.perf_counter())
            # without a ring it is disk_every_steps that counts
            if line and self._ring.capacity:
                self._tell(line)

    def first(self, state: Kept, segment: int) -> None:
        """Keeps the state that a run starts from; it counts as certified, so that there always is
        one."""
        self._take(state, segment, to_disk=True, health="certified")
        self.flush()
        self._tell_faults()

    def save_now(self, state: Kept, segment: int) -> Checkpoint | None:
        """Writes the state to disk and waits for it. Returns None, after saying why, where it
        could not be written."""
        self.flush()
        with self._lock:
            there = self._by_step.get(state.step)
        if there is not None and there.is_on_disk and there.segment == segment:
            return there
        self._take(state, segment, to_disk=True)
        self.flush()
        self._tell_faults()
        with self._lock:
            kept = self._by_step.get(state.step)
        return kept if kept and kept.is_on_disk else None

    def write_no_more(self, why: str) -> None:
        """From now on states are kept in memory alone, as what is to be kept does not go to a disk;
        those that are on the disk stay there."""
        self.is_on_disk = False
        if self._ring.capacity:
            kept = "states are kept in memory alone from here on"
        else:
            kept = "no more states are kept, as host memory holds none"
        self._fail(f"{why}: {kept}; training goes on")

    def stamp(self, changed: Iterable[Checkpoint]) -> None:
        """Records a new health of checkpoints: in memory, beside the files and in the store."""
        for checkpoint in changed:
            with self._lock:
                mine = self._by_step.get(checkpoint.step)
                if mine is None:
                    continue
                mine = self._by_step[checkpoint.step] = replace(mine, health=checkpoint.health)
                if mine.is_on_disk:
                    self._record_health(mine)
            if mine.is_on_disk:
                self._say(mine)
        self._retire()
        self._tell_faults()

    def load(self, step: int) -> tuple[dict[str, Any], Checkpoint, str]:
        """Returns (state, checkpoint, "memory" or "disk") of a step; a damaged one is said and
        the next older taken.

        Raises NoUsableState where none that old is left.
        """
        self.flush()
        for checkpoint in reversed([c for c in self.checkpoints if c.step <= step]):
            if checkpoint.health == "tainted" and checkpoint.step != step:
                continue
            if checkpoint.step in self._ring.steps():
                return self._ring.state(checkpoint.step), checkpoint, "memory"
            try:
                return read_checkpoint(Path(checkpoint.path)), checkpoint, "disk"
            except DamagedCheckpoint as damage:
                self._fail(f"{damage}; taking the next older one")
                with self._lock:
                    del self._by_step[checkpoint.step]
        raise NoUsableState(
            f"no usable checkpoint at or before step {step} in {self.folder.name} "
            f"(there are: {[c.step for c in self.checkpoints]})"
        )

    def held_before(self, step: int) -> tuple[Checkpoint, dict[str, Any]] | None:
        """Returns the newest state of at most that step that is not tainted, for another thread to
        read; None where it is not in memory."""
        for checkpoint in reversed([c for c in self.checkpoints if c.step <= step]):
            if checkpoint.health != "tainted":
                is_held = checkpoint.step in self._ring.steps()
                return (checkpoint, self._ring.lend(checkpoint.step)) if is_held else None
        return None

    def drop_after(self, step: int) -> None:
        """Forgets the states of the branch that is abandoned by going back to `step`."""
        self.flush()
        self._ring.drop_after(step)
        with self._lock:
            gone = [c for c in self._by_step.values() if c.step > step]
            for checkpoint in gone:
                del self._by_step[checkpoint.step]
        for checkpoint in gone:
            if checkpoint.is_on_disk:
                shutil.rmtree(checkpoint.path, ignore_errors=True)
                self._say(replace(checkpoint, health="tainted", is_on_disk=False))

    def flush(self) -> None:
        """Waits until what was handed to the disk is there, or has failed."""
        self._jobs.join()
        with self._lock:
            self._forget_lost()

    def close(self) -> None:
        """Ends the writing and gives the host memory back, also where somebody still holds this."""
        self.flush()
        self._jobs.put(None)
        self._writer.join()
        self._stamp_again()
        self._tell_faults()
        # ends its thread, too, which may still be touching memory
        self._ring.capacity = 0
        self._ring = HostRing(0)

    def _tell_faults(self) -> None:
        while not self._faults.empty():
            self._fail(self._faults.get_nowait())

    def _take(self, state: Kept, segment: int, *, to_disk: bool, health: Health = "fresh") -> None:
        captured = state.capture()
        step, now_s = state.step, time.time()
        path = self.folder / f"step-{step:08d}-segment-{segment:04d}"
        checkpoint = Checkpoint(
            self._run_id,
            segment,
            step,
            str(path),
            state.batch,
            num_bytes(captured),
            now_s,
            health,
            is_on_disk=False,
        )
        self._ring.put(step, captured, keep=self._certified_steps())
        with self._lock:
            old = self._by_step.get(step)
            if old is not None:
                checkpoint = replace(checkpoint, health=old.health)
            if old is None or not old.is_on_disk:
                # one on the disk, of an earlier segment, stays until this one is there, too
                self._by_step[step] = checkpoint
            self._forget_lost(step)
        if to_disk and self.is_on_disk and self._has_room(checkpoint.num_bytes):
            held = self._ring.lend(step) if self._ring.capacity else copied(captured)
            with self._lock:
                self._in_writing.add(step)
            self._jobs.put((checkpoint, held))
        elif not self._ring.capacity:
            with self._lock:
                if not self._by_step[step].is_on_disk:
                    del self._by_step[step]

    def _forget_lost(self, new: int | None = None) -> None:
        """Forgets what is neither in memory nor on disk nor on its way there, save the step `new`.
        The caller holds the lock."""
        held = {*self._ring.steps(), *self._in_writing, new}
        for step in [s for s, c in self._by_step.items() if not c.is_on_disk and s not in held]:
            del self._by_step[step]

    def _certified_steps(self) -> frozenset[int]:
        certified = [c.step for c in self.checkpoints if c.health == "certified"]
        return frozenset(certified[-1:])

    def _has_room(self, needed: int) -> bool:
        free_gib = shutil.disk_usage(self.folder).free / 2**30
        if free_gib - needed / 2**30 < self._config.min_free_gib:
            self._fail(
                f"checkpoint not written: {free_gib:.2f} GiB free in {self.folder}, "
                f"checkpoint.min_free_gib is {self._config.min_free_gib}: free some or lower it"
            )
            return False
        return True

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._write(*job)
            except Exception as error:
                # whatever it is: without this thread the training would wait for the disk for good
                self._faults.put(
                    f"checkpoint of step {job[0].step} not written: {_why(error)}; "
                    "the older ones are untouched"
                )
            finally:
                with self._lock:
                    self._in_writing.discard(job[0].step)
                self._jobs.task_done()
        self._jobs.task_done()

    def _write(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        about = {
            "step": checkpoint.step,
            "batch": checkpoint.batch,
            "segment": checkpoint.segment,
            "created_s": checkpoint.created_s,
        }
        path = Path(checkpoint.path)
        size = write_checkpoint(path, state, about)
        with self._lock:
            current = self._by_step.get(checkpoint.step, checkpoint)
            is_older = current.is_on_disk and current.path != checkpoint.path
            done = replace(checkpoint, num_bytes=size, health=current.health, is_on_disk=True)
            self._by_step[checkpoint.step] = done
            # with the lock: a stamp that comes meanwhile is written after this one, not before
            self._record_health(done)
        if is_older:
            shutil.rmtree(current.path, ignore_errors=True)
            self._say(replace(current, is_on_disk=False))
        self._say(done)

    def _record_health(self, kept: Checkpoint) -> None:
        """Writes the health beside the files; a failure is said once and tried again. The caller
        holds the lock."""
        try:
            write_health(Path(kept.path), kept.health)
        except OSError as error:
            if kept.step not in self._unstamped:
                self._faults.put(
                    f"the health of step {kept.step} ({kept.health}) cannot be written beside its "
                    f"checkpoint, which counts as fresh without: {_why(error)}"
                )
            self._unstamped.add(kept.step)
        else:
            self._unstamped.discard(kept.step)

    def _stamp_again(self) -> None:
        with self._lock:
            for step in sorted(self._unstamped):
                kept = self._by_step.get(step)
                if kept is not None and kept.is_on_disk:
                    self._record_health(kept)
                else:
                    self._unstamped.discard(step)

    def _retire(self) -> None:
        on_disk = [c for c in self.checkpoints if c.is_on_disk]
        kept = steps_to_keep(on_disk, self._delay, self._config.keep)
        kept = steps_within(on_disk, kept, self._config.quota_gib * 2**30)
        for checkpoint in on_disk:
            if checkpoint.step in kept:
                continue
            in_memory = checkpoint.step in self._ring.steps()
            with self._lock:
                if in_memory:
                    self._by_step[checkpoint.step] = replace(checkpoint, is_on_disk=False)
                else:
                    del self._by_step[checkpoint.step]
            shutil.rmtree(checkpoint.path, ignore_errors=True)
            self._say(replace(checkpoint, is_on_disk=False))


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}".splitlines()[0]
