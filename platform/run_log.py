"""What a run's trainer said, as a file in the run's folder, and the end of any such file.

A log is text from outside: escape codes of terminals are taken out, and of a line that was written
over itself, as progress bars are, the last state is kept. Nothing here raises on a file that is not
there, or a disk that is full: a log must not stop a training, nor a page.
"""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

LOG = "log.txt"
"""In a run's folder."""
MOST_SEARCHED_BYTES = 64 << 20
_LONGEST_LINE = 2000
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class RunLog:
    """Adds lines to a run's log, each with its time (UTC)."""

    def __init__(self, file: Path | None) -> None:
        """file: None writes nothing."""
        self._file = file

    def write(self, text: str, now_s: float) -> None:
        if self._file is None:
            return
        moment = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
        lines = "".join(f"{moment} {line}\n" for line in text.splitlines())
        # what cannot be written is on the terminal still
        with suppress(OSError), self._file.open("ab") as out:
            out.write(lines.encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The last lines of a log, or the last of those with the wanted words."""

    lines: tuple[str, ...]
    num_bytes: int
    """Of the whole file."""
    num_found: int
    """Lines that were found in what was looked through."""
    is_whole: bool
    """Whether a search went through all of the file."""


def end_of(file: Path, most_lines: int, words: str = "") -> LogEnd | None:
    """Reads the last lines of a file, or the last of those that have the words in them, whatever
    their case; None where there is no such file, or it cannot be read.

    At most the last 64 MiB are looked through.
    """
    try:
        with file.open("rb") as opened:
            num_bytes = opened.seek(0, 2)
            start = max(0, num_bytes - MOST_SEARCHED_BYTES)
            if not words:
                start = max(start, num_bytes - most_lines * _LONGEST_LINE)
            opened.seek(start)
            if start:
                opened.readline()
            kept: deque[str] = deque(maxlen=most_lines)
            num_found = 0
            for line in _lines(opened):
                if not words or words.lower() in line.lower():
                    num_found += 1
                    kept.append(line)
    except OSError:
        return None
    return LogEnd(tuple(kept), num_bytes, num_found, not words or start == 0)


def _lines(opened: Iterator[bytes]) -> Iterator[str]:
    for raw in opened:
        yield cleaned(raw.decode("utf-8", "replace").rstrip("\r\n"))


def cleaned(line: str) -> str:
    """Returns a line of a terminal as it was seen last, without what steers the terminal."""
    seen = _ESCAPES.sub("", line).rstrip("\r").rpartition("\r")[2]
    text = _CONTROLS.sub("\ufffd", seen)
    return text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 1] + "…"
