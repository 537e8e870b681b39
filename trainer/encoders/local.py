"""Models of other libraries, from a folder of this machine; nothing is ever fetched."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError, safe_open

from ...platform.errors import MoescopeError

WEIGHT_SUFFIXES = (".safetensors", ".bin")
ANEW = "put its config.json and weights there anew, under the names as they were published"
EDGE_BYTES = 2**20
"""Of a weight file's beginning and end, which its fingerprint is made of."""


def library(name: str) -> ModuleType:
    """Imports diffusers or transformers. Raises MoescopeError where it is not installed.

    They say no more by themselves: they would draw a bar for every model, also into a log, and tell
    in several lines what is raised as well.
    """
    try:
        module = import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise MoescopeError(
            f"{missing} is not installed: pip install 'moescope[latents]'"
        ) from None
    module.utils.logging.disable_progress_bar()
    module.utils.logging.set_verbosity(logging.CRITICAL)
    return module


def model_folder(path: str, part: str, key: str) -> Path:
    """Finds a model: in the folder itself, or in its sub-folder `part`, as in a pipeline of
    diffusers.

    key: what named the path, for the error. Raises MoescopeError where there is no configuration or
    no weights.
    """
    if not path:
        raise MoescopeError(
            f"{key} is empty: give the folder of the model's config.json and weights"
        )
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


def loading(folder: Path) -> dict[str, Any]:
    """Returns what the `from_pretrained` of both libraries is told: to fetch nothing, to unpickle
    nothing where there are safetensors, and to say what was missing. Raises MoescopeError where one
    of those is damaged."""
    safe = [path for path in weight_files(folder) if path.suffix == ".safetensors"]
    for path in safe:
        _refuse_damaged(path)
    return {
        "local_files_only": True,
        "use_safetensors": bool(safe),
        "output_loading_info": True,
        # so that they are in the account, which `refuse_gaps` reads
        "ignore_mismatched_sizes": True,
    }


def _refuse_damaged(path: Path) -> None:
    """Opens a file, which reads its header and compares its length."""
    try:
        with safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise MoescopeError(f"{path} is damaged ({said[:100]}): {ANEW}") from None


def refuse_gaps(folder: Path, info: Mapping[str, Any]) -> None:
    """Raises MoescopeError where the weights do not fill a model: the libraries would fill the gaps
    with chance. info: what `from_pretrained` says of its loading."""
    gaps = [*info["missing_keys"], *info["mismatched_keys"]]
    if gaps:
        first = gaps[0] if isinstance(gaps[0], str) else gaps[0][0]
        raise MoescopeError(
            f"the weights in {folder} lack {len(gaps)} tensors of its config.json, or have them in "
            f"another shape (first {first}): {ANEW}"
        )


@contextmanager
def one_line(folder: Path) -> Iterator[None]:
    """Makes one line of whatever a library says when it cannot load the model of a folder."""
    try:
        yield
    except MoescopeError:
        raise
    except Exception as error:  # libraries raise all kinds for a file that is cut off
        said = " ".join(str(error).split()) or type(error).__name__
        raise MoescopeError(
            f"the model in {folder} cannot be loaded ({said[:200].rstrip('.')}): {ANEW}"
        ) from None
