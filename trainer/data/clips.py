"""Finds the clips of a folder: which can be used, and which were passed over and why."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...platform.errors import MoescopeError
from .captions import CAPTION_FILE, read_caption_beside, read_caption_file
from .headers import UnreadableClip, read_header

CLIP_SUFFIXES = (".mp4", ".webm", ".mov", ".m4v", ".mkv")


@dataclass(frozen=True, slots=True)
class Clip:
    path: Path
    name: str
    """Path below the searched folder, with forward slashes; the key of all chance about the clip.
    """
    caption: str
    """Empty where nobody wrote one."""
    folder: str
    """The sub-folder it was delivered in; empty for the searched folder itself."""
    duration_s: float
    frames_per_s: float
    has_sound: bool


@dataclass(frozen=True, slots=True)
class ClipIndex:
    folder: Path
    clips: tuple[Clip, ...]
    """In the order of delivery: by sub-folder, then by name; numbers in names count as numbers."""
    passed_over: tuple[tuple[str, str], ...]
    """(name, reason) of every file that cannot be used."""
    fingerprint: str
    """Changes when a usable clip comes, goes, or changes its size or caption."""


def find_clips(folder: Path | str) -> ClipIndex:
    """Searches a folder in depth and opens every clip once.

    A file that is empty, cut off or no video is passed over and named. Raises MoescopeError where
    the folder is missing, a captions.jsonl cannot be read, or nothing usable is found (saying what
    was found instead).
    """
    root = Path(folder).expanduser()
    if not str(folder):
        raise MoescopeError("data.folder is empty: name a folder of mp4, webm or mov clips")
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MoescopeError(f"data.folder is {root}, which {what}: name a folder of clips")
    paths = sorted(_files_below(root), key=lambda path: _natural(path, root))
    listed = {path.parent: read_caption_file(path) for path in paths if path.name == CAPTION_FILE}
    videos = [path for path in paths if path.suffix.lower() in CLIP_SUFFIXES]
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1)) as pool:
        found = list(pool.map(lambda path: _look_at(path, root, listed), videos))
    clips = tuple(clip for clip in found if isinstance(clip, Clip))
    passed_over = [entry for entry in found if not isinstance(entry, Clip)]
    passed_over += _not_clips(paths, root) + _listed_in_vain(listed, set(videos), root)
    if not clips:
        raise MoescopeError(
            f"data.folder is {root}, but no clip in it is usable: {_told(passed_over)}"
        )
    return ClipIndex(root, clips, tuple(passed_over), _fingerprint(clips))


def _files_below(root: Path) -> Iterator[Path]:
    """Yields every file that is not hidden; links are followed, but no folder is entered twice."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = (
            [name for name in folders if not name.startswith(".")] if real not in seen else []
        )
        if real not in seen:
            yield from (Path(parent, name) for name in files if not name.startswith("."))
        seen.add(real)


def _look_at(
    path: Path, root: Path, listed: Mapping[Path, Mapping[str, str]]
) -> Clip | tuple[str, str]:
    name = _name(path, root)
    try:
        header = read_header(path)
    except UnreadableClip as reason:
        return name, str(reason)
    except Exception as error:  # one odd file must not hide all the others
        return name, f"{type(error).__name__}: {error}"
    folder, slash, _ = name.rpartition("/")
    return Clip(
        path=path.absolute(),
        name=name,
        caption=_caption(path, root, listed),
        folder=folder if slash else "",
        duration_s=header.duration_s,
        frames_per_s=header.frames_per_s,
        has_sound=header.has_sound,
    )


def _caption(path: Path, root: Path, listed: Mapping[Path, Mapping[str, str]]) -> str:
    """The file beside the clip wins, then the nearest captions.jsonl that names it."""
    beside = read_caption_beside(path)
    if beside is not None:
        return beside
    for parent in path.parents:
        caption = listed.get(parent, {}).get(path.relative_to(parent).as_posix())
        if caption is not None:
            return caption
        if parent == root:
            break
    return ""


def _name(path: Path, root: Path) -> str:
    # a name that is not UTF-8 on disk must still be printable and storable
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _natural(path: Path, root: Path) -> tuple[tuple[tuple[int, int | str], ...], ...]:
    """Sorts part-2 before part-10, and the files of a folder before those of its sub-folders."""
    *folders, name = path.relative_to(root).parts
    # a marker that is less than any name's first piece ends the folder
    return (*map(_numbers_as_numbers, folders), ((-1, ""),), _numbers_as_numbers(name))


def _numbers_as_numbers(part: str) -> tuple[tuple[int, int | str], ...]:
    pieces = re.split(r"([0-9]+)", part)
    # text and numbers alternate, so that like meets like; the text itself decides between 1 and 01
    return (*((1, int(p)) if i % 2 else (0, p) for i, p in enumerate(pieces)), (-1, part))


def _not_clips(paths: list[Path], root: Path) -> list[tuple[str, str]]:
    captions = {path.with_suffix(".txt") for path in paths if path.suffix.lower() in CLIP_SUFFIXES}
    return [
        (_name(path, root), f"no clip: {path.suffix or 'no suffix'}")
        for path in paths
        if path.suffix.lower() not in CLIP_SUFFIXES
        and path not in captions
        and path.name != CAPTION_FILE
    ]


def _listed_in_vain(
    listed: Mapping[Path, Mapping[str, str]], videos: set[Path], root: Path
) -> list[tuple[str, str]]:
    return [
        (
            _name(parent / name, root) if not Path(name).is_absolute() else name,
            "has a caption, but is not there",
        )
        for parent, captions in listed.items()
        for name in captions
        if parent / name not in videos
    ]


def _told(passed_over: list[tuple[str, str]]) -> str:
    if not passed_over:
        return "it holds no file; clips are mp4, webm or mov"
    reasons = Counter(reason for _, reason in passed_over)
    told = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    first = passed_over[0][0]
    return f"{len(passed_over)} found ({told}; first {first}); clips are mp4, webm or mov files"


def _fingerprint(clips: tuple[Clip, ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for clip in clips:
        facts = (clip.name, clip.path.stat().st_size, clip.caption)
        digest.update(repr(facts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
