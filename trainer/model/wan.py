"""The video DiT of Wan: video tokens that read the caption through cross-attention, modulated by
one embedding of the noise level and a table per block.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compute.recomputation import run_block
from ..config import RunConfig
from ..moe.make import make_moe
from ..numerics import exact, mixed
from ..objective.data_prediction import flow_of_data
from .attention import Attention
from .cross_attention import CrossAttention
from .inputs import Flow, Inputs
from .mlp import Mlp
from .positions import grid_coordinates, place_table, rotary_positions
from .tokens import SINUSOIDS, ByteEmbedding, patch_video, sinusoids, unpatch_video

# B batch  C channels  F frames  H, W cells  S tokens of the video, or of the caption  D width
# T width of the caption's vectors  N modulation vectors

EPS = 1e-6
NUM_VECTORS = 6
"""Shift, scale and gate of attention and of the MLP."""


class WanState(NamedTuple):
    """The tokens between two blocks, and what all blocks are given; fp32. A sample's part of each
    tensor is its row.
    """

    x_BSD: Tensor
    told_BSD: Tensor
    """The caption's tokens."""
    vectors_BND: Tensor
    """(B, 6, D) of the noise level, to which each block adds a table of its own."""
    level_BD: Tensor
    """The noise level itself, which the head reads."""


class WanDit(nn.Module):
    """Predicts a video's flow (or the clean video, objective.prediction) from its noisy version,
    its caption and its noise level.

    told = W_2 gelu(W_1 text), level = W_4 silu(W_3 sinusoids(1000 sigma)), vectors = W_5
    silu(level), x = W_6 patches; then the blocks; then the head's norm, shift, scale and W_7. With
    Wan's configuration these are the parameters of Wan2.1 and 2.2, but for `text_in`, which is
    there only where captions are read as bytes: their embeddings stand where Wan has a text
    encoder. Source: facts: model.md section 2; checked against diffusers'
    WanTransformer3DModel.

    The head's weights start at zero, so that a new network answers 0, and the tables at
    N(0, 1/D), as Wan's; other matrices start as torch's linear layers do (Wan: Xavier, and
    N(0, 0.02^2) in the caption's and the noise level's MLPs).
    """

    TRUNK = (
        *("text_in", "told_in", "told_out"),
        *("level_in", "level_out", "vectors", "video_in"),
    )
    """Modules in front of the first block."""

    rotary_2SP: Tensor | None
    place_SD: Tensor | None

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        m = config.model
        self.text_in = (
            ByteEmbedding(m.text_width, m.patch_text_bytes)
            if config.data.captions == "bytes"
            else None
        )
        self.told_in = nn.Linear(m.text_width, m.width)
        self.told_out = nn.Linear(m.width, m.width)
        self.level_in = nn.Linear(SINUSOIDS, m.width)
        self.level_out = nn.Linear(m.width, m.width)
        self.vectors = nn.Linear(m.width, NUM_VECTORS * m.width)
        self.video_in = nn.Linear(config.video_patch, m.width)
        self.blocks = nn.ModuleList(WanBlock(config, index) for index in range(m.layers))
        self.table_ND = _table(2, m.width)
        self.video_out = nn.Linear(m.width, config.video_patch)
        nn.init.zeros_(self.video_out.weight)
        nn.init.zeros_(self.video_out.bias)
        place = grid_coordinates(config.grid)
        # tables follow from the configuration: they move with the module and are not saved
        self.register_buffer("rotary_2SP", rotary_positions(config, place), persistent=False)
        places = place_table(place, m.width) if m.has_place_table else None
        self.register_buffer("place_SD", places, persistent=False)

    def forward(self, inputs: Inputs) -> Flow:
        """Returns the flow (noise - data) of the video, and zeros for the sound."""
        state = self.work(self.begin(inputs), range(len(self.blocks)))
        return self.finish(state, inputs)

    def begin(self, inputs: Inputs) -> WanState:
        """Returns the tokens in front of the first block."""
        text_BST = inputs.text_BS
        if self.text_in is not None:
            with exact(inputs.video_BCFHW.device):
                text_BST = self.text_in.tokens(self.text_in.embed(inputs.text_BS))
        return self.embed(inputs.video_BCFHW, inputs.sigma_MB[0], text_BST)

    def embed(self, noisy_BCFHW: Tensor, sigma_B: Tensor, text_BST: Tensor) -> WanState:
        """Does the same for a caption that is read already, by whatever encoder: text_BST, (B, any
        number, T)."""
        with exact(noisy_BCFHW.device):
            told_BSD = self.told_out(F.gelu(self.told_in(text_BST), approximate="tanh"))
            level_BD = self.level_out(F.silu(self.level_in(sinusoids(sigma_B))))
            vectors_BND = self.vectors(F.silu(level_BD)).unflatten(1, (NUM_VECTORS, -1))
            x_BSD = self.video_in(patch_video(noisy_BCFHW, self.config))
            if self.place_SD is not None:
                x_BSD = x_BSD + self.place_SD
            return WanState(x_BSD, told_BSD, vectors_BND, level_BD)

    def work(self, state: WanState, blocks: range) -> WanState:
        """Sends the tokens through these blocks."""
        x_BSD = state.x_BSD
        with mixed(x_BSD.device, self.config.compute):
            for index in blocks:
                x_BSD = run_block(
                    self.blocks[index],
                    x_BSD,
                    state.told_BSD,
                    state.vectors_BND,
                    self.rotary_2SP,
                    is_recomputed=self.config.compute.are_blocks_recomputed,
                )
        return state._replace(x_BSD=x_BSD)

    def finish(self, state: WanState, inputs: Inputs) -> Flow:
        """Returns what the tokens behind the last block stand for."""
        with exact(state.x_BSD.device):
            shift, scale = (self.table_ND + state.level_BD[:, None]).chunk(2, dim=1)
            patch_BSP = self.video_out(_modulate(state.x_BSD, shift, scale))
            video_BCFHW = unpatch_video(patch_BSP, self.config)
        if self.config.objective.prediction == "data":
            video_BCFHW = flow_of_data(inputs.video_BCFHW, video_BCFHW, inputs.sigma_MB[0])
        return Flow(video_BCFHW, torch.zeros_like(inputs.mel_BNM))


class WanBlock(nn.Module):
    """x += gate * attention(modulate(x)); x += cross_attention(norm(x), told); x += gate *
    mlp(modulate(x)); in MoE blocks the mlp is a layer of experts.

    modulate(x) = layer_norm(x) * (1 + scale) + shift; shifts, scales and gates are the noise
    level's vectors plus the block's table. The norm before cross-attention has a gain and a bias.
    Norms, modulation and the residual stream are fp32, as in Wan (facts: model.md section 8).
    """

    def __init__(self, config: RunConfig, index: int) -> None:
        super().__init__()
        m = config.model
        self.attention = Attention(m)
        self.cross_norm = nn.LayerNorm(m.width, eps=EPS)
        self.cross_attention = CrossAttention(m)
        self.is_moe = index in config.moe_blocks
        self.mlp = (
            make_moe(config)
            if self.is_moe
            else Mlp(m.width, config.mlp_hidden, m.mlp, has_bias=True, bound=m.activation_bound)
        )
        self.table_ND = _table(NUM_VECTORS, m.width)

    def forward(
        self,
        x_BSD: Tensor,
        told_BSD: Tensor,
        vectors_BND: Tensor,
        rotary_2SP: Tensor | None,
    ) -> Tensor:
        """x_BSD: (B, S, D) fp32. told_BSD, vectors_BND: as in `WanState`. Returns x's shape."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (self.table_ND + vectors_BND).chunk(
            NUM_VECTORS, dim=1
        )
        y_BSD = self.attention(_modulate(x_BSD, shift_1, scale_1), rotary_2SP)
        x_BSD = torch.addcmul(x_BSD, gate_1, y_BSD.float())
        y_BSD = self.cross_attention(self.cross_norm(x_BSD), told_BSD)
        x_BSD = x_BSD + y_BSD.float()
        y_BSD = _modulate(x_BSD, shift_2, scale_2)
        y_BSD = self.mlp(y_BSD, told_BSD) if self.is_moe else self.mlp(y_BSD)
        return torch.addcmul(x_BSD, gate_2, y_BSD.float())


def _modulate(x_BSD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    normal_BSD = F.layer_norm(x_BSD, x_BSD.shape[-1:], eps=EPS)
    return torch.addcmul(shift_B1D, normal_BSD, 1 + scale_B1D)


def _table(num: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(num, width) / math.sqrt(width))
