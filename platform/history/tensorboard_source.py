"""Event files of TensorBoard: a run for each folder that holds some.

Read by TensorBoard's own record reader, which checks each record's sum, and its protocol messages;
its `EventFileLoader` brings old formats up to date on the way, which takes four times as long, and
all that a scalar needs of it is to be one number, in either way of writing it down. Hyperparameters
come from its plugin, from text that is JSON (as the Trainer of transformers writes), and from a
`hparams.yaml` beside the events (as Lightning writes).
"""

import json
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import MoescopeError, did_you_mean
from .points import Point, Source, Told, key_of

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

_HPARAMS = "hparams"
_KINDS = {"histo": "histogram", "image": "picture", "audio": "sound"}
_TEXT = "/text_summary"


def tensorboard_sources(
    folders: Sequence[Path], project: str, name: str = "", wanted: Sequence[str] = ()
) -> list[Source]:
    """The runs under the folders, each by its path below the one that was given. wanted: names or
    patterns. Raises MoescopeError where tensorboard is not installed, a folder has no event files,
    or nothing is what was wanted."""
    if find_spec("tensorboard") is None:
        raise MoescopeError(
            "reading event files needs tensorboard: pip install 'moescope[tensorboard]'"
        )
    runs: dict[str, list[Path]] = {}
    for folder in folders:
        found = _runs(folder)
        if not found:
            why = "no events.out.tfevents file" if folder.exists() else "nothing"
            raise MoescopeError(f"there is {why} in {folder}: name a folder of event files")
        runs |= found
    chosen = [run for run in runs if not wanted or any(fnmatchcase(run, w) for w in wanted)]
    for pattern in wanted:
        if not any(fnmatchcase(run, pattern) for run in runs):
            raise MoescopeError(
                f"there is no run {pattern}{did_you_mean(pattern, runs)} (there are "
                f"{', '.join(list(runs)[:8])})"
            )
    if name and len(chosen) > 1:
        raise MoescopeError(
            f"--name {name} is for one run, and there are {len(chosen)}: say which with --run"
        )
    return [_source(name or run, project, runs[run]) for run in chosen]


def _runs(folder: Path) -> dict[str, list[Path]]:
    """{name: its event files in the order in which they were begun}."""
    if folder.is_file():
        return {folder.parent.name or folder.name: [folder]}
    found = {}
    for here, _, names in sorted(os.walk(folder, followlinks=True)):
        # the name begins with the time in seconds, all of ten digits
        events = sorted(Path(here, name) for name in names if "tfevents" in name)
        if events:
            below = os.path.relpath(here, folder)
            found[folder.absolute().name if below == "." else below] = events
    return found


def _source(name: str, project: str, files: Sequence[Path]) -> Source:
    place = str(files[0].parent.absolute())
    key = key_of(project, name)
    return Source("tensorboard", key, name, project, place, partial(_points, files))


def _points(files: Sequence[Path], told: Told) -> Iterator[Point]:
    _read_yaml(files[0].parent / "hparams.yaml", told)
    for file in files:
        yield from _points_of(file, told)


def _points_of(file: Path, told: Told) -> Iterator[Point]:
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub import errors
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    try:
        records = PyRecordReader_New(str(file), 0, "")
        num_read = 0
        while True:
            try:
                records.GetNext()
                event = event_pb2.Event.FromString(records.record())
            except errors.OutOfRangeError:
                return
            except (errors.DataLossError, DecodeError):
                told.notes.append(
                    f"{file.name} ends or is damaged after {num_read:,} records: what may come "
                    "behind was left out"
                )
                return
            num_read += 1
            for value in event.summary.value:
                number = _number(value, told)
                if number is not None:
                    yield Point(value.tag, event.step, event.wall_time, number)
    except OSError as error:
        raise MoescopeError(f"{file} cannot be read ({error.strerror})") from None


def _number(value: "Summary.Value", told: Told) -> float | None:
    """The value, where it is one number; else what it tells is taken, or it is left out."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        number: float = value.simple_value
        return number
    plugin = value.metadata.plugin_data.plugin_name
    if plugin == _HPARAMS:
        _read_hparams(value.metadata.plugin_data.content, told)
    elif kind == "tensor":
        return _number_of_tensor(value, plugin, told)
    elif kind is not None:
        told.left.setdefault(value.tag, _KINDS.get(kind, kind))
    return None


def _number_of_tensor(value: "Summary.Value", plugin: str, told: Told) -> float | None:
    from tensorboard.util import tensor_util

    try:
        array = tensor_util.make_ndarray(value.tensor)
    except (TypeError, ValueError):
        told.left.setdefault(value.tag, f"a tensor that cannot be read ({plugin or 'no plugin'})")
        return None
    if array.size == 1 and array.dtype.kind in "fiu":
        return float(array.reshape(()))
    if array.size == 1 and _read_text(value.tag, array.reshape(()).item(), told):
        return None
    told.left.setdefault(value.tag, plugin or f"a tensor of shape {array.shape}")
    return None


def _read_text(tag: str, text: Any, told: Told) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        return False
    if not isinstance(found, dict):
        return False
    told.params[tag.removesuffix(_TEXT)] = found
    return True


def _read_hparams(content: bytes, told: Told) -> None:
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    found = plugin_data_pb2.HParamsPluginData.FromString(content)
    kind = found.WhichOneof("data")
    if kind == "session_start_info":
        for name, value in found.session_start_info.hparams.items():
            plain = getattr(value, value.WhichOneof("kind") or "string_value")
            told.params[name] = plain if isinstance(plain, bool | float | str) else str(plain)
    elif kind == "session_end_info" and found.session_end_info.status == api_pb2.STATUS_FAILURE:
        told.status = "crashed"


def _read_yaml(file: Path, told: Told) -> None:
    if not file.is_file():
        return
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        # objects of a program's own, which cannot be read without running it
        told.left[file.name] = "not plain YAML"
        return
    if isinstance(found, dict):
        told.params.update({str(key): value for key, value in found.items()})
