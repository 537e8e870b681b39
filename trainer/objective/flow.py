"""Rectified flow on video and audio: sigma = 1 is noise, the target is noise - data."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..data.batches import Batch
from ..model.inputs import Inputs
from .data_prediction import flow_target
from .laws import loss_weight
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
    sound of the audio's, each weighed by its noise level (objective.loss_weight).
    """


def noisy(data: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
    """Returns (1 - sigma) * data + sigma * noise, sample by sample."""
    return torch.lerp(data, noise, _beside(sigma_B, data))


def _beside(value_B: Tensor, batch: Tensor) -> Tensor:
    """Gives one value per sample as many axes as a batch has."""
    return value_B.view(-1, *[1] * (batch.dim() - 1))


def flow_losses(
    model: nn.Module, batch: Batch, draw: Draw, config: RunConfig, whole: Batch | None = None
) -> Losses:
    """Computes the flow loss of each sample and modality: mean((model(noisy) - (noise - data))^2).

    whole: the batch that this one is a part of; the totals of all its parts add up to its own.
    Where the network predicts the data it is mean((x_model - x)^2) / max(sigma, LEAST_SIGMA)^2.
    Source: facts: model.md section 6 (the diffusers convention; JiT's x-prediction with v-loss).
    """
    whole = batch if whole is None else whole
    num_samples = len(whole.has_sound_B)
    flow = model(given(batch, draw, config))
    video_flow = draw.noise_video_BCFHW - batch.video_BCFHW
    mel_flow = draw.noise_mel_BNM - batch.mel_BNM
    if config.objective.prediction == "data":
        video_flow = flow_target(draw.noise_video_BCFHW, batch.video_BCFHW, draw.sigma_MB[0])
        mel_flow = flow_target(draw.noise_mel_BNM, batch.mel_BNM, draw.sigma_MB[1])
    video_B = _mean_square(flow.video_BCFHW - video_flow)
    video = _weighed(video_B, draw.sigma_MB[0], config).sum() / num_samples
    if not config.has_audio:
        return Losses(torch.stack([video_B, torch.zeros_like(video_B)]), video)
    audio_B = _mean_square(flow.mel_BNM - mel_flow)
    # selected, not multiplied: a NaN in masked audio must not reach the mean
    audio_B = torch.where(batch.has_sound_B, audio_B, torch.zeros_like(audio_B))
    audio = _weighed(audio_B, draw.sigma_MB[1], config).sum() / whole.has_sound_B.sum().clamp_min(1)
    per_sample_MB = torch.stack([video_B, audio_B])
    return Losses(per_sample_MB, video + config.objective.audio_weight * audio)


def given(batch: Batch, draw: Draw, config: RunConfig) -> Inputs:
    """Returns what the network is given of a batch: noisy data, and what it is told of it."""
    reference_BCHW = None
    if config.model.has_reference:
        dropped = draw.is_reference_dropped_B.view(-1, 1, 1, 1)
        first_BCHW = batch.video_BCFHW[:, :, 0]
        reference_BCHW = torch.where(dropped, torch.zeros_like(first_BCHW), first_BCHW)
    return Inputs(
        noisy(batch.video_BCFHW, draw.noise_video_BCFHW, draw.sigma_MB[0]),
        noisy(batch.mel_BNM, draw.noise_mel_BNM, draw.sigma_MB[1]),
        batch.text_BS.masked_fill(_beside(draw.is_caption_dropped_B, batch.text_BS), 0),
        batch.label_B.masked_fill(draw.is_caption_dropped_B, config.model.num_classes),
        reference_BCHW,
        draw.sigma_MB,
        draw.host_sigma_MB,
    )


def _weighed(loss_B: Tensor, sigma_B: Tensor, config: RunConfig) -> Tensor:
    weight_B = loss_weight(sigma_B, config.objective)
    return loss_B if weight_B is None else loss_B * weight_B


def _mean_square(error: Tensor) -> Tensor:
    return error.square().flatten(1).mean(1)
