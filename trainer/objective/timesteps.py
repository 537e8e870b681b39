"""The chance of a training step: noise levels, noise, and captions and references left out, each
keyed by its sample.

A sample's draw depends on (seed, clip name, position) only, so that its loss can be computed again
outside its batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import RunConfig
from ..data.batches import Batch
from ..data.chance import generator
from .laws import noise_levels_of

# B batch  C colours  F frames  H, W pixels  N mels  M mel steps, or modality in sigma_MB


class Draw(NamedTuple):
    """What chance adds to a batch."""

    sigma_MB: Tensor
    """(2, B) fp32 noise levels of video and audio: 0 is data, 1 is noise."""
    noise_video_BCFHW: Tensor
    noise_mel_BNM: Tensor
    is_caption_dropped_B: Tensor
    """Of the class, too."""
    is_reference_dropped_B: Tensor
    host_sigma_MB: Tensor | None = None
    """sigma_MB before it went to the device."""

    def rows(self, rows: slice) -> "Draw":
        """Returns what chance adds to some of the samples; views, no copies."""
        return Draw(
            self.sigma_MB[:, rows],
            self.noise_video_BCFHW[rows],
            self.noise_mel_BNM[rows],
            self.is_caption_dropped_B[rows],
            self.is_reference_dropped_B[rows],
            None if self.host_sigma_MB is None else self.host_sigma_MB[:, rows],
        )


def draw(config: RunConfig, seed: int, batch: Batch) -> Draw:
    """Draws the noise levels, the noise and what is left out of a batch, on the batch's device.

    A clip without sound gets audio noise level 1: its audio tokens are pure noise and tell nothing.
    """
    sigma, video, mel, captions, references = [], [], [], [], []
    has_sound = batch.has_sound_B.tolist()
    for slot, (name, position) in enumerate(zip(batch.names, batch.positions, strict=True)):
        video_level, audio_level = noise_levels(config, seed, name, position)
        sigma.append((video_level, audio_level if has_sound[slot] else 1.0))
        noise = generator(seed, name, position, "noise")
        video.append(noise.standard_normal(batch.video_BCFHW.shape[1:], dtype=np.float32))
        mel.append(noise.standard_normal(batch.mel_BNM.shape[1:], dtype=np.float32))
        chance = generator(seed, name, position, "caption").random()
        captions.append(chance < config.data.caption_drop)
        chance = generator(seed, name, position, "reference").random()
        references.append(chance < config.data.reference_drop)
    device = batch.video_BCFHW.device
    sigma_MB = torch.tensor(sigma, dtype=torch.float32).T.contiguous()
    return Draw(
        sigma_MB.to(device),
        torch.from_numpy(np.stack(video)).to(device),
        torch.from_numpy(np.stack(mel)).to(device),
        torch.tensor(captions, dtype=torch.bool).to(device),
        torch.tensor(references, dtype=torch.bool).to(device),
        sigma_MB,
    )


def noise_levels(config: RunConfig, seed: int, name: str, position: int) -> tuple[float, float]:
    """Returns the noise levels of a sample's video and audio, by the configuration's law.

    is_stratified: the samples of a batch share out `data.batch` parts of equal probability, in an
    order that is drawn per batch and, where the modalities are not tied, per modality. Which part a
    sample gets follows from its position alone.
    """
    batch = config.data.batch
    place = generator(seed, name, position, "timestep").random(2)
    if config.objective.is_stratified:
        index, slot = divmod(position, batch)
        order = generator(seed, "", index, "strata")
        place = np.array([(order.permutation(batch)[slot] + u) / batch for u in place])
    video, audio = noise_levels_of(place, config).tolist()
    return (video, video) if config.objective.are_modalities_tied else (video, audio)
