"""Makes clips from captions or classes: steps along the flow, with guidance by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...platform.errors import MoescopeError
from ..config import RunConfig
from ..data.captions import encode_caption
from ..data.chance import generator
from ..evaluation.evaluate import evaluating
from ..model.inputs import Inputs
from ..model.noise_experts import NoiseExperts
from .solvers import Sampler, State, noise_schedule, solve

# B batch  C colours  F frames  H, W pixels  N mels  M mel steps  S text bytes  X experts by noise
# level  L levels

GUIDANCE = 2.0
"""Where neither the caller nor the configuration says another."""


class Prompt(NamedTuple):
    """What a clip is to show; a network leaves alone what it has no use for."""

    caption: str = ""
    """Read as bytes."""
    label: int = 0
    reference_CHW: Tensor | None = None
    """The first frame, as the network sees frames; zeros where it is None."""
    text_ST: Tensor | None = None
    """The caption's vectors (`encoders/text.py`), where data.captions is encoder; zeros where it is
    None."""


class Generated(NamedTuple):
    """Made clips, on the model's device."""

    video_BCFHW: Tensor
    """(B, C, F, H, W) fp32, as the network sees clips; pixels lie in [-1, 1]."""
    mel_BNM: Tensor
    """(B, N, M) fp32, in the units of the training mels."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a clip is made of noise. Raises MoescopeError on an interval that has no inside."""

    steps: int = 30
    sampler: Sampler = "euler"
    guidance: float | None = None
    """1 follows the caption or class as learned and saves half the work; more exaggerates it. None:
    what noise_experts.guidance has for the expert in charge at a step's noise level, blended where
    experts are; GUIDANCE where it has nothing."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels between which there is guidance; outside it is 1. 0 and 1 are inside where they
    are its ends' values. Source: facts: model.md 6.1 (JiT, there in shares of data)."""
    shift: float | None = None
    """Of the noise levels; None: the training's."""

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise MoescopeError(
                f"the guidance interval is {low:g} to {high:g}, but it must be two noise levels "
                "that rise, from 0 (data) to 1 (noise)"
            )


@torch.no_grad()
def generate(
    model: nn.Module,
    config: RunConfig,
    prompts: Sequence[Prompt],
    seed: int,
    sampling: Sampling = Sampling(),  # noqa: B008: frozen
) -> Generated:
    """Makes one clip per prompt; video and audio go from noise to data together.

    v = v_without + guidance * (v_with - v_without), followed by `solvers.solve`. A clip depends on
    its prompt, its place in the list and the seed; on other prompts only through rounding. The
    model is in evaluation mode meanwhile. Source: facts: model.md 6.1.
    """
    device = _device_of(model)
    told = _told(prompts, config, device)
    noise = _starting_noise(config, len(prompts), seed)
    levels = noise_schedule(sampling.steps, sampling.shift or config.noise_shift)
    strengths = guidance_at(model, config, levels, sampling.guidance)
    low, high = sampling.interval
    at_level = {
        level: strength if low < level < high or (level == high == 1) else 1.0
        for level, strength in zip(levels, strengths, strict=True)
    }

    def flow(state: State, sigma: float) -> State:
        now = told._replace(video_BCFHW=state[0], mel_BNM=state[1])
        return _guided(model, now, sigma, config, at_level[sigma])

    with evaluating(model):
        start = (noise[0].to(device), noise[1].to(device))
        video, mel = solve(flow, start, levels, sampling.sampler)
    return Generated(video.clamp(-1, 1) if config.data.latents == "none" else video, mel)


def guidance_at(
    model: nn.Module, config: RunConfig, levels: Sequence[float], guidance: float | None = None
) -> list[float]:
    """Returns the guidance at each noise level: sum_x w_x(level) guidance_x, w as the experts'
    answers are blended."""
    of_expert = config.noise_experts.guidance
    if guidance is not None or not of_expert or not isinstance(model, NoiseExperts):
        return [GUIDANCE if guidance is None else guidance] * len(levels)
    weight_XL = model.host_weights(torch.tensor(levels, dtype=torch.float32)).double()
    guidance_L: list[float] = (torch.tensor(of_expert, dtype=torch.float64) @ weight_XL).tolist()
    return guidance_L


def _device_of(model: nn.Module) -> torch.device:
    if isinstance(model, NoiseExperts) and model.residence is not None:
        return model.residence.device
    return next(model.parameters()).device


def _at_level(inputs: Inputs, sigma: float) -> Inputs:
    """Returns the inputs with all noise levels set, on the host, too."""
    host_sigma_MB = torch.full(inputs.sigma_MB.shape, sigma)
    return inputs._replace(
        sigma_MB=torch.full_like(inputs.sigma_MB, sigma), host_sigma_MB=host_sigma_MB
    )


def _guided(
    model: nn.Module, now: Inputs, sigma: float, config: RunConfig, guidance: float
) -> tuple[Tensor, Tensor]:
    if guidance == 1.0:
        flow_video, flow_mel = model(_at_level(now, sigma))
        return flow_video, flow_mel
    num = len(now.video_BCFHW)
    both = now.rows(torch.arange(2 * num, device=now.video_BCFHW.device) % num)
    both.text_BS[num:] = 0
    both.label_B[num:] = config.model.num_classes
    flow_video, flow_mel = (
        without + guidance * (told - without)
        for told, without in (f.chunk(2) for f in model(_at_level(both, sigma)))
    )
    return flow_video, flow_mel


def _told(prompts: Sequence[Prompt], config: RunConfig, device: torch.device) -> Inputs:
    """Returns the inputs without their noise: what each clip is told by."""
    num = len(prompts)
    reference_BCHW = None
    if config.model.has_reference:
        channels, _, height, width = config.video_shape
        none_CHW = torch.zeros(channels, height, width)
        pictures = [none_CHW if p.reference_CHW is None else p.reference_CHW for p in prompts]
        reference_BCHW = torch.stack(pictures).to(device)
    return Inputs(
        torch.empty(num, 0, device=device),
        torch.empty(num, 0, device=device),
        _text(prompts, config).to(device),
        torch.tensor([prompt.label for prompt in prompts], device=device),
        reference_BCHW,
        torch.ones(2, num, device=device),
    )


def _text(prompts: Sequence[Prompt], config: RunConfig) -> Tensor:
    d = config.data
    if d.captions == "bytes":
        encoded = [encode_caption(prompt.caption, d.num_text_bytes) for prompt in prompts]
        return torch.from_numpy(np.stack(encoded)).long()
    none_ST = torch.zeros(d.num_text_tokens, config.model.text_width)
    return torch.stack([none_ST if p.text_ST is None else p.text_ST for p in prompts])


def _starting_noise(config: RunConfig, num_clips: int, seed: int) -> tuple[Tensor, Tensor]:
    d = config.data
    video, mel = [], []
    for place in range(num_clips):
        chance = generator(seed, "", place, "generate")
        video.append(chance.standard_normal(config.video_shape, dtype=np.float32))
        mel.append(chance.standard_normal((d.num_mels, d.num_mel_steps), dtype=np.float32))
    return torch.from_numpy(np.stack(video)), torch.from_numpy(np.stack(mel))
