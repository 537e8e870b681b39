"""The command line, asked for what only the rooms above know: rules are judged there, not here.

Each question is a process of its own with a time limit, so nothing of it can hold a page up for
good.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..platform.store import Store

LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    is_done: bool
    text: str
    """What the command printed; where it refused, its line."""


def asked(store: Store, words: Sequence[str], text: str = "", limit_s: float = LIMIT_S) -> Answer:
    """Runs `moescope WORDS` on the store, with a text as its standard input."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "moescope.cli", *words],
            input=text,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            # not as an option, since everybody of the machine reads those, and it may hold a
            # password
            env={**os.environ, "MOESCOPE_STORE": store.url},
        )
    except subprocess.TimeoutExpired:
        return Answer(False, f"no answer within {limit_s:.0f} s: ask `moescope {words[0]}` itself")
    except OSError as error:
        return Answer(False, f"the command line cannot be started ({error.strerror})")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        return Answer(False, said[-1].removeprefix("moescope: "))
    return Answer(True, done.stdout)
