"""`moescope train`, which writes down what it handed over and said: as a_writer.py does, for each
segment.

Run as `python a_trainer.py TOLD train ...`; TOLD is the file that it appends to.

    frame SEGMENT STEP T       `record` has returned
    said KIND SEGMENT KEY T    `say` has returned; KEY is a JSON string
"""

import json
import os
import sys
import time
from typing import Any

from moescope.cli import main
from moescope.platform.alert_kinds import SAMPLES
from moescope.platform.records import Alert, Checkpoint, Event, Frame
from moescope.platform.sinks import FanOut
from moescope.trainer.loop import Trainer

record, say, train_step = FanOut.record, FanOut.say, Trainer.train_step


def tell(*words: Any) -> None:
    os.write(told, (" ".join(map(str, (*words, time.monotonic()))) + "\n").encode())


def told_record(self: FanOut, frame: Frame) -> None:
    record(self, frame)
    tell("frame", frame.segment, frame.step)


def told_say(self: FanOut, said: Any) -> None:
    say(self, said)
    kind = type(said).__name__.lower()
    if isinstance(said, Alert):
        key = said.id
    elif isinstance(said, Event):
        key = said.text
    else:
        key = str(said.step) if isinstance(said, Checkpoint) else ""
    segment = getattr(said, "segment", getattr(said, "index", -1))
    tell("said", kind, segment, json.dumps(key))


def told_step(self: Trainer) -> None:
    """An alert and an event now and then, as a run in trouble has them."""
    if self.state.step % 3 == 0:
        self.say_event("note", f"at {self.state.step}", {})
    if self.state.step % 4 == 0:
        # told apart by its words: the same is not raised twice within hundreds of steps
        word = "".join(chr(ord("a") + int(digit)) for digit in str(self.state.step))
        self.raise_alert(SAMPLES, f"trouble {word}")
    train_step(self)


if __name__ == "__main__":
    told = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    FanOut.record, FanOut.say = told_record, told_say  # type: ignore[method-assign]
    Trainer.train_step = told_step  # type: ignore[method-assign]
    main()
