"""Clips that were encoded once, in shards: a folder that is read as a folder of clips is.

    encoding.json               what was asked of the encoding
    shard-00000.safetensors     of each row: video (W, L, F, H, W) fp16, mel (W, N, M) fp32 where
                                there is sound, text (S, T) fp16 where there is a text encoder
    shard-00000.json            the clips of the shard by row, and the checksums of all of it

A shard counts once its record is there, which is written last. No torch here: decoding processes
read it.
"""

# W windows  L latent channels  F frames  H, W cells  N mels  M mel steps  S text tokens  T width of
# their vectors
import contextlib
import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...platform.errors import MoescopeError
from .encoding import EncodedClip, Encoding, ShardRecord
from .headers import UnreadableClip, explain

ENCODING_FILE = "encoding.json"
AGAIN = "run `moescope data encode` again, which writes what is missing"


class Place(NamedTuple):
    """Where an encoded clip lies in its shard."""

    row: int
    checksums: tuple[int, ...]
    text_checksum: int | None


class EncodedWindow(NamedTuple):
    video_LFHW: NDArray[np.float16]
    mel_NM: NDArray[np.float32] | None


def shard_path(folder: Path, number: int) -> Path:
    """Returns the file of a shard's tensors; its record has the suffix json."""
    return folder / f"shard-{number:05d}.safetensors"


def is_encoded(folder: Path) -> bool:
    """Whether a folder is one of shards, finished or not."""
    return (folder / ENCODING_FILE).is_file()


def read_encoding(folder: Path) -> Encoding:
    """Raises MoescopeError where the file is damaged or from a newer moescope."""
    encoding: Encoding = _read(Encoding, folder / ENCODING_FILE, "encode into another folder")
    return encoding


def kept_encoding(run_folder: Path) -> Encoding | None:
    """Returns what a run keeps of its data's encoding; None where its data was never encoded.
    Raises MoescopeError where that is damaged."""
    if not is_encoded(run_folder):
        return None
    advice = f"put {ENCODING_FILE} of the run's data in its place"
    encoding: Encoding = _read(Encoding, run_folder / ENCODING_FILE, advice)
    return encoding


def read_shards(folder: Path) -> Iterator[tuple[Path, ShardRecord]]:
    """Yields each shard's file and record.

    Raises MoescopeError where the encoding is not finished, and where a shard is missing or not as
    long as it was. What is inside is checked when it is read, and by `check_shards`.
    """
    encoding = read_encoding(folder)
    numbers = range(encoding.num_shards)
    num_done = sum(shard_path(folder, n).with_suffix(".json").is_file() for n in numbers)
    if num_done < encoding.num_shards:
        raise MoescopeError(
            f"{folder} is not encoded to its end ({num_done} of {encoding.num_shards} shards): "
            f"{AGAIN}"
        )
    for number in numbers:
        path = shard_path(folder, number)
        record = _read(ShardRecord, path.with_suffix(".json"))
        num_bytes = path.stat().st_size if path.is_file() else 0
        if num_bytes != record.num_bytes:
            raise MoescopeError(
                f"{path} is damaged ({num_bytes} bytes of {record.num_bytes}): {AGAIN}"
            )
        yield path, record


def is_whole(folder: Path, number: int) -> bool:
    """Whether a shard is there with its record and as it was written."""
    path = shard_path(folder, number)
    try:
        record: ShardRecord = _read(ShardRecord, path.with_suffix(".json"))
        return path.stat().st_size == record.num_bytes and sha256_of(path) == record.sha256
    except (MoescopeError, OSError):
        return False


def check_shards(folder: Path) -> None:
    """Reads every shard. Raises MoescopeError where one is not as it was written."""
    for path, record in read_shards(folder):
        if sha256_of(path) != record.sha256:
            raise MoescopeError(f"{path} is damaged (its checksum differs): {AGAIN}")


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_encoding(folder: Path, encoding: Encoding) -> None:
    """Begins a folder of shards. Raises MoescopeError where it cannot be written."""
    _write(folder / ENCODING_FILE, encoding.model_dump_json(indent=2))


def write_shard(
    path: Path,
    clips: Sequence[EncodedClip],
    tensors: Mapping[str, NDArray[Any]],
    passed_over: Sequence[tuple[str, str]],
) -> None:
    """Writes a shard, then its record; each is there whole or not at all.

    Raises MoescopeError where the disk is full or the folder cannot be written.
    """
    unfinished = path.with_suffix(".unfinished")
    try:
        save_file(dict(tensors), unfinished)
        record = ShardRecord(
            sha256=sha256_of(unfinished),
            num_bytes=unfinished.stat().st_size,
            clips=tuple(clips),
            passed_over=tuple(passed_over),
        )
        _settle(unfinished, path)
    except (OSError, SafetensorError) as error:
        raise MoescopeError(f"cannot write {path}: {_why(error)}; {AGAIN}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    _write(path.with_suffix(".json"), record.model_dump_json())


def read_window(path: Path, place: Place, window: int) -> EncodedWindow:
    """Reads one window of a clip. Raises UnreadableClip where it is not what was written."""
    with _opened(path) as tensors:
        video_LFHW = _slice(tensors, f"{place.row}.video", window)
        name = f"{place.row}.mel"
        mel_NM = _slice(tensors, name, window) if name in tensors.keys() else None  # noqa: SIM118
    if checksum(video_LFHW, mel_NM) != place.checksums[window]:
        raise UnreadableClip(f"{path} is damaged: {AGAIN}")
    return EncodedWindow(video_LFHW, mel_NM)


def read_text(path: Path, place: Place, num_tokens: int) -> NDArray[np.float16]:
    """Reads the vectors (num_tokens, T) of a clip's caption, zeros behind its end. Raises
    UnreadableClip."""
    with _opened(path) as tensors:
        text_ST: NDArray[np.float16] = tensors.get_tensor(f"{place.row}.text")
    if checksum(text_ST) != place.text_checksum:
        raise UnreadableClip(f"{path} is damaged: {AGAIN}")
    padded_ST = np.zeros((num_tokens, text_ST.shape[1]), dtype=np.float16)
    padded_ST[: len(text_ST)] = text_ST
    return padded_ST


def checksum(*values: NDArray[Any] | None) -> int:
    """Returns the CRC-32 of arrays, one after the other; None is passed over."""
    found = 0
    for value in values:
        if value is not None:
            found = zlib.crc32(np.ascontiguousarray(value).tobytes(), found)
    return found


def _read(kind: Any, path: Path, advice: str = AGAIN) -> Any:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise MoescopeError(f"cannot read {path}: {_why(error)}") from None
    except ValidationError:
        raise MoescopeError(f"{path} is damaged, or written by another version: {advice}") from None


def _write(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".unfinished")
    try:
        unfinished.write_text(text)
        _settle(unfinished, path)
    except OSError as error:
        raise MoescopeError(f"cannot write {path}: {_why(error)}; {AGAIN}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _settle(unfinished: Path, path: Path) -> None:
    """Gives a file its name once it is on the disk."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as tensors:
            yield tensors
    except (OSError, SafetensorError) as error:
        raise UnreadableClip(f"{path} is damaged ({_why(error)}): {AGAIN}") from None


def _slice(tensors: Any, name: str, window: int) -> NDArray[Any]:
    found: NDArray[Any] = tensors.get_slice(name)[window : window + 1][0]
    return found


def _why(error: Exception) -> str:
    return explain(error) if isinstance(error, OSError) else str(error).splitlines()[0]
