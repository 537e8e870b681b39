"""What a model has learned, on fixed clips, fixed noise and fixed noise levels; and from which of
its inputs.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import RunConfig
from ..data.batches import Batch
from ..data.chance import generator
from ..model.inputs import Flow, Inputs
from ..objective.flow import flow_losses
from ..objective.laws import noise_levels_of
from ..objective.timesteps import Draw

# B batch  M modality (video, audio)  Q timestep bins

NUM_BINS = 8
"""Timestep bins of equal probability under the training's law of noise levels."""
PROBE_SEED = 20_240_607
"""Fixed, so that probes of different runs are comparable."""


class ProbePass(NamedTuple):
    """One pass over the probe batch: a draw, and the bin that each sample's noise levels lie in."""

    draw: Draw
    bin_MB: Tensor


Watching = Callable[[ProbePass], AbstractContextManager[None]]
"""What is opened around each pass of a probe."""


def unwatched(one: ProbePass) -> AbstractContextManager[None]:
    return nullcontext()


class BinLosses(NamedTuple):
    """Losses by noise level, from data to noise."""

    by_bin_MQ: NDArray[np.float64]
    """(2, Q): mean flow loss of video and audio in each bin; 0 for the audio of silent clips."""
    audio_weight: float

    @property
    def video(self) -> float:
        return float(self.by_bin_MQ[0].mean())

    @property
    def audio(self) -> float:
        return float(self.by_bin_MQ[1].mean())

    @property
    def total_Q(self) -> NDArray[np.float64]:
        """(Q,) video + audio_weight * audio, the training's weights."""
        total: NDArray[np.float64] = self.by_bin_MQ[0] + self.audio_weight * self.by_bin_MQ[1]
        return total

    @property
    def total(self) -> float:
        return float(self.total_Q.mean())


def probe_passes(config: RunConfig, batch: Batch, num_bins: int = NUM_BINS) -> list[ProbePass]:
    """Prepares `num_bins` passes in which every clip meets every bin once in video and once in
    audio.

    Within a bin the noise level is drawn; where modalities are not tied, the audio's bins come in
    an order of the clip's own, so that all mixtures occur. Depends on the clips' names, not on
    their order or on the run's seed.
    """
    plans = [_plan(config, name, num_bins) for name in batch.names]
    passes = []
    for index in range(num_bins):
        noise = [generator(PROBE_SEED, name, index, "noise") for name in batch.names]
        device = batch.video_BCFHW.device
        video = [g.standard_normal(batch.video_BCFHW.shape[1:], dtype=np.float32) for g in noise]
        mel = [g.standard_normal(batch.mel_BNM.shape[1:], dtype=np.float32) for g in noise]
        sigma_MB = np.stack([sigma_MQ[:, index] for _, sigma_MQ in plans], axis=1)
        # no sound: pure noise tells the video nothing, as in training
        sigma_MB[1, ~batch.has_sound_B.cpu().numpy()] = 1.0
        bin_MB = np.stack([bin_MQ[:, index] for bin_MQ, _ in plans], axis=1)
        told = torch.zeros(len(plans), dtype=torch.bool, device=device)
        host_sigma_MB = torch.from_numpy(sigma_MB.astype(np.float32))
        drawn = Draw(
            host_sigma_MB.to(device),
            torch.from_numpy(np.stack(video)).to(device),
            torch.from_numpy(np.stack(mel)).to(device),
            told,
            told,
            host_sigma_MB,
        )
        passes.append(ProbePass(drawn, torch.from_numpy(bin_MB).to(device)))
    return passes


def _plan(
    config: RunConfig, name: str, num_bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns a clip's bins (2, Q) and noise levels (2, Q), pass by pass."""
    chance = generator(PROBE_SEED, name, 0, "levels")
    video = np.arange(num_bins)
    audio = video if config.objective.are_modalities_tied else chance.permutation(num_bins)
    bin_MQ = np.stack([video, audio])
    jitter_MQ = chance.random((2, num_bins))
    if config.objective.are_modalities_tied:
        jitter_MQ[1] = jitter_MQ[0]
    return bin_MQ, noise_levels_of((bin_MQ + jitter_MQ) / num_bins, config)


def probe(
    model: nn.Module,
    batch: Batch,
    passes: Sequence[ProbePass],
    config: RunConfig,
    watching: Watching = unwatched,
) -> BinLosses:
    """Measures the model's losses by noise level, in evaluation mode. Changes no state, except the
    layers' counts of a step. watching: opened around each pass."""
    return _mean(_sums(model, batch, passes, config, watching), config)


@torch.no_grad()
def _sums(
    model: nn.Module,
    batch: Batch,
    passes: Sequence[ProbePass],
    config: RunConfig,
    watching: Watching = unwatched,
) -> tuple[Tensor, Tensor]:
    """Returns the sum of the losses in each bin, and how many clips hit it; both (2, Q)."""
    loss, hits = torch.zeros(2, len(passes)), torch.zeros(2, len(passes))
    for one in passes:
        drawn, bin_MB = one
        with evaluating(model), watching(one):
            per_sample_MB = flow_losses(model, batch, drawn, config).per_sample_MB.cpu()
        counted_MB = torch.stack([torch.ones_like(batch.has_sound_B), batch.has_sound_B]).cpu()
        loss.scatter_add_(1, bin_MB.cpu(), per_sample_MB)
        hits.scatter_add_(1, bin_MB.cpu(), counted_MB.float())
    return loss, hits


def _mean(sums: tuple[Tensor, Tensor], config: RunConfig) -> BinLosses:
    loss, hits = sums
    # every bin is hit by each clip once; the audio's by none where there is no sound
    by_bin_MQ = (loss / hits.clamp_min(1)).double().numpy()
    return BinLosses(by_bin_MQ, config.objective.audio_weight)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts the model into evaluation mode, and back into the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class ZeroFlow(nn.Module):
    """The model that always answers zero: what it loses is the mean square of the target."""

    def forward(self, inputs: Inputs) -> Flow:
        return Flow(torch.zeros_like(inputs.video_BCFHW), torch.zeros_like(inputs.mel_BNM))


def with_other_captions(batch: Batch) -> Batch:
    """Gives each clip the caption and class of another one: a different text where the batch has
    one, a different class where there are no texts.
    """
    told = batch.text_BS if batch.text_BS.shape[1] else batch.label_B[:, None]
    partners = _partners(batch, _differ(told.cpu()))
    return replace(batch, text_BS=batch.text_BS[partners], label_B=batch.label_B[partners])


def with_other_sound(batch: Batch) -> Batch:
    """Gives each clip the sound of another one."""
    return replace(batch, mel_BNM=batch.mel_BNM[_partners(batch, _differ(batch.mel_BNM.cpu()))])


def with_other_video(batch: Batch) -> Batch:
    """Gives each clip the pictures of another one."""
    partners = _partners(batch, _differ(batch.video_BCFHW.cpu()))
    return replace(batch, video_BCFHW=batch.video_BCFHW[partners])


def _differ(values: Tensor) -> NDArray[np.bool_]:
    digests = [hashlib.blake2b(row.numpy().tobytes()).hexdigest() for row in values.contiguous()]
    number_of = {digest: number for number, digest in enumerate(digests)}
    number_B = np.array([number_of[digest] for digest in digests])
    differ_BB: NDArray[np.bool_] = number_B[:, None] != number_B
    return differ_BB


def _partners(batch: Batch, differ_BB: NDArray[np.bool_]) -> Tensor:
    """Picks another clip for each: keyed chance among those that differ; itself where none does."""
    picked = []
    for place, name in enumerate(batch.names):
        others = np.flatnonzero(differ_BB[place])
        chance = generator(PROBE_SEED, name, 0, "partner")
        picked.append(int(chance.choice(others)) if len(others) else place)
    return torch.tensor(picked, device=batch.video_BCFHW.device)


@dataclass(frozen=True, slots=True)
class Learned:
    """What a model has learned, and how much worse it gets when one of its inputs is another
    clip's."""

    losses: BinLosses
    zero_output: BinLosses
    other_captions: BinLosses
    other_sound: BinLosses
    other_video: BinLosses

    @property
    def below_zero_output(self) -> float:
        """Share by which the loss is under that of the model that answers zero."""
        return 1 - self.losses.total / self.zero_output.total

    @property
    def caption_effect(self) -> float:
        """Share by which the loss rises with other clips' captions, or classes."""
        return _rise(self.other_captions.total, self.losses.total)

    @property
    def sound_effect(self) -> float:
        """Share by which the video's loss rises with other clips' sound; 0 without sound."""
        return _rise(self.other_sound.video, self.losses.video)

    @property
    def video_effect(self) -> float:
        """Share by which the audio's loss rises with other clips' pictures; 0 without sound."""
        return _rise(self.other_video.audio, self.losses.audio)


def _rise(other: float, own: float) -> float:
    """Returns other / own - 1; 0 where both are 0, since nothing was measured."""
    return other / own - 1 if own or other else 0.0


def evaluate(
    model: nn.Module,
    batch: Batch,
    config: RunConfig,
    *,
    most_at_once: int | None = None,
    device: torch.device | None = None,
) -> Learned:
    """Measures all figures of `Learned` on a batch of held-out clips, with the same noise in
    each.

    most_at_once: clips that the model is given at a time, None: all of them. device: the model's,
    None: the batch's.
    """
    told: Mapping[str, tuple[nn.Module, Batch]] = {
        "losses": (model, batch),
        "zero_output": (ZeroFlow(), batch),
        "other_captions": (model, with_other_captions(batch)),
        "other_sound": (model, with_other_sound(batch)),
        "other_video": (model, with_other_video(batch)),
    }
    none = torch.zeros(2, NUM_BINS)
    sums = dict.fromkeys(told, (none, none))
    for first in range(0, len(batch.names), most_at_once or len(batch.names)):
        rows = slice(first, first + (most_at_once or len(batch.names)))
        there = device or batch.video_BCFHW.device
        passes = probe_passes(config, batch.rows(rows).to(there))
        for name, (network, whole) in told.items():
            loss, hits = _sums(network, whole.rows(rows).to(there), passes, config)
            sums[name] = sums[name][0] + loss, sums[name][1] + hits
    return Learned(**{name: _mean(both, config) for name, both in sums.items()})
