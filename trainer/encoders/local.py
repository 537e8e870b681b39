"""Models of other libraries, from a folder of this machine; nothing is ever fetched."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ...platform.errors import MoescopeError
from ..config import RunConfig
from ..data.encoding import EncoderUsed
from ..data.shards import is_encoded, read_encoding

WEIGHT_SUFFIXES = (".safetensors", ".bin")
EDGE_BYTES = 2**20
"""Of a weight file's beginning and end, which its fingerprint is made of."""


def library(name: str) -> ModuleType:
    """Imports diffusers or transformers. Raises MoescopeError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise MoescopeError(
            f"{missing} is not installed: pip install 'moescope[latents]'"
        ) from None


def model_folder(path: str, part: str, key: str) -> Path:
    """Finds a model: in the folder itself, or in its sub-folder `part`, as in a pipeline of
    diffusers.

    key: what named the path, for the error. Raises MoescopeError where there is no configuration or
    no weights.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise MoescopeError(
            f"{key} is {path}, which is no folder: put the model's config.json and weights there"
        )
    folder = next((f for f in (root / part, root) if (f / "config.json").is_file()), None)
    if folder is None:
        raise MoescopeError(
            f"{key} is {path}, which has no config.json, nor has {part}/ in it: put the model's "
            "config.json and weights there"
        )
    if not weight_files(folder):
        raise MoescopeError(
            f"{folder} has no weights: put the model's *.safetensors beside its config.json"
        )
    return folder.absolute()


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of a model's weights, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a model's config.json. Raises MoescopeError."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        raise MoescopeError(f"{path} cannot be read as JSON: put the model's own there") from None
    if not isinstance(values, dict):
        raise MoescopeError(f"{path} is no model's configuration: put the model's own there")
    return values


def fingerprint(folder: Path) -> str:
    """Returns what tells this model from another: its configuration, and the size, beginning and
    end of each file of weights."""
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES), os.SEEK_SET)
            digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


@contextmanager
def one_line(folder: Path) -> Iterator[None]:
    """Makes one line of whatever a library says when it cannot load the model of a folder."""
    try:
        yield
    except MoescopeError:
        raise
    except Exception as error:  # libraries raise all kinds for a file that is cut off
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MoescopeError(f"the model in {folder} cannot be loaded: {said[:200]}") from None


def chosen_path(config: RunConfig, key: str) -> str:
    """Returns the folder of a run's VAE or text encoder: data.vae or data.text_encoder, else where
    the data was encoded with it.

    key: vae or text_encoder. Raises MoescopeError where neither names one.
    """
    said: str = getattr(config.data, key)
    used = used_for(config, key)
    if not said and used is None:
        raise MoescopeError(
            f"data.{key} is empty, and {config.data.folder or 'data.folder'} is not encoded data "
            f"that names one: give its folder, as in --set data.{key}=PATH"
        )
    return said or (used.path if used is not None else "")


def used_for(config: RunConfig, key: str) -> EncoderUsed | None:
    """Returns the model that the data was encoded with, None where the data is not here."""
    folder = Path(config.data.folder).expanduser()
    if not config.data.folder or not is_encoded(folder):
        return None
    encoding = read_encoding(folder)
    return encoding.vae if key == "vae" else encoding.text_encoder


def refuse_another(config: RunConfig, key: str, folder: Path) -> None:
    """Raises MoescopeError where a model is not the one that the data was encoded with."""
    used = used_for(config, key)
    if used is not None and fingerprint(folder) != used.fingerprint:
        raise MoescopeError(
            f"the model in {folder} is not the one that {config.data.folder} was encoded with "
            f"({used.path}): --set data.{key}=PATH of that one"
        )
