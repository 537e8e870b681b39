"""The DiT of pictures, or clips, of a class: DSMoE and JiT, which differ by their configuration."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compute.recomputation import run_block
from ..config import RunConfig
from ..numerics import exact, mixed
from ..objective.data_prediction import flow_of_data
from .block import Block, Modulation, gain_of_norm, modulate
from .inputs import Flow, Inputs
from .positions import class_coordinates, grid_coordinates, place_table, rotary_positions
from .tokens import SINUSOIDS, patch_video, sinusoids, unpatch_video

# B batch  C channels  F frames  H, W cells  S tokens of the video, and of the class where they are
# there  N class tokens  D width  P values of a patch

TABLE_STD = 0.02
"""Of embeddings and places at the start, and of the noise level's matrices. Source: DiT, arXiv
2212.09748, as its code starts them; DSMoE and JiT follow it."""


class ClassState(NamedTuple):
    """The tokens between two blocks; a sample's part of each tensor is its row."""

    x_BSD: Tensor
    class_BND: Tensor | None
    """Tokens of the class, which join the others in front of block `class_tokens_from`."""
    condition_B1D: Tensor
    """After its activation."""


class ClassDit(nn.Module):
    """Predicts the flow of a video, or the clean video (objective.prediction), from its noisy
    version, its class and its noise level.

    c = level(t) + label, t = 1 - sigma: JiT's and DSMoE's noise level in data-time. x = W patches
    (+ place); blocks, each modulated by c; then the norm, shift and scale of c, and a linear map
    that starts at zero, so that a new network answers 0. Before block `class_tokens_from` the class
    joins the sequence as `num_class_tokens` tokens, label + a learned place each, and leaves it
    after the last block. The outputs for a variance (has_variance_output) are computed and left
    alone, as DSMoE's are by the flow loss.

    Parameters equal the published inventories: facts: model.md 1.1 (DSMoE), 1.2 (JiT). What differs
    is without parameters: rotary channels lie in another order, the place table has the wavelengths
    of `place_table`, and the blocks' matrices start as torch's linear layers do (theirs: Xavier).
    """

    TRUNK = ("patch_in", "noise_level", "label_in", "class_place_ND")
    """Modules and parameters in front of the first block."""

    rotary_2SP: Tensor | None
    place_SD: Tensor | None

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        m = config.model
        self.patch_in = patch_embedding(config)
        self.noise_level = NoiseLevel(m.width)
        # one row more stands for a class left out
        self.label_in = nn.Embedding(m.num_classes + 1, m.width)
        nn.init.normal_(self.label_in.weight, std=TABLE_STD)
        self.class_place_ND = (
            nn.Parameter(torch.randn(m.num_class_tokens, m.width) * TABLE_STD)
            if m.num_class_tokens
            else None
        )
        self.blocks = nn.ModuleList(Block(config, index) for index in range(m.layers))
        self.last_modulation = Modulation(m.width, 2)
        self.last_gain = gain_of_norm(m)
        num_answers = 2 if m.has_variance_output else 1
        self.video_out = nn.Linear(m.width, num_answers * config.video_patch)
        nn.init.zeros_(self.video_out.weight)
        nn.init.zeros_(self.video_out.bias)
        # tables follow from the configuration: they move with the module and are not saved
        rotary = rotary_positions(config, class_coordinates(config))
        self.register_buffer("rotary_2SP", rotary, persistent=False)
        self.register_buffer("place_SD", _places(config), persistent=False)

    def forward(self, inputs: Inputs) -> Flow:
        """Returns the flow (noise - data) of the video, and zeros for the sound."""
        state = self.work(self.begin(inputs), range(len(self.blocks)))
        return self.finish(state, inputs)

    def begin(self, inputs: Inputs) -> ClassState:
        """Returns the tokens in front of the first block."""
        with exact(inputs.video_BCFHW.device):
            x_BSD = self.patch_in(patch_video(inputs.video_BCFHW, self.config))
            if self.place_SD is not None:
                x_BSD = x_BSD + self.place_SD
            label_BD = self.label_in(inputs.label_B)
            condition_BD = F.silu(self.noise_level(inputs.sigma_MB[0]) + label_BD)
            class_BND = (
                None if self.class_place_ND is None else label_BD[:, None] + self.class_place_ND
            )
            return ClassState(x_BSD, class_BND, condition_BD[:, None])

    def work(self, state: ClassState, blocks: range) -> ClassState:
        """Sends the tokens through these blocks; the class tokens join in front of theirs."""
        x_BSD, condition_B1D = state.x_BSD, state.condition_B1D
        with mixed(x_BSD.device, self.config.compute):
            for index in blocks:
                if state.class_BND is not None and index == self.config.model.class_tokens_from:
                    x_BSD = torch.cat([state.class_BND, x_BSD], dim=1)
                x_BSD = run_block(
                    self.blocks[index],
                    x_BSD,
                    condition_B1D,
                    self._rotary(x_BSD),
                    x_BSD.shape[1:2],
                    is_recomputed=self.config.compute.are_blocks_recomputed,
                )
        return state._replace(x_BSD=x_BSD)

    def finish(self, state: ClassState, inputs: Inputs) -> Flow:
        """Returns what the tokens behind the last block stand for."""
        with exact(state.x_BSD.device):
            x_BSD = state.x_BSD[:, self.config.model.num_class_tokens :].float()
            shift, scale = self.last_modulation(state.condition_B1D)
            x_BSD = modulate(x_BSD, shift, scale, x_BSD.shape[1:2], self.last_gain)
            answer_BSP = self.video_out(x_BSD)[..., : self.config.video_patch]
            video_BCFHW = unpatch_video(answer_BSP, self.config)
        if self.config.objective.prediction == "data":
            video_BCFHW = flow_of_data(inputs.video_BCFHW, video_BCFHW, inputs.sigma_MB[0])
        return Flow(video_BCFHW, torch.zeros_like(inputs.mel_BNM))

    def _rotary(self, x_BSD: Tensor) -> Tensor | None:
        # the class tokens' places lie in front
        return None if self.rotary_2SP is None else self.rotary_2SP[:, -x_BSD.shape[1] :]


class NoiseLevel(nn.Module):
    """level(t) = W_2 silu(W_1 sinusoids(t) + b_1) + b_2, t = 1 - sigma in [0, 1], not scaled.

    256 D + D + D^2 + D parameters. Source: facts: model.md 1.1, and section 6 (EfficientMoE feeds t
    unscaled, where Wan feeds 1000 t).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w_in = nn.Linear(SINUSOIDS, width)
        self.w_out = nn.Linear(width, width)
        for linear in (self.w_in, self.w_out):
            nn.init.normal_(linear.weight, std=TABLE_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, sigma_B: Tensor) -> Tensor:
        """sigma_B: fp32, 1 is noise. Returns (B, D)."""
        level_BD: Tensor = self.w_out(F.silu(self.w_in(sinusoids(1 - sigma_B, scale=1.0))))
        return level_BD


def patch_embedding(config: RunConfig) -> nn.Module:
    """Returns the linear map (..., P) -> (..., D) with biases; with model.patch_bottleneck b it is
    of rank b, P b + b D + D parameters (JiT). Its matrices start as DiT's and JiT's do, Xavier, and
    its biases at 0."""
    patch, m = config.video_patch, config.model
    last = nn.Linear(m.patch_bottleneck or patch, m.width)
    nn.init.xavier_uniform_(last.weight)
    nn.init.zeros_(last.bias)
    if not m.patch_bottleneck:
        return last
    first = nn.Linear(patch, m.patch_bottleneck, bias=False)
    nn.init.xavier_uniform_(first.weight)
    return nn.Sequential(first, last)


def _places(config: RunConfig) -> Tensor | None:
    if not config.model.has_place_table:
        return None
    place_S3 = grid_coordinates(config.grid)
    # a picture has no time that the table could spend a third of the width on
    return place_table(place_S3[:, 1:] if config.grid[0] == 1 else place_S3, config.model.width)
