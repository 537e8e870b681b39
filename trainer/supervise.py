"""Restarts a crashed trainer from its last good checkpoint, a bounded number of times."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

MOST_RESTARTS = 3
FIRST_WAIT_S = 1.0
ENDED_FOR_GOOD = frozenset({0, 2, 3, 130, 143, -signal.SIGINT, -signal.SIGTERM})
"""Exit codes after which a restart would be wrong: done, user error, halted by the policy,
stopped by a person.
"""


def supervise(
    start: Sequence[str],
    resume: Sequence[str],
    *,
    most_restarts: int = MOST_RESTARTS,
    first_wait_s: float = FIRST_WAIT_S,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
) -> int:
    """Runs `start` as a process, and after a crash `resume`, waiting twice as long before each
    restart.

    Returns the exit code of the last process. SIGTERM and Ctrl-C are passed on to it and end the
    supervision.
    """
    stopping = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        stopping.set()
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        restarts, command = 0, start
        while True:
            # a session of its own: Ctrl-C in the terminal reaches the child once, through us
            child = subprocess.Popen(command, start_new_session=True)
            code = child.wait()
            if code in ENDED_FOR_GOOD or stopping.is_set():
                return code
            if restarts == most_restarts:
                say(f"trainer ended {restarts + 1} times: given up")
                return code
            wait_s = first_wait_s * 2**restarts
            restarts += 1
            say(
                f"trainer ended with code {code}: "
                f"restart {restarts} of {most_restarts} in {wait_s:.0f} s"
            )
            if stopping.wait(wait_s):
                return code
            command = resume
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
