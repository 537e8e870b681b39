"""The single-stream DiT: text, video and audio tokens in one sequence, dense and MoE blocks in turn."""

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..moe.experts import MoeLayer
from ..numerics import exact, mixed
from ..objective.precondition import MEL_STD, VIDEO_STD, linear_part
from .block import Block, DenseMlp, Modulation, modulate
from .positions import coordinates, extent, place_table, rotary_table
from .tokens import (
    TEXT_VOCABULARY,
    NoiseLevels,
    patch_mel,
    patch_video,
    unpatch_mel,
    unpatch_video,
)

# B batch  C colours  F frames  H, W pixels  N mels  M mel steps, or modality in sigma_MB  S stream tokens  D width
# G kinds of token

COLOURS = 3


class VideoMoeDit(nn.Module):
    """Predicts the flow of video and audio from their noisy versions, the caption and their noise levels.

    The odd blocks are MoE. The weights at the start depend on the configuration alone (its seed, too), not on any
    global generator. All state that computes is in `state_dict()`.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = extent(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._build(config)

    def _build(self, config: RunConfig) -> None:
        m, d = config.model, config.data
        video_patch = COLOURS * m.patch_frames * m.patch_size**2
        mel_patch = m.patch_mel_steps * d.num_mels
        self.text_in = nn.Embedding(TEXT_VOCABULARY, m.width)
        self.video_in = nn.Linear(video_patch, m.width)
        self.mel_in = nn.Linear(mel_patch, m.width)
        self.noise_levels = NoiseLevels(m.width)
        self.blocks = nn.ModuleList(
            Block(
                m.width,
                m.heads,
                MoeLayer(m.width, config.moe)
                if index in config.moe_blocks
                else DenseMlp(m.width, round(m.mlp_ratio * m.width)),
            )
            for index in range(m.layers)
        )
        self.last_modulation = Modulation(m.width, 2)
        self.video_out = nn.Linear(m.width, video_patch)
        self.mel_out = nn.Linear(m.width, mel_patch)
        for linear in (self.video_out, self.mel_out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        place = coordinates(config)
        # tables follow from the configuration: they move with the module and are not saved
        self.register_buffer(
            "rotary_2SP", rotary_table(place, m.width // m.heads, m.rope_base), persistent=False
        )
        self.register_buffer("place_SD", place_table(place, m.width), persistent=False)

    rotary_2SP: Tensor
    place_SD: Tensor

    @property
    def moe_layers(self) -> list[MoeLayer]:
        """The MoE layers, from the first block to the last."""
        return [
            block.mlp
            for block in self.blocks
            if isinstance(block, Block) and isinstance(block.mlp, MoeLayer)
        ]

    def forward(
        self, video_BCFHW: Tensor, mel_BNM: Tensor, text_BS: Tensor, sigma_MB: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the flow (noise - data) of video and audio, in fp32 and in their shapes.

        video_BCFHW, mel_BNM: noisy, (1 - sigma) * data + sigma * noise. text_BS: int64, 0 is padding, bytes are 1 to
        256. sigma_MB: (2, B) noise levels of video and audio.
        """
        config = self.config
        with mixed(video_BCFHW.device):
            video_BSD = self.video_in(patch_video(video_BCFHW, config))
            mel_BSD = self.mel_in(patch_mel(mel_BNM, config))
            x_BSD = torch.cat([self.text_in(text_BS), video_BSD.float(), mel_BSD.float()], dim=1)
            x_BSD = x_BSD + self.place_SD
            with exact(video_BCFHW.device):
                condition_BGD = self.noise_levels(sigma_MB)
            for block in self.blocks:
                x_BSD = block(x_BSD, condition_BGD, self.rotary_2SP, self.tokens)
            shift, scale = self.last_modulation(condition_BGD)
            x_BSD = modulate(x_BSD, shift, scale, self.tokens)
            _, video_BSD, mel_BSD = x_BSD.split(self.tokens, dim=1)
            video = unpatch_video(self.video_out(video_BSD).float(), config)
            mel = unpatch_mel(self.mel_out(mel_BSD).float(), config)
        return (
            _flow(video, video_BCFHW, sigma_MB[0], VIDEO_STD),
            _flow(mel, mel_BNM, sigma_MB[1], MEL_STD),
        )


def _flow(learned: Tensor, noisy: Tensor, sigma_B: Tensor, data_std: float) -> Tensor:
    """Adds what is known of the flow without learning."""
    shape = (-1,) + (1,) * (noisy.dim() - 1)
    skip, scale = (part.view(shape) for part in linear_part(sigma_B, data_std))
    return torch.addcmul(skip * noisy, scale, learned)
