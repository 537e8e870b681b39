"""Makes clips from captions: Euler steps along the flow, with guidance by the caption."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .config import RunConfig
from .data.captions import encode_caption
from .data.chance import generator
from .model.dit import COLOURS
from .objective.timesteps import shifted

# B batch  C colours  F frames  H, W pixels  N mels  M mel steps  S text bytes


class Generated(NamedTuple):
    """Made clips, on the model's device."""

    video_BCFHW: Tensor
    """(B, 3, F, H, W) fp32 in [-1, 1]."""
    mel_BNM: Tensor
    """(B, N, M) fp32, in the units of the training mels."""


def noise_schedule(steps: int, shift: float) -> list[float]:
    """Returns steps + 1 noise levels from 1 to 0, moved towards noise by `shift` as the
    training's are."""
    levels = shifted(np.linspace(1.0, 0.0, steps + 1), shift)
    return [float(level) for level in levels]


@torch.no_grad()
def generate(
    model: nn.Module,
    config: RunConfig,
    captions: Sequence[str],
    seed: int,
    steps: int = 30,
    guidance: float = 2.0,
) -> Generated:
    """Makes one clip per caption; video and audio go from noise to data together.

    z += (sigma_next - sigma) * v,  v = v_without + guidance * (v_with - v_without) guidance: 1
    follows the caption as learned and saves half the work; more exaggerates it. A clip depends on
    its caption, its place in the list and the seed; on other captions only through rounding.
    Leaves the model's training flag alone. Source: facts: model.md 6.1.
    """
    device = next(model.parameters()).device
    text_BS = _encode(captions, config).to(device)
    video, mel = (noise.to(device) for noise in _starting_noise(config, len(captions), seed))
    levels = noise_schedule(steps, config.objective.shift)
    for sigma, after in pairwise(levels):
        flow_video, flow_mel = _guided(model, video, mel, text_BS, sigma, guidance)
        video = video + (after - sigma) * flow_video
        mel = mel + (after - sigma) * flow_mel
    return Generated(video.clamp(-1, 1), mel)


def _guided(
    model: nn.Module, video: Tensor, mel: Tensor, text_BS: Tensor, sigma: float, guidance: float
) -> tuple[Tensor, Tensor]:
    if guidance == 1.0:
        level_MB = torch.full((2, len(video)), sigma, device=video.device)
        flow_video, flow_mel = model(video, mel, text_BS, level_MB)
        return flow_video, flow_mel
    level_MB = torch.full((2, 2 * len(video)), sigma, device=video.device)
    texts = torch.cat([text_BS, torch.zeros_like(text_BS)])
    flows = model(torch.cat([video, video]), torch.cat([mel, mel]), texts, level_MB)
    flow_video, flow_mel = (
        without + guidance * (told - without) for told, without in (f.chunk(2) for f in flows)
    )
    return flow_video, flow_mel


def _encode(captions: Sequence[str], config: RunConfig) -> Tensor:
    encoded = [encode_caption(caption, config.data.num_text_bytes) for caption in captions]
    return torch.from_numpy(np.stack(encoded).astype(np.int64))


def _starting_noise(config: RunConfig, num_clips: int, seed: int) -> tuple[Tensor, Tensor]:
    d = config.data
    video, mel = [], []
    for place in range(num_clips):
        chance = generator(seed, "", place, "generate")
        shape = (COLOURS, d.num_frames, d.height, d.width)
        video.append(chance.standard_normal(shape, dtype=np.float32))
        mel.append(chance.standard_normal((d.num_mels, d.num_mel_steps), dtype=np.float32))
    return torch.from_numpy(np.stack(video)), torch.from_numpy(np.stack(mel))
