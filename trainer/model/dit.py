"""The single-stream DiT: text, video and audio tokens in one sequence, dense and MoE blocks in
turn.
"""

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..moe.experts import MoeLayer
from ..numerics import exact, mixed
from ..objective.precondition import LinearPart
from .block import Block, DenseMlp, Modulation, modulate
from .positions import coordinates, extent, place_table, rotary_table
from .tokens import (
    NoiseLevels,
    Text,
    patch_mel,
    patch_video,
    unpatch_mel,
    unpatch_video,
)

# B batch  C colours  F frames  H, W pixels  N mels  M mel steps, or modality in sigma_MB  S stream
# tokens  D width
# G kinds of token

COLOURS = 3
# the linear part's spectra (objective/precondition.py), fitted to made clips: pixels in [-1, 1]
# that are mostly far from grey, and mels of about unit scale that change slowly
VIDEO_RMS, VIDEO_EDGE = 0.8, 0.04
MEL_RMS, MEL_EDGE = 1.0, 0.05


class VideoMoeDit(nn.Module):
    """Predicts the flow of video and audio from their noisy versions, the caption and their noise
    levels.

    The odd blocks are MoE. The weights at the start depend on the configuration alone (its seed,
    too), not on any global generator. All state that computes is in `state_dict()`.
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
        self.text_in = Text(m.width, m.patch_text_bytes)
        self.video_linear = LinearPart((d.num_frames, d.height, d.width), VIDEO_RMS, VIDEO_EDGE)
        self.mel_linear = LinearPart((d.num_mel_steps,), MEL_RMS, MEL_EDGE)
        self.video_in = nn.Linear(2 * video_patch, m.width)
        self.mel_in = nn.Linear(2 * mel_patch, m.width)
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

        video_BCFHW, mel_BNM: noisy, (1 - sigma) * data + sigma * noise. text_BS: int64, 0 is
        padding, bytes are 1 to 256. sigma_MB: (2, B) noise levels of video and audio.
        """
        config = self.config
        with mixed(video_BCFHW.device):
            with exact(video_BCFHW.device):
                linear_video, rest_video = self.video_linear(video_BCFHW, sigma_MB[0])
                linear_mel, rest_mel = self.mel_linear(mel_BNM, sigma_MB[1])
                text_BSD, summary_BD = self.text_in(text_BS)
                condition_BGD = self.noise_levels(sigma_MB, summary_BD)
                x_BSD = self._embed(
                    text_BSD, (video_BCFHW, linear_video), (mel_BNM, linear_mel), sigma_MB
                )
            for block in self.blocks:
                x_BSD = block(x_BSD, condition_BGD, self.rotary_2SP, self.tokens)
            with exact(video_BCFHW.device):
                shift, scale = self.last_modulation(condition_BGD)
                x_BSD = modulate(x_BSD.float(), shift, scale, self.tokens)
                _, video_BSD, mel_BSD = x_BSD.split(self.tokens, dim=1)
                video = unpatch_video(self.video_out(video_BSD), config)
                mel = unpatch_mel(self.mel_out(mel_BSD), config)
                return (
                    torch.addcmul(linear_video, rest_video, video),
                    torch.addcmul(linear_mel, rest_mel, mel),
                )

    def _embed(
        self,
        text_BSD: Tensor,
        video: tuple[Tensor, Tensor],
        mel: tuple[Tensor, Tensor],
        sigma_MB: Tensor,
    ) -> Tensor:
        """Makes the stream's tokens out of text, and of noisy data beside what the linear part
        makes of them.
        """
        config = self.config
        clean_video = _cleaned(*video, sigma_MB[0])
        clean_mel = _cleaned(*mel, sigma_MB[1])
        x_BSD = torch.cat(
            [
                text_BSD,
                self.video_in(
                    torch.cat([patch_video(video[0], config), patch_video(clean_video, config)], -1)
                ),
                self.mel_in(
                    torch.cat([patch_mel(mel[0], config), patch_mel(clean_mel, config)], -1)
                ),
            ],
            dim=1,
        )
        return x_BSD + self.place_SD


def _cleaned(noisy: Tensor, flow: Tensor, sigma_B: Tensor) -> Tensor:
    """Follows a flow to its end: the data that it predicts."""
    return noisy - sigma_B.view(-1, *[1] * (noisy.dim() - 1)) * flow
