"""The journal: an append-only, checksummed log on disk that stands between the training
thread and every sink.

A journal is a folder of numbered files. Each entry is

    magic (4 bytes) | crc32 (u32) | length (u32) | journaled at (f64, s) | payload

little-endian, the checksum over everything behind it. Only whole entries below the writer's `end`
are ever read; what a crash left half written is cut when the journal is opened again, and damage in
the middle is stepped over and counted.

Thread rules: one `Journal` per folder and machine (a file lock holds that, and falls with its
process). `append`, `sync_later` and `start_anew` are called under the owner's lock; what
`sync_later` returns is not, since a slow disk may take seconds. Each `JournalReader` belongs to one
thread; readers may run beside the writer.
"""

import fcntl
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .errors import MoescopeError
from .last_bytes import sync

_MAGIC = b"mj1\n"
_HEAD = struct.Struct("<4sIId")
_CHECKED_FROM = 8  # the checksum covers length, time and payload
_LARGEST_ENTRY = 2**28


class Position(NamedTuple):
    """A place in a journal: everything before it has been dealt with. Positions compare in journal
    order.
    """

    file: int
    offset: int


NOWHERE = Position(0, 0)


class Entry(NamedTuple):
    journaled_s: float
    payload: bytes


def pack_entry(payload: bytes, journaled_s: float) -> bytes:
    """Returns an entry's bytes as they lie on disk."""
    checked = struct.pack("<Id", len(payload), journaled_s) + payload
    return _MAGIC + struct.pack("<I", zlib.crc32(checked)) + checked


class Journal:
    """The writing end. Opening cuts a torn tail and starts a new file, so old bytes are never
    written to again.
    """

    def __init__(self, folder: Path, *, rotate_bytes: int = 4 * 2**20) -> None:
        """Raises MoescopeError if the folder cannot be written or another process holds this
        journal.
        """
        self.folder = folder
        self._rotate_bytes = rotate_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = (folder / "lock").open("ab")
        except OSError as error:
            raise MoescopeError(
                f"journal folder {folder} cannot be written ({error.strerror}): "
                "choose another home with --home or MOESCOPE_HOME"
            ) from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.close()
            raise MoescopeError(
                f"journal {folder} is being written by a living process: is this run still alive?"
            ) from None
        numbers = _numbers(folder)
        if numbers:
            _cut_torn_tail(_path(folder, numbers[-1]))
        taken = [*numbers, *(mark.file for mark in marks(folder).values())]
        self._number = max(taken, default=0) + 1
        self._size = 0
        self._file: BinaryIO | None = None
        self._is_named = threading.Event()
        """Whether the live file's name is on the disk; each file has its own."""

    @property
    def end(self) -> Position:
        """Everything before it is whole and may be read."""
        return Position(self._number, self._size)

    def append(self, entries: Sequence[bytes]) -> None:
        """Writes packed entries: they survive the process, and the machine after `sync_later`.

        Raises OSError (disk full, folder gone); what was then half written is cut again, so that
        the caller may retry.
        """
        if self._size >= self._rotate_bytes:
            self.start_anew()
        if self._file is None:
            # unbuffered: a half-written entry must not linger in a buffer and surface later
            self._file = _path(self.folder, self._number).open("ab", buffering=0)
        blob = b"".join(entries)
        try:
            written = 0
            while written < len(blob):
                written += self._file.write(blob[written:]) or 0
        except OSError:
            self._give_way(self._file)
            raise
        self._size += len(blob)

    def sync_later(self) -> Callable[[], None]:
        """Returns the call that brings what was just appended to the disk itself: once, from any
        thread, without the owner's lock.

        It raises OSError; then the same must be appended again, to a file that is started anew: a
        second fsync of this one would not tell the truth.
        """
        assert self._file is not None, "nothing was appended"
        handle = os.dup(self._file.fileno())
        is_named = self._is_named

        def bring() -> None:
            try:
                os.fsync(handle)
                if not is_named.is_set():
                    sync(self.folder)
                    is_named.set()
            finally:
                os.close(handle)

        return bring

    def start_anew(self) -> None:
        """What is appended from now on goes to another file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._number += 1
        self._size = 0
        self._is_named = threading.Event()

    def num_bytes(self) -> int:
        """Returns what the journal takes on disk."""
        return sum(_size(_path(self.folder, number)) for number in _numbers(self.folder))

    def acknowledged(self, sink: str) -> Position:
        """Returns the position up to which a sink has taken everything; the beginning for a new
        sink.
        """
        return _read_mark(self.folder, sink)

    def acknowledge(self, sink: str, position: Position) -> None:
        """Remembers on disk what a sink has taken: everything before `position`. Raises OSError."""
        mark = _mark(self.folder, sink)
        new = mark.with_suffix(".new")
        new.write_text(json.dumps(position._asdict()))
        new.replace(mark)

    def forget_before(self, position: Position) -> None:
        """Deletes files that lie wholly before the position."""
        for number in _numbers(self.folder):
            if number < min(position.file, self._number):
                _path(self.folder, number).unlink(missing_ok=True)

    def close(self, taken: Position = NOWHERE) -> None:
        """Ends writing; deletes what lies wholly before `taken`, the last file included."""
        if taken >= self.end:
            self.start_anew()
            taken = self.end
        self.forget_before(taken)
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock_file.close()

    def _give_way(self, file: BinaryIO) -> None:
        is_clean = True
        try:
            file.truncate(self._size)
        except OSError:
            is_clean = False
        # a full disk: a file that every sink has read can only be deleted once it is no longer the
        # live one
        if self._size or not is_clean:
            self.start_anew()


class JournalReader:
    """The reading end of one sink: gives whole entries from a position on."""

    def __init__(self, folder: Path, position: Position) -> None:
        self.folder = folder
        self.position = position
        self.damaged: set[Position] = set()
        """Places where bytes had to be stepped over."""

    def read(self, most: int, end: Position) -> tuple[list[Entry], Position]:
        """Returns up to `most` entries before `end`, and the position behind them. Does not move by
        itself.

        Raises OSError.
        """
        found: list[Entry] = []
        for number in _numbers(self.folder):
            if not self.position.file <= number <= end.file:
                continue
            path = _path(self.folder, number)
            start = self.position.offset if number == self.position.file else 0
            stop = end.offset if number == end.file else _size(path)
            if start >= stop:
                continue
            with path.open("rb") as file:
                file.seek(start)
                while file.tell() < stop:
                    if len(found) >= most:
                        return found, Position(number, file.tell())
                    entry = _read_entry(file, stop)
                    if entry is None:
                        self.damaged.add(Position(number, file.tell()))
                        _seek_magic(file, stop)
                    else:
                        found.append(entry)
        return found, max(end, self.position)


def waiting_bytes(folder: Path, position: Position, end: Position) -> int:
    """Returns how many bytes of a journal lie between a position and its end."""
    total = 0
    for number in _numbers(folder):
        if position.file <= number <= end.file:
            stop = end.offset if number == end.file else _size(_path(folder, number))
            start = position.offset if number == position.file else 0
            total += max(0, stop - start)
    return total


def marks(folder: Path) -> dict[str, Position]:
    """Returns {sink: position} for every sink that has ever read a journal."""
    names = [path.stem.removeprefix("taken-by-") for path in folder.glob("taken-by-*.json")]
    return {name: _read_mark(folder, name) for name in names}


def left_waiting(folder: Path) -> list[str]:
    """Returns the sinks that have not taken everything of a journal that nobody writes any more."""
    return [name for name, num_bytes in depths(folder).items() if num_bytes]


def depths(folder: Path) -> dict[str, int]:
    """Returns {sink: bytes that it has not taken}; of a journal that is written just now, about."""
    numbers = _numbers(folder)
    if not numbers:
        return {}
    end = Position(numbers[-1], _size(_path(folder, numbers[-1])))
    return {name: waiting_bytes(folder, mark, end) for name, mark in marks(folder).items()}


def _read_entry(file: BinaryIO, stop: int) -> Entry | None:
    """Reads one entry; on anything but a whole one it returns None and stays where it was."""
    start = file.tell()
    head = file.read(_HEAD.size)
    if start + _HEAD.size <= stop and len(head) == _HEAD.size:
        magic, checksum, length, journaled_s = _HEAD.unpack(head)
        if magic == _MAGIC and length <= _LARGEST_ENTRY and start + _HEAD.size + length <= stop:
            payload = file.read(length)
            if zlib.crc32(payload, zlib.crc32(head[_CHECKED_FROM:])) == checksum:
                return Entry(journaled_s, payload)
    file.seek(start)
    return None


def _seek_magic(file: BinaryIO, stop: int) -> None:
    """Moves to the next place behind this one that could be an entry, or to `stop`."""
    start = file.tell() + 1
    file.seek(start)
    rest = file.read(stop - start)
    at = rest.find(_MAGIC)
    file.seek(stop if at < 0 else start + at)


def _cut_torn_tail(path: Path) -> None:
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        whole = 0
        while file.tell() < size:
            if _read_entry(file, size) is None:
                _seek_magic(file, size)
            else:
                whole = file.tell()
        file.truncate(whole)


def _mark(folder: Path, sink: str) -> Path:
    return folder / f"taken-by-{sink}.json"


def _read_mark(folder: Path, sink: str) -> Position:
    try:
        kept = json.loads(_mark(folder, sink).read_text())
        return Position(int(kept["file"]), int(kept["offset"]))
    except (OSError, ValueError, KeyError):
        # an unreadable mark costs a replay, which changes nothing: writes are idempotent
        return NOWHERE


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.journal") if path.stem.isdigit())


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.journal"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # every sink had taken it, and it was deleted between listing and asking
