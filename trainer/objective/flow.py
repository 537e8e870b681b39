"""Rectified flow on video and audio: sigma = 1 is noise, the target is noise - data."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..data.batches import Batch
from .timesteps import Draw

# B batch  C colours  F frames  H, W pixels  N mels  M modality in *_MB, mel steps in mel_BNM  S
# text bytes


class Losses(NamedTuple):
    """The losses of a batch; both carry gradients."""

    per_sample_MB: Tensor
    """(2, B) fp32: mean squared error of the flow of video and audio; 0 for the audio of a clip
    without sound.
    """
    total: Tensor
    """Scalar: mean over samples of the video's, plus audio_weight times the mean over samples with
    sound of the audio's.
    """


def noisy(data: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
    """Returns (1 - sigma) * data + sigma * noise, sample by sample."""
    sigma = sigma_B.view(-1, *[1] * (data.dim() - 1))
    return torch.lerp(data, noise, sigma)


def flow_losses(model: nn.Module, batch: Batch, draw: Draw, config: RunConfig) -> Losses:
    """Computes the flow loss of each sample and modality: mean((model(noisy) - (noise - data))^2).

    Source: facts: model.md section 6 (the diffusers convention).
    """
    text_BS = batch.text_BS.masked_fill(draw.is_caption_dropped_B[:, None], 0)
    flow_video, flow_mel = model(
        noisy(batch.video_BCFHW, draw.noise_video_BCFHW, draw.sigma_MB[0]),
        noisy(batch.mel_BNM, draw.noise_mel_BNM, draw.sigma_MB[1]),
        text_BS,
        draw.sigma_MB,
    )
    video_B = _mean_square(flow_video - (draw.noise_video_BCFHW - batch.video_BCFHW))
    audio_B = _mean_square(flow_mel - (draw.noise_mel_BNM - batch.mel_BNM))
    has_sound_B = batch.has_sound_B
    # selected, not multiplied: a NaN in masked audio must not reach the mean
    audio_B = torch.where(has_sound_B, audio_B, torch.zeros_like(audio_B))
    audio = audio_B.sum() / has_sound_B.sum().clamp_min(1)
    total = video_B.mean() + config.objective.audio_weight * audio
    return Losses(torch.stack([video_B, audio_B]), total)


def _mean_square(error: Tensor) -> Tensor:
    return error.square().flatten(1).mean(1)
