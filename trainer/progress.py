"""What a person sees of a run in the terminal: a bar with loss, speed, time left and a health lamp,
or plain lines where there is no terminal.
"""

import math
import sys
import time
from typing import IO, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

Lamp = Literal["healthy", "alert", "back"]
LAMPS: dict[Lamp, tuple[str, str]] = {
    "healthy": ("green", "healthy"),
    "alert": ("yellow", "ALERT"),
    "back": ("red", "WENT BACK, vetting data"),
}
"""Colour and word: health is never told by colour alone."""
PLAIN_EVERY_S = 5.0


class ProgressLine:
    """Draws the run's progress on standard error."""

    def __init__(
        self, name: str, num_steps: int, *, is_on: bool, stream: IO[str] | None = None
    ) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._num_steps = num_steps
        self._is_on = is_on
        self._last_s = -math.inf
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

    def step(self, step: int, loss: float, step_s: float, lamp: Lamp) -> None:
        """Shows that `step` steps are done. step_s: seconds of a recent step, nan if unknown."""
        if not self._is_on:
            return
        colour, word = LAMPS[lamp]
        speed = "" if math.isnan(step_s) else f"  {1 / max(step_s, 1e-9):.1f} steps/s"
        if self._bar is not None and self._task is not None:
            facts = f"loss {loss:.4f}{speed}  [{colour}]{word}[/{colour}]"
            self._bar.update(self._task, completed=step, facts=facts)
            return
        now_s = time.monotonic()
        if now_s - self._last_s >= PLAIN_EVERY_S or step == self._num_steps:
            self._last_s = now_s
            left = "" if math.isnan(step_s) else f"  {(self._num_steps - step) * step_s:.0f} s left"
            self._console.print(
                f"step {step}/{self._num_steps}  loss {loss:.4f}{speed}{left}  {word}"
            )

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._is_on:
            self._console.print(line, markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
