"""Makes clips from captions or classes: Euler steps along the flow, with guidance by them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .config import RunConfig
from .data.captions import encode_caption
from .data.chance import generator
from .evaluate import evaluating
from .model.inputs import Inputs
from .objective.timesteps import shifted

# B batch  C colours  F frames  H, W pixels  N mels  M mel steps  S text bytes


class Prompt(NamedTuple):
    """What a clip is to show; a network leaves alone what it has no use for."""

    caption: str = ""
    label: int = 0
    reference_CHW: Tensor | None = None
    """The first frame, as the network sees frames; zeros where it is None."""


class Generated(NamedTuple):
    """Made clips, on the model's device."""

    video_BCFHW: Tensor
    """(B, C, F, H, W) fp32, as the network sees clips; pixels lie in [-1, 1]."""
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
    prompts: Sequence[Prompt],
    seed: int,
    steps: int = 30,
    guidance: float = 2.0,
) -> Generated:
    """Makes one clip per prompt; video and audio go from noise to data together.

    z += (sigma_next - sigma) * v,  v = v_without + guidance * (v_with - v_without) guidance: 1
    follows the caption or class as learned and saves half the work; more exaggerates it. A clip
    depends on its prompt, its place in the list and the seed; on other prompts only through
    rounding. The model is in evaluation mode meanwhile. Source: facts: model.md 6.1.
    """
    device = next(model.parameters()).device
    told = _told(prompts, config, device)
    video, mel = (noise.to(device) for noise in _starting_noise(config, len(prompts), seed))
    levels = noise_schedule(steps, config.objective.shift)
    with evaluating(model):
        for sigma, after in pairwise(levels):
            now = told._replace(
                video_BCFHW=video, mel_BNM=mel, sigma_MB=torch.full_like(told.sigma_MB, sigma)
            )
            flow_video, flow_mel = _guided(model, now, config, guidance)
            video = video + (after - sigma) * flow_video
            mel = mel + (after - sigma) * flow_mel
    return Generated(video.clamp(-1, 1) if config.data.latents == "none" else video, mel)


def _guided(
    model: nn.Module, now: Inputs, config: RunConfig, guidance: float
) -> tuple[Tensor, Tensor]:
    if guidance == 1.0:
        flow_video, flow_mel = model(now)
        return flow_video, flow_mel
    num = len(now.video_BCFHW)
    both = now.rows(torch.arange(2 * num, device=now.video_BCFHW.device) % num)
    both.text_BS[num:] = 0
    both.label_B[num:] = config.model.num_classes
    flow_video, flow_mel = (
        without + guidance * (told - without) for told, without in (f.chunk(2) for f in model(both))
    )
    return flow_video, flow_mel


def _told(prompts: Sequence[Prompt], config: RunConfig, device: torch.device) -> Inputs:
    """Returns the inputs without their noise: what each clip is told by."""
    num, d = len(prompts), config.data
    encoded = [encode_caption(prompt.caption, d.num_text_bytes) for prompt in prompts]
    reference_BCHW = None
    if config.model.has_reference:
        channels, _, height, width = config.video_shape
        none_CHW = torch.zeros(channels, height, width)
        pictures = [none_CHW if p.reference_CHW is None else p.reference_CHW for p in prompts]
        reference_BCHW = torch.stack(pictures).to(device)
    return Inputs(
        torch.empty(num, 0, device=device),
        torch.empty(num, 0, device=device),
        torch.from_numpy(np.stack(encoded).astype(np.int64)).to(device),
        torch.tensor([prompt.label for prompt in prompts], device=device),
        reference_BCHW,
        torch.ones(2, num, device=device),
    )


def _starting_noise(config: RunConfig, num_clips: int, seed: int) -> tuple[Tensor, Tensor]:
    d = config.data
    video, mel = [], []
    for place in range(num_clips):
        chance = generator(seed, "", place, "generate")
        video.append(chance.standard_normal(config.video_shape, dtype=np.float32))
        mel.append(chance.standard_normal((d.num_mels, d.num_mel_steps), dtype=np.float32))
    return torch.from_numpy(np.stack(video)), torch.from_numpy(np.stack(mel))
