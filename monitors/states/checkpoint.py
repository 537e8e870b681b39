"""A checkpoint: safetensors plus JSON in a folder of its own, written whole or not at all,
verified when read.

Nothing in it is executed when it is loaded. A state is a nested value of dicts, lists, numbers,
texts, None, tensors and arrays; tensors go to `state.safetensors`, all else to `state.json`,
which also holds the checksum of the tensors' file. States of objects that are not ours lie under
the key `objects`: they keep tuples and ordered mappings, in `objects.pt`, which
`torch.load(weights_only=True)` reads.
"""

import copy
import errno
import hashlib
import json
import os
import pickle
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...platform.errors import MoescopeError
from ...platform.last_bytes import digest, sync

FORMAT = 1
TENSORS = "state.safetensors"
VALUES = "state.json"
OBJECTS = "objects.pt"
_PLAIN = frozenset({bool, int, float, str, type(None)})


class DamagedCheckpoint(MoescopeError):
    """A checkpoint that cannot be trusted: files missing, unreadable or not what their checksum
    says."""


def write_checkpoint(folder: Path, state: Mapping[str, Any], about: Mapping[str, Any]) -> int:
    """Writes the state to `folder` and returns its bytes; a reader sees all of it or nothing.

    `about`: plain values that can be read without the tensors (step, batch, segment). Raises
    OSError where the disk is full or not writable; what was there before is still there then.
    """
    tensors: dict[str, Tensor] = {}
    own = {key: value for key, value in state.items() if key != "objects"}
    values = _encode(own, "", tensors)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write_tensors(tensors, partial / TENSORS)
        document = {
            "format": FORMAT,
            "about": dict(about),
            "tensors_blake2b": digest(partial / TENSORS),
            "values": values,
        }
        files = [TENSORS, VALUES]
        if "objects" in state:
            _write_objects(state["objects"], partial / OBJECTS)
            document["objects_blake2b"] = digest(partial / OBJECTS)
            files.append(OBJECTS)
        text = json.dumps(document, separators=(",", ":"))
        (partial / VALUES).write_text(json.dumps({"blake2b": _digest_text(text), "document": text}))
        for name in files:
            sync(partial / name)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return sum(file.stat().st_size for file in folder.iterdir())


def read_about(folder: Path) -> dict[str, Any]:
    """Returns the plain values of a checkpoint without its tensors. Raises DamagedCheckpoint."""
    about: dict[str, Any] = _document(folder)["about"]
    return about


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Returns the state as it was written, tensors on the CPU. Raises DamagedCheckpoint if
    anything is amiss."""
    document = _document(folder)
    try:
        if digest(folder / TENSORS) != document["tensors_blake2b"]:
            raise DamagedCheckpoint(
                f"checkpoint {folder.name} is damaged: {TENSORS} does not match its checksum"
            )
        tensors = load_file(folder / TENSORS)
    except OSError as error:
        raise DamagedCheckpoint(
            f"checkpoint {folder.name} cannot be read: {error.strerror}"
        ) from None
    state: dict[str, Any] = _decode(document["values"], tensors)
    if "objects_blake2b" in document:
        state["objects"] = _read_objects(folder, document["objects_blake2b"])
    return state


def checkpoint_folders(root: Path) -> list[Path]:
    """Returns the complete checkpoints below a run's checkpoint folder, by name."""
    return sorted(path for path in root.glob("step-*") if (path / VALUES).exists())


def remove_partials(root: Path) -> None:
    """Removes what a killed process left half written."""
    for path in root.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def copied(state: Any, into: Any = None) -> Any:
    """Returns a copy of a state on the host; tensors are copied into those of `into` where shape
    and dtype fit.

    Reusing the memory of a retired state saves the page faults of a fresh one, most of a
    snapshot's time.
    """
    if isinstance(state, Tensor):
        fits = isinstance(into, Tensor) and into.shape == state.shape and into.dtype == state.dtype
        home = into if fits else torch.empty_like(state, device="cpu")
        return home.copy_(state.detach())
    if isinstance(state, Mapping):
        twins = into if isinstance(into, Mapping) else {}
        twin = {key: copied(value, twins.get(key)) for key, value in state.items()}
        if not isinstance(state, OrderedDict):
            return twin
        ordered = OrderedDict(twin)
        if hasattr(state, "_metadata"):
            # versions of a module's parts, which it reads when it takes its state back
            ordered._metadata = state._metadata  # type: ignore[attr-defined]
        return ordered
    if isinstance(state, list | tuple):
        if _PLAIN.issuperset(map(type, state)):
            # most of a state's entries: windows, and the words of a random generator
            return state if type(state) is tuple else list(state)
        old = (
            into
            if isinstance(into, list | tuple) and len(into) == len(state)
            else [None] * len(state)
        )
        copies = [copied(value, twin) for value, twin in zip(state, old, strict=True)]
        return tuple(copies) if type(state) is tuple else copies
    if type(state) in _PLAIN:
        return state
    return state.copy() if isinstance(state, np.ndarray) else copy.deepcopy(state)


def blank(state: Any) -> Any:
    """Returns zeros on the host in the place of a state's tensors, for `copied` to copy into."""
    if isinstance(state, Tensor):
        # written to: memory that was only asked for is not there yet
        return torch.empty_like(state, device="cpu").zero_()
    if isinstance(state, Mapping):
        return {key: blank(value) for key, value in state.items()}
    if isinstance(state, list | tuple) and not _PLAIN.issuperset(map(type, state)):
        return [blank(value) for value in state]
    return None


def num_bytes(state: Any) -> int:
    """Returns the bytes of all tensors in a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, list | tuple) and _PLAIN.issuperset(map(type, state)):
        return
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach()
        tensors[path] = tensor.cpu().contiguous()
        return {"$": "array" if isinstance(value, np.ndarray) else "tensor", "at": path}
    if isinstance(value, Mapping):
        items = [[key, _encode(twin, f"{path}/{key}", tensors)] for key, twin in value.items()]
        # JSON has text keys only; the optimizer's state is keyed by numbers
        return {"$": "dict", "items": items}
    if isinstance(value, list | tuple):
        return [_encode(twin, f"{path}/{i}", tensors) for i, twin in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    assert value is None or isinstance(value, bool | int | float | str), f"{path} is {type(value)}"
    return value


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(twin, tensors) for twin in value]
    if not isinstance(value, dict):
        return value
    if value["$"] == "dict":
        return {key: _decode(twin, tensors) for key, twin in value["items"]}
    tensor = tensors[value["at"]]
    return tensor.numpy() if value["$"] == "array" else tensor


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        # its own kind of error, also where the disk is full; the number stands in the text alone
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise OSError(errno.EIO, str(error)) from error
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _write_objects(objects: Any, path: Path) -> None:
    # into a file of ours: torch hides a full disk behind a RuntimeError about positions, and keeps
    # the reason only where Python does the writing
    with path.open("wb") as file:
        try:
            torch.save(objects, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise OSError(errno.EIO, str(error).splitlines()[0]) from error


def _document(folder: Path) -> dict[str, Any]:
    try:
        envelope = json.loads((folder / VALUES).read_text())
        text = envelope["document"]
        if envelope["blake2b"] != _digest_text(text):
            raise DamagedCheckpoint(
                f"checkpoint {folder.name} is damaged: {VALUES} does not match its checksum"
            )
        document: dict[str, Any] = json.loads(text)
    except OSError as error:
        raise DamagedCheckpoint(
            f"checkpoint {folder.name} cannot be read: {error.strerror}"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DamagedCheckpoint(
            f"checkpoint {folder.name} is damaged: {VALUES} is not readable"
        ) from None
    if document["format"] != FORMAT:
        raise DamagedCheckpoint(
            f"checkpoint {folder.name} has format {document['format']}, this program reads {FORMAT}"
        )
    return document


def _read_objects(folder: Path, wanted: str) -> Any:
    try:
        if digest(folder / OBJECTS) != wanted:
            raise DamagedCheckpoint(
                f"checkpoint {folder.name} is damaged: {OBJECTS} does not match its checksum"
            )
        return torch.load(folder / OBJECTS, weights_only=True, map_location="cpu")
    except OSError as error:
        raise DamagedCheckpoint(
            f"checkpoint {folder.name} cannot be read: {error.strerror}"
        ) from None
    except (pickle.PickleError, RuntimeError):
        raise DamagedCheckpoint(
            f"checkpoint {folder.name} is damaged: {OBJECTS} is not readable"
        ) from None


def _digest_text(text: str) -> str:
    return hashlib.blake2b(text.encode()).hexdigest()
