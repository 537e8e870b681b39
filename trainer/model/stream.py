"""The single-stream DiT: text, video and audio tokens in one sequence, dense and MoE blocks in
turn.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..compute.recomputation import run_block
from ..config import RunConfig
from ..numerics import exact, mixed
from ..objective.precondition import LinearPart
from .block import Block, Modulation, gain_of_norm, modulate
from .inputs import Flow, Inputs
from .positions import coordinates, extent, place_table, rotary_positions
from .tokens import (
    NoiseLevels,
    make_text,
    patch_mel,
    patch_video,
    unpatch_mel,
    unpatch_video,
)

# B batch  C colours  F frames  H, W pixels  N mels  M mel steps, or modality in sigma_MB  S stream
# tokens  D width
# G kinds of token

# the linear part's spectra (objective/precondition.py), fitted to made clips: pixels in [-1, 1]
# that are mostly far from grey, and mels of about unit scale that change slowly
VIDEO_RMS, VIDEO_EDGE = 0.8, 0.04
# channels of cosine latents are as strong as one another, but only the first are smooth: with 0.12
# the linear part alone loses 1.09, 0.93, 1.11 and 1.74 on four codes, with 0.04 1.37, 1.19, 1.52
# and 2.51, and answering zero 1.87, 1.68, 1.79 and 2.18
LATENT_EDGE = 0.12
MEL_RMS, MEL_EDGE = 1.0, 0.05


class StreamState(NamedTuple):
    """The stream between two blocks; a sample's part of each tensor is its row."""

    x_BSD: Tensor
    condition_BGD: Tensor
    video: tuple[Tensor, Tensor]
    """What the linear part makes of the noisy video: its flow, and the size of the rest."""
    mel: tuple[Tensor, Tensor] | None


class VideoMoeDit(nn.Module):
    """Predicts the flow of video and audio from their noisy versions, what is told of the clip
    (its caption, its first frame) and their noise levels.

    Sound, caption and first frame are there as the configuration has them. All state that computes
    is in `state_dict()`.
    """

    TRUNK = (
        "text_in",
        "reference_in",
        "video_linear",
        "video_in",
        "mel_linear",
        "mel_in",
        "noise_levels",
    )
    """Modules in front of the first block."""

    rotary_2SP: Tensor | None
    place_SD: Tensor | None

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = extent(config)
        m, d = config.model, config.data
        patch, mel_patch = config.video_patch, m.patch_mel_steps * d.num_mels
        self.text_in = make_text(config) if config.has_text else None
        self.reference_in = nn.Linear(patch // m.patch_frames, m.width) if m.has_reference else None
        edge = VIDEO_EDGE if config.data.latents == "none" else LATENT_EDGE
        self.video_linear = LinearPart(config.video_shape[1:], VIDEO_RMS, edge)
        self.video_in = nn.Linear(2 * patch, m.width)
        if config.has_audio:
            self.mel_linear = LinearPart((d.num_mel_steps,), MEL_RMS, MEL_EDGE)
            self.mel_in = nn.Linear(2 * mel_patch, m.width)
        self.noise_levels = NoiseLevels(m.width)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(m.layers))
        self.last_modulation = Modulation(m.width, 2)
        self.last_gain = gain_of_norm(m)
        self.video_out = _zero_linear(m.width, patch)
        if config.has_audio:
            self.mel_out = _zero_linear(m.width, mel_patch)
        place = coordinates(config)
        # tables follow from the configuration: they move with the module and are not saved
        self.register_buffer("rotary_2SP", rotary_positions(config, place), persistent=False)
        table = place_table(place, m.width) if m.has_place_table else None
        self.register_buffer("place_SD", table, persistent=False)

    def forward(self, inputs: Inputs) -> Flow:
        """Returns the flow (noise - data) of video and audio."""
        state = self.work(self.begin(inputs), range(len(self.blocks)))
        return self.finish(state, inputs)

    def begin(self, inputs: Inputs) -> StreamState:
        """Returns the tokens in front of the first block."""
        device = inputs.video_BCFHW.device
        with mixed(device, self.config.compute), exact(device):
            video = self.video_linear(inputs.video_BCFHW, inputs.sigma_MB[0])
            mel = (
                self.mel_linear(inputs.mel_BNM, inputs.sigma_MB[1])
                if self.config.has_audio
                else None
            )
            told_BSD, summary_BD = self._told(inputs)
            condition_BGD = self.noise_levels(inputs.sigma_MB, summary_BD)
            return StreamState(self._embed(inputs, told_BSD, video, mel), condition_BGD, video, mel)

    def work(self, state: StreamState, blocks: range) -> StreamState:
        """Sends the tokens through these blocks."""
        x_BSD = state.x_BSD
        with mixed(x_BSD.device, self.config.compute):
            for index in blocks:
                x_BSD = run_block(
                    self.blocks[index],
                    x_BSD,
                    state.condition_BGD,
                    self.rotary_2SP,
                    self.tokens,
                    is_recomputed=self.config.compute.are_blocks_recomputed,
                )
        return state._replace(x_BSD=x_BSD)

    def finish(self, state: StreamState, inputs: Inputs) -> Flow:
        """Returns what the tokens behind the last block stand for."""
        device = state.x_BSD.device
        with mixed(device, self.config.compute), exact(device):
            shift, scale = self.last_modulation(state.condition_BGD)
            x_BSD = modulate(state.x_BSD.float(), shift, scale, self.tokens, self.last_gain)
            return self._answer(x_BSD, inputs, state.video, state.mel)

    def _told(self, inputs: Inputs) -> tuple[list[Tensor], Tensor]:
        """Returns the tokens of what is told, and one vector for the condition of every token."""
        width = self.config.model.width
        told: list[Tensor] = []
        summary_BD = inputs.video_BCFHW.new_zeros(len(inputs.video_BCFHW), width)
        if self.text_in is not None:
            text_BSD, summary_BD = self.text_in(inputs.text_BS)
            told.append(text_BSD)
        if self.reference_in is not None:
            assert inputs.reference_BCHW is not None, "model.has_reference wants a reference"
            told.append(
                self.reference_in(patch_video(inputs.reference_BCHW[:, :, None], self.config))
            )
        return told, summary_BD

    def _embed(
        self,
        inputs: Inputs,
        told: list[Tensor],
        video: tuple[Tensor, Tensor],
        mel: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Makes the stream's tokens out of what is told, and of noisy data beside what the linear
        part makes of them.
        """
        config = self.config
        noisy, clean = (
            inputs.video_BCFHW,
            _cleaned(inputs.video_BCFHW, video[0], inputs.sigma_MB[0]),
        )
        both = [patch_video(noisy, config), patch_video(clean, config)]
        tokens = [*told, self.video_in(torch.cat(both, -1))]
        if mel is not None:
            clean = _cleaned(inputs.mel_BNM, mel[0], inputs.sigma_MB[1])
            both = [patch_mel(inputs.mel_BNM, config), patch_mel(clean, config)]
            tokens.append(self.mel_in(torch.cat(both, -1)))
        x_BSD = torch.cat(tokens, dim=1)
        return x_BSD if self.place_SD is None else x_BSD + self.place_SD

    def _answer(
        self,
        x_BSD: Tensor,
        inputs: Inputs,
        video: tuple[Tensor, Tensor],
        mel: tuple[Tensor, Tensor] | None,
    ) -> Flow:
        _, video_BSD, mel_BSD = x_BSD.split(self.tokens, dim=1)
        rest = unpatch_video(self.video_out(video_BSD), self.config)
        flow_video = torch.addcmul(video[0], video[1], rest)
        if mel is None:
            return Flow(flow_video, torch.zeros_like(inputs.mel_BNM))
        rest = unpatch_mel(self.mel_out(mel_BSD), self.config)
        return Flow(flow_video, torch.addcmul(mel[0], mel[1], rest))


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _cleaned(noisy: Tensor, flow: Tensor, sigma_B: Tensor) -> Tensor:
    """Follows a flow to its end: the data that it predicts."""
    return noisy - sigma_B.view(-1, *[1] * (noisy.dim() - 1)) * flow
