"""Captions: `clip.txt` beside `clip.mp4`, or lines of `captions.jsonl` in the clip's folder or any
folder above it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...platform.errors import MoescopeError

CAPTION_FILE = "captions.jsonl"
FILE_KEYS = ("file", "file_name", "path")
CAPTION_KEYS = ("caption", "text")
# id 0 is padding or a dropped caption, byte b is id b + 1
PADDING_ID = 0


def read_caption_file(path: Path) -> dict[str, str]:
    """Reads {file name as written: caption} from lines such as {"file": "a.mp4", "caption": "a red
    ball"}.

    Other keys are ignored; of two lines about one file the later counts. Raises MoescopeError with
    file and line.
    """
    captions: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise MoescopeError(f"{path} line {number}: not JSON ({error.msg})") from None
        name, caption = _first(entry, FILE_KEYS), _first(entry, CAPTION_KEYS)
        if name is None or caption is None:
            raise MoescopeError(
                f'{path} line {number}: expected {{"file": "clip.mp4", "caption": "..."}},'
                f" got {line.strip()[:80]}"
            )
        captions[Path(name).as_posix()] = _tidy(caption)
    return captions


def read_caption_beside(clip_path: Path) -> str | None:
    """Reads `clip.txt` beside `clip.mp4`; None where there is none."""
    try:
        text = clip_path.with_suffix(".txt").read_text(encoding="utf-8-sig", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _tidy(text)


def encode_caption(caption: str, num_bytes: int) -> NDArray[np.int16]:
    """Returns the caption as text_S, int16: UTF-8 byte b as b + 1, cut or padded with 0 to
    num_bytes.
    """
    raw = np.frombuffer(caption.encode("utf-8", "replace")[:num_bytes], dtype=np.uint8)
    text_S = np.full(num_bytes, PADDING_ID, dtype=np.int16)
    text_S[: len(raw)] = raw.astype(np.int16) + 1
    return text_S


def _first(entry: object, keys: tuple[str, ...]) -> str | None:
    if not isinstance(entry, Mapping):
        return None
    values = (entry[key] for key in keys if isinstance(entry.get(key), str))
    return next(values, None)


def _tidy(text: str) -> str:
    return " ".join(text.split())
