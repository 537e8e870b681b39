"""A run's writer without torch, as a process of its own: what the trainer does with the store, at
200 steps a second.

Run as `python a_writer.py JSON`; the keys are the fields of `Asked`. What it handed over and said
it writes down at once, line by line, in a file of its own: a line that is there was handed over
before the process was killed. Times are monotonic, which all processes of a machine share.

    begun T                    the writer has its run and records from now on
    frame STEP T               `record` has returned
    said KIND ID T             `say` has returned
    status JSON                a quarter of a second's look at the fan-out
    replaced HOLDER            another process has the run's lease now
    ended JSON                 closed; how long the calls took
"""

import json
import os
import queue
import random
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from moescope.platform.catalogue import CATALOGUE, EXPERT_TOKENS, LOSS_TOTAL
from moescope.platform.claims import claim, let_go
from moescope.platform.contact import Contact
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, Event, Frame, Run, Segment
from moescope.platform.sinks import FanOut
from moescope.platform.sql_sink import SqlSink
from moescope.platform.store import open_store

SCALARS = [name for name, spec in CATALOGUE.items() if spec.is_scalar][:20]
LOADS = (12, 48)


@dataclass(frozen=True)
class Asked:
    url: str
    run: str
    folder: str
    """The run's: its journal lies in it."""
    told: str
    """The file that it writes down in what it did."""
    segment: int = 0
    first_step: int = 0
    most_s: float = 600.0
    steps_per_s: float = 200.0
    alerts_per_s: float = 10.0
    events_per_s: float = 10.0
    is_said_aside: bool = False
    """Events are said by a thread of their own, as checkpoints are in a trainer."""
    seed: int = 0
    queue_bytes: int = 64 * 2**20
    close_s: float = 20.0


def main(asked: Asked) -> int:
    told = os.open(asked.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(*words: Any) -> None:
        os.write(told, (" ".join(map(str, words)) + "\n").encode())

    rng = random.Random(asked.seed)
    folder = Path(asked.folder)
    run = Run(asked.run, asked.run, "p", {}, "running", "cpu", "0", 1.0, 1.0, folder=asked.folder)
    record_s: list[float] = []
    say_s: list[float] = []
    with ExitStack() as stack:
        store = stack.enter_context(open_store(asked.url))
        holder = claim(store, run)
        stack.callback(let_go, store, run.id, holder)
        store.add_run(run)
        contact = Contact(asked.url, run.id, holder)
        stack.callback(contact.close)
        sinks = [SqlSink(asked.url, run)]
        fan_out = FanOut(folder / "journal", sinks, queue_bytes=asked.queue_bytes)

        def say(kind: str, key: str, record: Any) -> None:
            start_s = time.monotonic()
            fan_out.say(record)
            say_s.append(time.monotonic() - start_s)
            tell("said", kind, key, time.monotonic())

        aside: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()

        def say_aside() -> None:
            while True:
                say(*aside.get())

        threading.Thread(target=say_aside, daemon=True).start()
        tell("begun", time.monotonic())
        reason = "resume" if asked.segment else "start"
        beginning = Segment(run.id, asked.segment, asked.first_step, reason, time.time())
        say("segment", str(asked.segment), beginning)
        start_s = next_look_s = time.monotonic()
        step = asked.first_step
        while time.monotonic() - start_s < asked.most_s and not (folder / "stop").exists():
            values = {name: np.full((), step, np.float32) for name in SCALARS}
            values |= {LOSS_TOTAL: np.full((), step, np.float32)}
            values |= {EXPERT_TOKENS: np.full(LOADS, step, np.float32)}
            frame = Frame(run.id, asked.segment, step, time.time(), values)
            before_s = time.perf_counter()
            fan_out.record(frame)
            record_s.append(time.perf_counter() - before_s)
            tell("frame", step, time.monotonic())
            if rng.random() < asked.alerts_per_s / asked.steps_per_s:
                key = f"{run.id}/spike/{asked.segment}-{step}"
                words = (step, step, 5.0, 4.0, "up", time.time(), key)
                say("alert", key, Alert(key, run.id, asked.segment, "spike", "critical", *words))
            if rng.random() < asked.events_per_s / asked.steps_per_s:
                text = f"at {step}"
                event = Event(run.id, asked.segment, step, time.time(), "note", text)
                if asked.is_said_aside:
                    aside.put(("event", text, event))
                else:
                    say("event", text, event)
            if time.monotonic() >= next_look_s:
                next_look_s = time.monotonic() + 0.25
                tell("status", json.dumps(look(fan_out, contact)))
                if contact.replaced_by:
                    tell("replaced", contact.replaced_by)
                    break
            step += 1
            done_s = (step - asked.first_step) / asked.steps_per_s
            time.sleep(max(0.0, start_s + done_s - time.monotonic()))
        fan_out.close(asked.close_s)
        took = {
            "record_median_us": 1e6 * float(np.median(record_s)),
            "record_p99_us": 1e6 * float(np.quantile(record_s, 0.99)),
            "say_median_s": float(np.median(say_s)),
            "say_longest_s": max(say_s),
            **look(fan_out, contact),
        }
        tell("ended", json.dumps(took))
    return 0


def look(fan_out: FanOut, contact: Contact) -> dict[str, Any]:
    status = fan_out.status()
    (sink,) = status.sinks
    return {
        "at_s": time.monotonic(),
        "state": sink.state,
        "error": sink.last_error,
        "refused": sink.num_refused,
        "lag_s": status.lag_s,
        "backlog_bytes": sink.backlog_bytes,
        "coalesced": status.coalesced,
        "lost": status.lost,
        "journal_error": status.journal_error,
        "is_store_away": contact.is_store_away,
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    assert given.keys() <= {field.name for field in fields(Asked)}, given
    try:
        sys.exit(main(Asked(**given)))
    except MoescopeError as error:
        sys.stderr.write(f"moescope: {error}\n")
        sys.exit(2)
