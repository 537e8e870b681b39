"""Batches: which clips come when, decoded ahead of the step, and reachable from anywhere by their
number.
"""

# B batch  C colours, or latent channels  F frames  H height  W width  N mel bands  M mel steps
# S text bytes, or tokens  T width of their vectors
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ...platform.errors import MoescopeError
from ..config import DataConfig
from .clips import Clip, ClipIndex
from .decode import DecodedSample
from .decode_here import DecodeHere
from .decode_pool import DecodePool
from .decode_worker import Failure, Task
from .order import DrawOrder, split

# clips that are tried in the place of one that fails, before the folder itself must be at fault
MOST_REPLACEMENTS = 32
VALIDATION = -1


@dataclass(frozen=True, slots=True)
class Batch:
    index: int
    """The batch's number in the stream; -1 for the validation batch."""
    names: tuple[str, ...]
    positions: tuple[int, ...]
    """Each sample's place in the stream of all draws: index * batch + its place in the batch."""
    video_BCFHW: Tensor
    """fp32, -1 (black) to 1; after `latents.seen` the latents, where the configuration has some."""
    mel_BNM: Tensor
    """fp32, about zero mean and unit scale; zeros where there is no sound."""
    text_BS: Tensor
    """int64: UTF-8 byte + 1, 0 is padding; or fp32 (B, S, T): vectors of a text encoder, 0 behind a
    caption's end."""
    has_sound_B: Tensor
    """bool; all false where sound is not read."""
    label_B: Tensor
    """int64: the number of each clip's class (classes.py)."""

    def rows(self, rows: slice) -> "Batch":
        """Returns some of the samples, as a batch of the same number; views, no copies."""
        return Batch(
            self.index,
            self.names[rows],
            self.positions[rows],
            self.video_BCFHW[rows],
            self.mel_BNM[rows],
            self.text_BS[rows],
            self.has_sound_B[rows],
            self.label_B[rows],
        )

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch with its tensors on the device."""
        return replace(
            self,
            video_BCFHW=self.video_BCFHW.to(device, non_blocking=True),
            mel_BNM=self.mel_BNM.to(device, non_blocking=True),
            text_BS=self.text_BS.to(device, non_blocking=True),
            has_sound_B=self.has_sound_B.to(device, non_blocking=True),
            label_B=self.label_B.to(device, non_blocking=True),
        )


class Batches:
    """The endless stream of batches of one run, by number; it keeps no state that a rollback would
    have to restore.

    `get(i)` gives the same values whatever was asked for before, in whatever process. Decoding runs
    ahead of the last batch asked for; asking for another one re-plans it and costs the decoding of
    that batch at most. Used from one thread; close it, or use it in a `with`.
    """

    def __init__(self, index: ClipIndex, data: DataConfig, seed: int, *, ahead: int = 3) -> None:
        """ahead: batches that are decoded before they are asked for."""
        self.data = data
        self.training_clips, self.held_out_clips = split(index.clips, data.validation_share)
        self.bad_clips: dict[str, str] = {}
        """{name: reason} of clips that failed while they were read, so far."""
        self._order = DrawOrder(self.training_clips, data, seed)
        self._ahead = ahead
        self._pool = DecodePool(data, seed) if data.workers else DecodeHere(data, seed)
        self._kept: Batch | None = None

    def which(self, batch_index: int) -> list[tuple[int, Clip]]:
        """Returns (position, clip) of the batch's samples: a pure function of clips, configuration,
        seed and number.
        """
        first = batch_index * self.data.batch
        return [(p, self._order.draw(p)) for p in range(first, first + self.data.batch)]

    def get(self, batch_index: int) -> Batch:
        """Returns a batch. A clip that fails is named in bad_clips and the next one takes its
        place, always the same.

        Raises MoescopeError where nothing can be decoded any more.
        """
        if self._kept is not None and self._kept.index == batch_index:
            return self._kept
        numbers = range(batch_index, batch_index + 1 + self._ahead)
        plan = {number: self.which(number) for number in numbers}
        self._pool.want([Task(*draw) for number in numbers for draw in plan[number]])
        self._kept = self._collect(batch_index, plan[batch_index], self.training_clips)
        return self._kept

    def validation_batch(self, num_clips: int) -> Batch:
        """Returns the first num_clips held-out clips, or as many as there are, each with one fixed
        window.

        Where nothing is held out (data.validation_share of 0, or a single clip) these are clips
        that are trained on.
        """
        clips = self.held_out_clips or self.training_clips
        draws = list(enumerate(clips[:num_clips]))
        return self._collect(VALIDATION, draws, clips)

    def process_ids(self) -> list[int]:
        """Returns the ids of the decoding processes."""
        return self._pool.process_ids()

    def close(self) -> None:
        """Ends the decoding processes. May be called twice."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _collect(self, index: int, draws: list[tuple[int, Clip]], clips: list[Clip]) -> Batch:
        found = [self._sample(position, clip, clips) for position, clip in draws]
        samples = [sample for _, sample in found]
        video_BCFHW = torch.from_numpy(np.stack([s.video_CFHW for s in samples]))
        text_BS = torch.from_numpy(np.stack([s.text_S for s in samples]))
        is_pixels, is_bytes = video_BCFHW.dtype == torch.uint8, text_BS.dtype == torch.int16
        return Batch(
            index=index,
            names=tuple(clip.name for clip, _ in found),
            positions=tuple(position for position, _ in draws),
            video_BCFHW=video_BCFHW.float().div_(127.5).sub_(1.0)
            if is_pixels
            else video_BCFHW.float(),
            mel_BNM=torch.from_numpy(np.stack([s.mel_NM for s in samples])),
            text_BS=text_BS.long() if is_bytes else text_BS.float(),
            has_sound_B=torch.tensor([s.has_sound for s in samples]),
            label_B=torch.tensor([clip.label for clip, _ in found]),
        )

    def _sample(self, position: int, clip: Clip, clips: list[Clip]) -> tuple[Clip, DecodedSample]:
        """Returns the clip's sample, or that of the next clip in order of delivery that can be
        read.

        Every draw tries its own clip first, even one that failed before: what a batch holds must
        not depend on what this process met earlier, or a resumed run would differ from one that was
        never stopped.
        """
        for candidate in _from(clip, clips):
            outcome = self._pool.take(Task(position, candidate))
            if not isinstance(outcome, Failure):
                return candidate, outcome
            self.bad_clips[candidate.name] = outcome.reason
        raise MoescopeError(
            f"{clip.path} cannot be read any more ({self.bad_clips[clip.name]}), nor can the next"
            f" {min(len(clips), MOST_REPLACEMENTS) - 1} clips: is data.folder still there?"
        )


def _from(clip: Clip, clips: list[Clip]) -> Iterator[Clip]:
    yield clip
    first = clips.index(clip)
    for step in range(1, min(len(clips), MOST_REPLACEMENTS)):
        yield clips[(first + step) % len(clips)]
