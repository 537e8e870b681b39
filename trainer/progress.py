"""What a person sees of a run in the terminal: a bar with loss, speed, time left and a health lamp,
or plain lines where there is no terminal. The same is kept in the run's log.
"""

import math
import sys
import time
from pathlib import Path
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

from ..platform.run_log import RunLog

Lamp = Literal["healthy", "alert", "back"]
LAMPS: dict[Lamp, tuple[str, str]] = {
    "healthy": ("green", "healthy"),
    "alert": ("yellow", "ALERT"),
    "back": ("red", "WENT BACK, vetting data"),
}
"""Colour and word: health is never told by colour alone."""
PLAIN_EVERY_S = 5.0
LOGGED_EVERY_S = 60.0
"""A run of a month has 3 MB of such lines."""


class ProgressLine:
    """Draws the run's progress on standard error, and keeps it in the run's log."""

    def __init__(
        self,
        name: str,
        num_steps: int,
        *,
        is_on: bool,
        stream: IO[str] | None = None,
        log: Path | None = None,
    ) -> None:
        """is_on: whether it is drawn. log: the file that it is kept in."""
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._num_steps = num_steps
        self._is_on = is_on
        self._last_s = self._logged_s = -math.inf
        self._log = RunLog(log)
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
        colour, word = LAMPS[lamp]
        speed = "" if math.isnan(step_s) else f"  {1 / max(step_s, 1e-9):.1f} steps/s"
        left = "" if math.isnan(step_s) else f"  {(self._num_steps - step) * step_s:.0f} s left"
        line = f"step {step}/{self._num_steps}  loss {loss:.4f}{speed}{left}  {word}"
        now_s = time.monotonic()
        is_last = step == self._num_steps
        if now_s - self._logged_s >= LOGGED_EVERY_S or is_last:
            self._logged_s = now_s
            self.log(line)
        if not self._is_on:
            return
        if self._bar is not None and self._task is not None:
            facts = f"loss {loss:.4f}{speed}  [{colour}]{word}[/{colour}]"
            self._bar.update(self._task, completed=step, facts=facts)
        elif now_s - self._last_s >= PLAIN_EVERY_S or is_last:
            self._last_s = now_s
            self._console.print(line)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self.log(line)
        if self._is_on:
            self._console.print(line, markup=False)

    def log(self, text: str) -> None:
        """Keeps lines in the run's log alone."""
        self._log.write(text, time.time())

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
