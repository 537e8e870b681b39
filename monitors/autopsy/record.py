"""A flight record: what a run measured in its last few hundred steps, as a file that needs no code
to be read.

A folder holds `record.npz` (arrays, nothing pickled) and `record.json` (steps, batches, names of
clips, the alert, and the checksum of the arrays). It is there whole or not at all.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...platform.errors import MoescopeError
from ...platform.last_bytes import digest, sync
from ...platform.records import Alert

FORMAT = 1
ARRAYS, WORDS = "record.npz", "record.json"
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Entry:
    """One step: what it was trained on, and what was measured."""

    segment: int
    step: int
    batch: int
    names: tuple[str, ...]
    """File names of its clips, below the data folder."""
    positions: tuple[int, ...]
    """Each sample's place in the stream of all draws."""
    values: Mapping[str, Array]
    """{signal: values}; the sampled tier is there on sampled steps."""

    @property
    def num_bytes(self) -> int:
        """Of host memory; names are counted as if they were this entry's own."""
        return sum(v.nbytes + 100 for v in self.values.values()) + sum(
            len(name) + 80 for name in self.names
        )


@dataclass(frozen=True, slots=True)
class FlightRecord:
    alert: Alert
    entries: tuple[Entry, ...]
    """In the order in which they were trained, abandoned branches among them."""

    def branch(self) -> list[Entry]:
        """The steps that led to the alert, in order: of steps that were trained twice the last."""
        return branch_of(self.entries)


def branch_of(entries: Sequence[Entry]) -> list[Entry]:
    """Returns the branch on which the last entry lies, oldest first."""
    branch: list[Entry] = []
    for entry in entries:
        while branch and branch[-1].step >= entry.step:
            branch.pop()
        branch.append(entry)
    return branch


def write_record(folder: Path, record: FlightRecord) -> int:
    """Writes a record into a folder of its own and returns its bytes.

    Raises OSError where the disk is full or not writable; nothing is left half written then.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        arrays, columns = _columns(record.entries)
        with (partial / ARRAYS).open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        clips = sorted({name for entry in record.entries for name in entry.names})
        number_of = {name: number for number, name in enumerate(clips)}
        document = {
            "format": FORMAT,
            "alert": asdict(record.alert),
            "columns": columns,
            "clips": clips,
            "entries": [
                [e.segment, e.step, e.batch, [number_of[n] for n in e.names], list(e.positions)]
                for e in record.entries
            ],
            "arrays_blake2b": digest(partial / ARRAYS),
        }
        with (partial / WORDS).open("w") as words:
            json.dump(document, words, default=_plain, separators=(",", ":"))
            words.flush()
            os.fsync(words.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return sum(file.stat().st_size for file in folder.iterdir())


def read_record(folder: Path) -> FlightRecord:
    """Reads a record. Raises MoescopeError, one line, where it is missing or damaged."""
    try:
        document = json.loads((folder / WORDS).read_text())
        if document["format"] != FORMAT:
            raise MoescopeError(
                f"flight record {folder} has format {document['format']}, this program reads "
                f"{FORMAT}: use the program that wrote it"
            )
        if document["arrays_blake2b"] != digest(folder / ARRAYS):
            raise MoescopeError(
                f"flight record {folder} is damaged: {ARRAYS} does not match its checksum"
            )
        values: list[dict[str, Array]] = [{} for _ in document["entries"]]
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            for key, signal in document["columns"].items():
                column = arrays[key]
                for row, at in enumerate(arrays[f"{key}_at"]):
                    values[at][signal] = column[row]
        clips = document["clips"]
        entries = tuple(
            Entry(segment, step, batch, tuple(clips[n] for n in names), tuple(positions), found)
            for (segment, step, batch, names, positions), found in zip(
                document["entries"], values, strict=True
            )
        )
        return FlightRecord(Alert(**document["alert"]), entries)
    except FileNotFoundError:
        raise MoescopeError(f"there is no flight record in {folder}") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise MoescopeError(f"flight record {folder} cannot be read: {error}") from None


def _columns(entries: Sequence[Entry]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Stacks each signal over the steps in which it was measured, a column for each shape that it
    had; returns (arrays by key, signals by key)."""
    rows: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for number, entry in enumerate(entries):
        for signal, value in entry.values.items():
            rows.setdefault((signal, np.shape(value)), []).append(number)
    arrays: dict[str, NDArray[Any]] = {}
    signals: dict[str, str] = {}
    for number, ((signal, _), at) in enumerate(rows.items()):
        key = f"c{number}"
        signals[key] = signal
        arrays[key] = np.stack([entries[i].values[signal] for i in at]).astype(np.float32)
        arrays[f"{key}_at"] = np.asarray(at, np.int64)
    return arrays, signals


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
