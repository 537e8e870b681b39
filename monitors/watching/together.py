"""A watched training of several processes: the first one is watched, and the others are told what
to do at each call, so that all of them do the same."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ...platform.errors import MoescopeError
from ...platform.records import Action, EventKind, RunStatus
from .arguments import checked_loss
from .damping import Damping
from .ranks import Line
from .watched_run import CARRY_ON, Parts, WatchedRun


@contextmanager
def telling_refusals(line: Line | None) -> Iterator[None]:
    """In the first process: the others are refused what it is refused, rather than left waiting."""
    if line is None:
        yield
        return
    try:
        line.meet()
        yield
    except Exception as refusal:
        line.say("run", {"refused": str(refusal)})
        raise


def tell_run(line: Line, run: WatchedRun) -> None:
    """In the first process: lets the others follow a run."""
    line.say(
        "run",
        {
            "id": run.id,
            "name": run.name,
            "folder": run.folder,
            "mode": run.mode,
            "num_steps": run.num_steps,
        },
    )


def follow(
    line: Line, optimizers: Sequence[torch.optim.Optimizer], tell: Callable[[str], None]
) -> "FollowingRun":
    """In another process. Raises MoescopeError with what the first one is refused."""
    line.meet()
    about = line.hear("run", tell)
    if about is None or "refused" in about:
        raise MoescopeError("process 0 has ended" if about is None else about["refused"])
    return FollowingRun(line, about, optimizers, tell)


class LeadingRun(WatchedRun):
    """In the first process."""

    def __init__(self, parts: Parts, line: Line) -> None:
        super().__init__(parts)
        self._line = line
        self._is_mute = False

    def guard(self, loss: Tensor | float) -> bool:
        is_held = super().guard(loss)
        self._say("guard", is_held)
        return is_held

    def step(self, loss: Tensor | float | None = None, **more: Any) -> Action:
        action = super().step(loss, **more)
        damping = (1.0, 0) if self.fault else (self.damping.scale, self.damping.left)
        self._say("step", {"action": asdict(action), "damping": damping})
        return action

    def finish(self, status: RunStatus = "finished") -> None:
        try:
            super().finish(status)
        finally:
            with suppress(torch.distributed.DistError):
                # at the end of a process the store may be gone
                self._line.end()

    def _say(self, what: str, word: Any) -> None:
        if self._is_mute:
            return
        try:
            self._line.say(what, word)
        except torch.distributed.DistError as error:
            # what is wrong with the line will be wrong with the training, which is not ours to end
            self._is_mute = True
            self.tell(f"the other processes of {self.name} cannot be told what to do: {error}")


class FollowingRun:
    """In each other process: takes the calls of a `WatchedRun`, records nothing, and answers what
    the first process answers."""

    keeper = None

    def __init__(
        self,
        line: Line,
        about: Mapping[str, Any],
        optimizers: Sequence[torch.optim.Optimizer],
        tell: Callable[[str], None],
    ) -> None:
        """about: what the first process said of its run."""
        self.id, self.name, self.folder = about["id"], about["name"], about["folder"]
        self.mode, self.num_steps = about["mode"], about["num_steps"]
        self.status: RunStatus = "running"
        self.fault = ""
        self.closing = ExitStack()
        self.tell = tell
        self._line = line
        self._damping = Damping(optimizers)
        self.closing.callback(self._damping.close)

    def guard(self, loss: Tensor | float) -> bool:
        """As `WatchedRun.guard`: it is the first process that looks."""
        checked_loss(loss, "guard")
        return bool(self._hear("guard"))

    def measure_gradients(self) -> None:
        """Nothing: the first process measures."""

    def step(self, loss: Tensor | float | None = None, **_: Any) -> Action:
        """As `WatchedRun.step`, once the first process has made the same step."""
        checked_loss(loss, "step")
        if self.status != "running":
            raise MoescopeError(f"run {self.name} is finished: watch() begins another one")
        self.num_steps += 1
        word = self._hear("step")
        if word is None:
            return CARRY_ON
        self._damping.start(*word["damping"])
        return Action(**word["action"])

    def say_event(self, kind: EventKind, text: str, details: Mapping[str, Any]) -> None:
        """Nothing, likewise."""

    def log(self, values: Mapping[str, float]) -> None:
        """Nothing: the first process records."""

    def announce(self, kind: EventKind, text: str = "") -> None:
        """Nothing: the first process announces."""

    def finish(self, status: RunStatus = "finished") -> None:
        if self.status == "running":
            self.status = status
            self.closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish("finished" if kind is None else "crashed")

    def _hear(self, what: str) -> Any:
        if self.fault:
            return None
        try:
            word = self._line.hear(what, self.tell)
        except torch.distributed.DistError as error:
            self.fault = f"process 0 cannot be heard: {error}"
        else:
            if word is None:
                self.fault = "process 0 has finished its run"
        if self.fault:
            self._damping.start(1.0, 0)
            self.tell(f"process {self._line.rank} trains on by itself: {self.fault}")
            return None
        return word
