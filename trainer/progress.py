"""What a person sees of a run in the terminal: a bar with loss, speed, time left and a health lamp, or plain lines."""

import sys
import time
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

LAMPS = {
    "healthy": ("green", "healthy"),
    "alert": ("yellow", "ALERT"),
    "back": ("red", "WENT BACK"),
}
PLAIN_EVERY_S = 5.0


class ProgressLine:
    """Draws the run's progress. `lamp` is one of healthy, alert, back; its word is always shown beside its colour."""

    def __init__(
        self, name: str, num_steps: int, *, is_on: bool, stream: IO[str] | None = None
    ) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._num_steps = num_steps
        self._is_on = is_on
        self._last_s = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if is_on and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(name, total=num_steps, facts="")
            self._bar.start()

    def step(self, step: int, loss: float, step_s: float, lamp: str) -> None:
        """Shows that `step` steps are done; `step_s`: seconds of a recent step."""
        if not self._is_on:
            return
        colour, word = LAMPS[lamp]
        facts = f"loss {loss:.4f}  {1 / max(step_s, 1e-9):.1f} steps/s  [{colour}]{word}[/{colour}]"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, facts=facts)
            return
        now_s = time.monotonic()
        if now_s - self._last_s >= PLAIN_EVERY_S or step == self._num_steps:
            self._last_s = now_s
            left_s = (self._num_steps - step) * step_s
            self._console.print(
                f"step {step}/{self._num_steps}  loss {loss:.4f}  {1 / max(step_s, 1e-9):.1f} steps/s"
                f"  {left_s:.0f} s left  {word}"
            )

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._is_on:
            self._console.print(line, markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
