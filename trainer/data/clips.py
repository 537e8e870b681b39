"""Finds the clips and pictures of a folder: which can be used, of which class they are, and which
files were passed over and why.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ...platform.errors import MoescopeError
from .captions import CAPTION_FILE, read_caption_beside, read_caption_file
from .classes import Given, folder_class, number_classes, number_of, read_class_file
from .encoding import Encoding, fingerprint
from .headers import Header, UnreadableClip, read_header
from .pictures import is_picture, read_picture
from .shards import Place, is_encoded, read_encoding, read_shards

CLIP_SUFFIXES = (".mp4", ".webm", ".mov", ".m4v", ".mkv")
WHAT_CLIPS_ARE = "clips are mp4, webm or mov files, and pictures jpg, png or webp"
# a picture is a clip of one frame, which is held for as long as a sample lasts
STILL = Header(duration_s=0.0, frames_per_s=0.0, has_sound=False)

T = TypeVar("T")


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
    """0 for a picture, as frames_per_s."""
    frames_per_s: float
    has_sound: bool
    label: int = 0
    """The number of its class in `ClipIndex.classes`."""
    place: Place | None = None
    """Where it lies in its shard, which `path` is then; None for a file of its own."""


@dataclass(frozen=True, slots=True)
class ClipIndex:
    folder: Path
    clips: tuple[Clip, ...]
    """In the order of delivery: by sub-folder, then by name; numbers in names count as numbers."""
    passed_over: tuple[tuple[str, str], ...]
    """(name, reason) of every file that cannot be used."""
    fingerprint: str
    """Changes when a usable clip comes, goes, or changes its size or caption."""
    classes: Mapping[str, int]
    """The name and number of each class, by number: those of the clips, and those known before."""
    encoding: Encoding | None = None
    """What the clips were encoded with, where the folder is one of shards."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What the captions.jsonl files say, by their folder and by file name as written there."""

    captions: Mapping[Path, Mapping[str, str]]
    classes: Mapping[Path, Mapping[str, Given]]


def find_clips(
    folder: Path | str,
    known_classes: Mapping[str, int] | None = None,
    *,
    is_resumed: bool = True,
) -> ClipIndex:
    """Searches a folder in depth and opens every clip and picture once; of a folder of shards,
    which `moescope data encode` wrote, their records.

    A file that is empty, cut off or neither is passed over and named. known_classes: classes that
    have a number already and keep it; is_resumed: also those that no clip is of any more. Raises
    MoescopeError where the folder is missing, a captions.jsonl cannot be read or contradicts
    itself, nothing usable is found (saying what was found instead), or a shard is missing or cut
    off.
    """
    root = Path(folder).expanduser()
    if not str(folder):
        raise MoescopeError(
            "data.folder is empty: name a folder of mp4, webm or mov clips, or of pictures"
        )
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MoescopeError(f"data.folder is {root}, which {what}: name a folder of clips")
    if is_encoded(root):
        return _encoded_index(root, known_classes or {}, is_resumed)
    paths = sorted(_files_below(root), key=lambda path: _natural(path, root))
    lists = [path for path in paths if path.name == CAPTION_FILE]
    listed = Listed(
        {path.parent: read_caption_file(path) for path in lists},
        {path.parent: read_class_file(path) for path in lists},
    )
    videos = [path for path in paths if path.suffix.lower() in CLIP_SUFFIXES]
    # players and downloaders lay a clip's cover beside it under the same name
    with_cover = {path.with_suffix("") for path in videos}
    pictures = [
        path for path in paths if is_picture(path) and path.with_suffix("") not in with_cover
    ]
    usable = set(videos) | set(pictures)
    looked_at = [path for path in paths if path in usable]
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1)) as pool:
        found = list(pool.map(lambda path: _look_at(path, root, listed), looked_at))
    passed_over = [entry for entry in found if not isinstance(entry, Clip)]
    passed_over += _not_clips(paths, usable, root) + _listed_in_vain(listed, usable, root)
    given = [
        (clip, _class(path, root, listed))
        for path, clip in zip(looked_at, found, strict=True)
        if isinstance(clip, Clip)
    ]
    if not given:
        raise MoescopeError(
            f"data.folder is {root}, but no clip in it is usable: {_told(passed_over)}"
        )
    classes = number_classes([of for _, of in given], known_classes or {}, is_resumed=is_resumed)
    clips = tuple(replace(clip, label=number_of(of, classes)) for clip, of in given)
    return ClipIndex(root, clips, tuple(passed_over), _fingerprint(clips), classes)


def _encoded_index(root: Path, known: Mapping[str, int], is_resumed: bool) -> ClipIndex:
    encoding, shards = read_encoding(root), list(read_shards(root))
    rows = [(path, row, clip) for path, record in shards for row, clip in enumerate(record.clips)]
    if not rows:
        raise MoescopeError(f"data.folder is {root}, which holds no clip that could be encoded")
    classes = number_classes([clip.given for _, _, clip in rows], known, is_resumed=is_resumed)
    clips = tuple(
        Clip(
            path=path.absolute(),
            name=clip.name,
            caption=clip.caption,
            folder=clip.folder,
            duration_s=clip.duration_s,
            frames_per_s=clip.frames_per_s,
            has_sound=clip.has_sound,
            label=number_of(clip.given, classes),
            place=Place(row, clip.checksums, clip.text_checksum),
        )
        for path, row, clip in rows
    )
    records = [record for _, record in shards]
    passed_over = tuple(entry for record in records for entry in record.passed_over)
    return ClipIndex(root, clips, passed_over, fingerprint(encoding, records), classes, encoding)


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


def _look_at(path: Path, root: Path, listed: Listed) -> Clip | tuple[str, str]:
    name = _name(path, root)
    try:
        header = _header(path)
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


def _header(path: Path) -> Header:
    if not is_picture(path):
        return read_header(path)
    read_picture(path)
    return STILL


def _caption(path: Path, root: Path, listed: Listed) -> str:
    """The file beside the clip wins, then the nearest captions.jsonl that names it."""
    beside = read_caption_beside(path)
    if beside is not None:
        return beside
    return _nearest(path, root, listed.captions) or ""


def _class(path: Path, root: Path, listed: Listed) -> Given:
    """The nearest captions.jsonl that gives the clip a class wins, then the folder."""
    return _nearest(path, root, listed.classes) or folder_class(_name(path, root))


def _nearest(path: Path, root: Path, listed: Mapping[Path, Mapping[str, T]]) -> T | None:
    for parent in path.parents:
        said = listed.get(parent, {}).get(path.relative_to(parent).as_posix())
        if said is not None or parent == root:
            return said
    return None


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


def _not_clips(paths: list[Path], usable: set[Path], root: Path) -> list[tuple[str, str]]:
    captions = {path.with_suffix(".txt") for path in usable}
    return [
        (
            _name(path, root),
            "the cover of a clip" if is_picture(path) else f"no clip: {path.suffix or 'no suffix'}",
        )
        for path in paths
        if path not in usable and path not in captions and path.name != CAPTION_FILE
    ]


def _listed_in_vain(listed: Listed, usable: set[Path], root: Path) -> list[tuple[str, str]]:
    return [
        (
            _name(parent / name, root) if not Path(name).is_absolute() else name,
            f"has a {what}, but is not there",
        )
        for what, lists in (("caption", listed.captions), ("class", listed.classes))
        for parent, said in lists.items()
        for name in said
        if parent / name not in usable
        and (what == "caption" or name not in listed.captions.get(parent, {}))
    ]


def _told(passed_over: list[tuple[str, str]]) -> str:
    if not passed_over:
        return f"it holds no file; {WHAT_CLIPS_ARE}"
    reasons = Counter(reason for _, reason in passed_over)
    told = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    first = passed_over[0][0]
    return f"{len(passed_over)} found ({told}; first {first}); {WHAT_CLIPS_ARE}"


def _fingerprint(clips: tuple[Clip, ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for clip in clips:
        facts = (clip.name, clip.path.stat().st_size, clip.caption)
        digest.update(repr(facts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
