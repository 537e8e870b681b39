"""Which network a configuration asks for."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..config import RunConfig
from ..model_config import Family, is_bounded
from ..moe.experts import MoeLayer
from .attention import Attention
from .block import Block
from .class_dit import ClassDit
from .mlp import Mlp
from .noise_experts import NoiseExperts
from .stream import VideoMoeDit
from .wan import WanBlock, WanDit

Single = VideoMoeDit | ClassDit | WanDit
Network = Single | NoiseExperts

_OF_FAMILY: dict[Family, Callable[[RunConfig], Single]] = {
    "stream": VideoMoeDit,
    "class": ClassDit,
    "wan": WanDit,
}


def make_model(config: RunConfig) -> Network:
    """Makes the network. Its weights at the start depend on the configuration alone (its seed,
    too), not on any global generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        make = partial(_OF_FAMILY[config.model.family], config)
        return NoiseExperts(config, make) if config.noise_experts.num_experts > 1 else make()


def bounded_mlps(block: nn.Module) -> list[nn.Module]:
    """Returns the MLPs and layers of experts of a block that clamp what goes into activations."""
    return [
        module
        for module in block.modules()
        if (isinstance(module, Mlp) and is_bounded(module.form))
        or (isinstance(module, MoeLayer) and is_bounded(module.config.expert))
    ]


def attentions(block: nn.Module) -> list[nn.Module]:
    """Returns what a block attends to itself with."""
    return [module for module in block.modules() if isinstance(module, Attention)]


def watched_blocks(model: nn.Module) -> list[nn.Module]:
    """Returns the transformer blocks, in the network's order."""
    return [block for block in model.modules() if isinstance(block, Block | WanBlock)]


def modality_tokens(config: RunConfig) -> list[int]:
    """Returns how many tokens of each modality stand at the end of the sequence of a block: video,
    and audio where there is sound."""
    video = math.prod(config.grid)
    if config.model.family != "stream" or not config.has_audio:
        return [video]
    return [video, config.data.num_mel_steps // config.model.patch_mel_steps]
