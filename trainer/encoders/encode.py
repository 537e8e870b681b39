"""Makes shards of a folder of clips: each clip's windows as latents, its caption as vectors.

A job of hours: it goes on where it was stopped, and writes the same whether it was or not.
"""

# W windows  B windows of several clips  L latent channels  F frames  H, W cells
import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...platform.errors import MoescopeError
from ...platform.frozen import changed, difference
from ..config import DataConfig, RunConfig
from ..data.clips import Clip, ClipIndex, find_clips
from ..data.decode import DecodedSample
from ..data.decode_pool import DecodePool
from ..data.decode_worker import Failure, Task
from ..data.encoding import ENCODED_KEYS, EncodedClip, EncoderUsed, Encoding
from ..data.shards import (
    checksum,
    is_encoded,
    is_whole,
    read_encoding,
    read_shards,
    shard_path,
    write_encoding,
    write_shard,
)
from .local import fingerprint
from .text import TextEncoder, load_text_encoder, refuse_width, text_encoder_folder
from .vae import Vae, load_vae, refuse_misfit, vae_folder

LOCK_FILE = ".encoding.lock"
FP16_MOST = 65_504.0


class Encoded(NamedTuple):
    """What an encoding came to."""

    folder: Path
    num_clips: int
    num_windows: int
    num_shards: int
    num_kept: int
    """Shards that an earlier encoding had written."""
    num_bytes: int
    passed_over: tuple[tuple[str, str], ...]


def encode_clips(
    config: RunConfig,
    to: Path,
    *,
    clips_per_shard: int = 64,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Encoded:
    """Encodes data.windows_per_clip windows of each clip in data.folder, chosen by `seed` as
    training chooses them, with data.vae, and the captions with data.text_encoder where
    data.captions is encoder.

    progress: is told shards done, of how many. Raises MoescopeError where clips, models or recipe
    do not go together, where `to` holds something else, where another process encodes into it, or
    where it cannot be written.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    source = Path(config.data.folder).expanduser()
    if is_encoded(source):
        raise MoescopeError(f"{source} is encoded already: name a folder of clips")
    if source.resolve() in to.resolve().parents:
        raise MoescopeError(f"{to} lies among the clips of {source}: name a folder elsewhere")
    index = find_clips(source)
    vae_at = vae_folder(config.data.vae, "--vae")
    vae = load_vae(config.data.vae, device, "--vae")
    refuse_misfit(vae.shape, config.data, vae_at)
    reader, reader_used = _reader(config, device)
    encoding = Encoding(
        data=_what_is_fixed(config.data, source),
        seed=config.seed,
        clips=index.fingerprint,
        num_shards=-(-len(index.clips) // clips_per_shard),
        clips_per_shard=clips_per_shard,
        vae=EncoderUsed(
            path=str(vae_at), fingerprint=fingerprint(vae_at), width=vae.shape.latent_channels
        ),
        text_encoder=reader_used,
    )
    with _alone_in(to):
        _begin(to, encoding)
        with_pool = DecodePool(config.data, config.seed)
        try:
            job = _Job(config, index, vae, reader, with_pool)
            num_kept = job.run(to, encoding, progress)
        finally:
            with_pool.close()
    return _summary(to, encoding, num_kept)


def _what_is_fixed(data: DataConfig, source: Path) -> DataConfig:
    """Leaves out what training may choose anew."""
    fixed = {key: getattr(data, key) for key in (*ENCODED_KEYS, "latents", "windows_per_clip")}
    return changed(DataConfig(), {**fixed, "folder": str(source.absolute())})


class _Job:
    def __init__(
        self,
        config: RunConfig,
        index: ClipIndex,
        vae: Vae,
        reader: TextEncoder | None,
        pool: DecodePool,
    ) -> None:
        self._config, self._index = config, index
        self._vae, self._reader, self._pool = vae, reader, pool
        self._classes = {number: name for name, number in index.classes.items()}

    def run(self, to: Path, encoding: Encoding, progress: Callable[[int, int], None]) -> int:
        """Writes the shards that are not there; returns how many were."""
        numbers = range(encoding.num_shards)
        missing = [number for number in numbers if not is_whole(to, number)]
        num_kept = len(numbers) - len(missing)
        progress(num_kept, len(numbers))
        for done, number in enumerate(missing, start=1):
            following = missing[done : done + 1]
            self._want(encoding, [number, *following])
            self._write(shard_path(to, number), self._clips(encoding, number))
            progress(num_kept + done, len(numbers))
        return num_kept

    def _clips(self, encoding: Encoding, number: int) -> Sequence[Clip]:
        first = number * encoding.clips_per_shard
        return self._index.clips[first : first + encoding.clips_per_shard]

    def _want(self, encoding: Encoding, numbers: Sequence[int]) -> None:
        clips = [clip for number in numbers for clip in self._clips(encoding, number)]
        self._pool.want([task for clip in clips for task in self._tasks(clip)])

    def _tasks(self, clip: Clip) -> list[Task]:
        return [Task(window, clip) for window in range(self._config.data.windows_per_clip)]

    def _write(self, path: Path, clips: Sequence[Clip]) -> None:
        rows: list[EncodedClip] = []
        tensors: dict[str, NDArray[Any]] = {}
        passed_over: list[tuple[str, str]] = []
        for clip in clips:
            samples = [self._pool.take(task) for task in self._tasks(clip)]
            read = [sample for sample in samples if not isinstance(sample, Failure)]
            failures = [sample.reason for sample in samples if isinstance(sample, Failure)]
            if failures:
                passed_over.append((clip.name, failures[0]))
                continue
            found = self._tensors(clip, read)
            tensors |= {f"{len(rows)}.{name}": value for name, value in found.items()}
            rows.append(self._row(clip, found))
        if not tensors:
            # safetensors writes no empty file that can be told from a cut off one
            tensors["none"] = np.zeros(1, np.uint8)
        write_shard(path, rows, tensors, passed_over)

    def _tensors(self, clip: Clip, samples: Sequence[DecodedSample]) -> dict[str, NDArray[Any]]:
        """Returns what is stored of a clip, by name."""
        pixels_WCFHW = torch.from_numpy(np.stack([sample.video_CFHW for sample in samples]))
        latents_WLFHW = self._vae.encode(pixels_WCFHW.float().div_(127.5).sub_(1.0))
        found = {"video": _half(latents_WLFHW.cpu(), clip)}
        if samples[0].has_sound:
            found["mel"] = np.stack([sample.mel_NM for sample in samples])
        if self._reader is not None:
            vectors = self._reader.encode([clip.caption], self._config.data.num_text_tokens)[0]
            found["text"] = _half(vectors, clip)
        return found

    def _row(self, clip: Clip, found: dict[str, NDArray[Any]]) -> EncodedClip:
        mel_WNM: Sequence[NDArray[Any] | None] = (
            list(found["mel"]) if "mel" in found else [None] * len(found["video"])
        )
        return EncodedClip(
            name=clip.name,
            caption=clip.caption,
            folder=clip.folder,
            duration_s=clip.duration_s,
            frames_per_s=clip.frames_per_s,
            has_sound=clip.has_sound,
            class_name=self._classes[clip.label],
            class_number=clip.label,
            checksums=tuple(
                checksum(video, mel) for video, mel in zip(found["video"], mel_WNM, strict=True)
            ),
            text_checksum=checksum(found["text"]) if "text" in found else None,
        )


def _reader(
    config: RunConfig, device: torch.device
) -> tuple[TextEncoder | None, EncoderUsed | None]:
    if config.data.captions == "bytes":
        return None, None
    folder = text_encoder_folder(config.data.text_encoder, "--text-encoder")
    reader = load_text_encoder(config.data.text_encoder, device, "--text-encoder")
    refuse_width(reader.width, config, folder)
    used = EncoderUsed(path=str(folder), fingerprint=fingerprint(folder), width=reader.width)
    return reader, used


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder, and this process the only one that encodes into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise MoescopeError(f"{folder} cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MoescopeError(f"another process encodes into {folder}: wait for it") from None
        yield


def _begin(folder: Path, encoding: Encoding) -> None:
    """Writes what is asked, or makes sure that the same was asked before."""
    if not is_encoded(folder):
        others = [path.name for path in folder.iterdir() if path.name != LOCK_FILE]
        if others:
            raise MoescopeError(
                f"{folder} holds other files ({others[0]}): name a folder that is empty or new"
            )
        write_encoding(folder, encoding)
        return
    others = [
        "other clips" if key == "clips" else f"{key} {before} (not {after})"
        for key, (before, after) in sorted(difference(read_encoding(folder), encoding).items())
        # where things lie does not matter, and how many shards there are follows from the clips
        if not key.endswith((".path", "data.folder", "num_shards"))
    ]
    if others:
        more = f", and {len(others) - 3} more" if len(others) > 3 else ""
        raise MoescopeError(
            f"{folder} was begun with {', '.join(others[:3])}{more}: ask for the same, or name "
            "another folder"
        )


def _summary(folder: Path, encoding: Encoding, num_kept: int) -> Encoded:
    records = [record for _, record in read_shards(folder)]
    clips = [clip for record in records for clip in record.clips]
    passed_over = tuple(entry for record in records for entry in record.passed_over)
    if not clips:
        name, reason = passed_over[0]
        raise MoescopeError(f"no clip could be encoded (first {name}: {reason})")
    return Encoded(
        folder,
        len(clips),
        sum(len(clip.checksums) for clip in clips),
        encoding.num_shards,
        num_kept,
        sum(record.num_bytes for record in records),
        passed_over,
    )


def _half(values: torch.Tensor, clip: Clip) -> NDArray[np.float16]:
    """Rounds to fp16. Raises MoescopeError where values are not finite or too large for it."""
    if values.numel() and not values.abs().max() <= FP16_MOST:
        raise MoescopeError(
            f"the encoding of {clip.name} has values that are not finite, or above "
            f"{FP16_MOST:.0f}: are these the right weights?"
        )
    half: NDArray[np.float16] = values.numpy().astype(np.float16)
    return half
