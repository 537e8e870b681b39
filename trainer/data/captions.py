"""Captions: `clip.txt` beside `clip.mp4`, or lines of `captions.jsonl` in the clip's folder or any
folder above it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...platform.errors import MoescopeError

CAPTION_FILE = "captions.jsonl"
FILE_KEYS = ("file", "file_name", "path")
CAPTION_KEYS = ("caption", "text")
CLASS_KEYS = ("class", "label")
# id 0 is padding or a dropped caption, byte b is id b + 1
PADDING_ID = 0


def read_caption_file(path: Path) -> dict[str, str]:
    """Reads {file name as written: caption} from lines such as {"file": "a.mp4", "caption": "a red
    ball"}.

    Other keys are ignored; of two lines about one file the later counts. A line may give a class
    (classes.py) and no caption. Raises MoescopeError with file and line.
    """
    captions: dict[str, str] = {}
    for number, entry in read_lines(path):
        name, caption = first_text(entry, FILE_KEYS), first_text(entry, CAPTION_KEYS)
        if name is None or (caption is None and not any(key in entry for key in CLASS_KEYS)):
            raise MoescopeError(
                f'{path} line {number}: expected {{"file": "clip.mp4", "caption": "..."}},'
                f" got {json.dumps(entry, ensure_ascii=False)[:80]}"
            )
        if caption is not None:
            captions[Path(name).as_posix()] = _tidy(caption)
    return captions


def read_lines(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yields (line number, entry) of the lines that are not blank. Raises MoescopeError with file
    and line.
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise MoescopeError(f"{path} line {number}: not JSON ({error.msg})") from None
        if not isinstance(entry, Mapping):
            raise MoescopeError(
                f'{path} line {number}: expected {{"file": "clip.mp4", "caption": "..."}},'
                f" got {line.strip()[:80]}"
            )
        yield number, entry


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


def first_text(entry: Mapping[str, object], keys: tuple[str, ...]) -> str | None:
    """Returns the first text among the values of these keys."""
    values = (entry.get(key) for key in keys)
    return next((value for value in values if isinstance(value, str)), None)


def _tidy(text: str) -> str:
    return " ".join(text.split())
