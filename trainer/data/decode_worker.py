"""A process that decodes samples for a trainer and does nothing else; it never loads torch.

It is started by decode_pool.py as a plain interpreter: no fork of a process with threads, and no
import of the user's main script. It talks over one socket, and when the other end is gone, by
whatever death, it ends itself.
"""

import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from typing import NamedTuple

from ..config import DataConfig
from .clips import Clip
from .decode import DecodedSample, read_sample
from .headers import UnreadableClip

PARENT_CHECK_S = 0.5


class Task(NamedTuple):
    position: int
    clip: Clip


class Failure(NamedTuple):
    """Why a clip gave no sample."""

    reason: str


class Answer(NamedTuple):
    position: int
    name: str
    outcome: DecodedSample | Failure


def outcome_of(task: Task, data: DataConfig, seed: int) -> DecodedSample | Failure:
    """Decodes a sample, or says why that cannot be done; never raises."""
    try:
        return read_sample(task.clip, data, seed, task.position)
    except UnreadableClip as reason:
        return Failure(str(reason))
    except Exception as error:  # a clip that nobody foresaw must not end the run
        return Failure(f"{type(error).__name__}: {error}")


def serve(descriptor: int, parent: int) -> None:
    """Answers tasks until the other end of the socket is closed. The first message is (data, seed),
    echoed when ready.
    """
    # an interrupt is for the trainer, which decides when to stop and still needs batches
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    with Connection(descriptor) as connection:
        try:
            data, seed = connection.recv()
            connection.send("ready")
            while True:
                task: Task = connection.recv()
                outcome = outcome_of(task, data, seed)
                connection.send(Answer(task.position, task.clip.name, outcome))
        except (EOFError, ConnectionError):
            return


def _end_with_parent(parent: int) -> None:
    """Ends the process when the trainer is gone even where decoding keeps the socket waiting."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)
