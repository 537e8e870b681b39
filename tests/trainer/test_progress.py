"""What a run says is in its log too, whether or not it is drawn."""

import io
import math
from pathlib import Path

import pytest

from moescope.trainer.progress import ProgressLine


@pytest.mark.parametrize("is_on", [True, False])
def test_what_is_said_is_kept_whether_or_not_it_is_drawn(tmp_path: Path, is_on: bool) -> None:
    stream, log = io.StringIO(), tmp_path / "log.txt"
    line = ProgressLine("amber-finch", 10, is_on=is_on, stream=stream, log=log)
    line.say("ALERT loss_spike: up")
    line.step(1, 0.5, 0.25, "alert")
    line.step(2, 0.4, math.nan, "healthy")  # too soon after the one before
    line.step(10, 0.3, math.nan, "healthy")
    line.close()
    kept = [text.split(" ", 2)[2] for text in log.read_text().splitlines()]
    assert kept == [
        "ALERT loss_spike: up",
        "step 1/10  loss 0.5000  4.0 steps/s  2 s left  ALERT",
        "step 10/10  loss 0.3000  healthy",
    ]
    assert stream.getvalue().splitlines() == (kept if is_on else [])
