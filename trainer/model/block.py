"""A transformer block with adaLN-Zero, each kind of token modulated by a condition of its own."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import RunConfig
from ..model_config import ModelConfig
from ..moe.make import make_moe
from ..numerics import exact
from .attention import Attention, unit_rms
from .mlp import Mlp

# B batch  S stream tokens  D width  G kinds of token  N modulation vectors


class Block(nn.Module):
    """x += gate * attention(modulate(norm(x))); x += gate * mlp(modulate(norm(x))); in MoE blocks
    the mlp is a layer of experts.

    modulate(y) = y * (1 + scale) + shift; shift, scale and gate come from the token kind's
    condition through a linear map that starts at zero, so that a new block is the identity. Norms
    have no parameters, or a gain each where model.norm is rms. Source: DiT, arXiv 2212.09748;
    facts: model.md 1.1, 1.2.
    """

    def __init__(self, config: RunConfig, index: int) -> None:
        super().__init__()
        m = config.model
        self.attention = Attention(m)
        self.is_moe = index in config.moe_blocks
        self.mlp = (
            make_moe(config)
            if self.is_moe
            else Mlp(m.width, config.mlp_hidden, m.mlp, has_bias=True, bound=m.activation_bound)
        )
        self.modulation = Modulation(m.width, 6)
        self.attention_gain, self.mlp_gain = gain_of_norm(m), gain_of_norm(m)

    def forward(
        self,
        x_BSD: Tensor,
        condition_BGD: Tensor,
        rotary_2SP: Tensor | None,
        tokens: Sequence[int],
        told_BSD: Tensor | None = None,
    ) -> Tensor:
        """x_BSD: (B, S, D). condition_BGD: (B, G, D), after its activation. tokens: how many of
        each kind, in the stream's order. told_BSD: what a router may read beside the token itself;
        by default the first kind of a stream of several. Returns (B, S, D).
        """
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition_BGD)
        y_BSD = modulate(x_BSD, shift_1, scale_1, tokens, self.attention_gain)
        y_BSD = self.attention(y_BSD, rotary_2SP)
        x_BSD = add_gated(x_BSD, gate_1, y_BSD, tokens)
        y_BSD = modulate(x_BSD, shift_2, scale_2, tokens, self.mlp_gain)
        if self.is_moe:
            if told_BSD is None and len(tokens) > 1:
                told_BSD = y_BSD[:, : tokens[0]]
            y_BSD = self.mlp(y_BSD, told_BSD)
        else:
            y_BSD = self.mlp(y_BSD)
        return add_gated(x_BSD, gate_2, y_BSD, tokens)


class Modulation(nn.Module):
    """A linear map from the condition to `num` vectors per kind of token; zero at the start."""

    def __init__(self, width: int, num: int) -> None:
        super().__init__()
        self.num = num
        self.linear = nn.Linear(width, num * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition_BGD: Tensor) -> tuple[Tensor, ...]:
        """condition_BGD: fp32. Returns `num` tensors (B, G, D), fp32 also where other products are
        not."""
        with exact(condition_BGD.device):
            vectors: Tensor = self.linear(condition_BGD)
        return vectors.chunk(self.num, dim=-1)


def gain_of_norm(m: ModelConfig) -> nn.Parameter | None:
    """Returns the gain of one RMSNorm, which starts at 1, or None where norms are layer norms."""
    return nn.Parameter(torch.ones(m.width)) if m.norm == "rms" else None


def modulate(
    x_BSD: Tensor,
    shift_BGD: Tensor,
    scale_BGD: Tensor,
    tokens: Sequence[int],
    gain_D: Tensor | None = None,
) -> Tensor:
    """Normalises each token (to mean 0 and variance 1; with a gain to RMS 1, times the gain; eps
    1e-6), then scales and shifts it by its kind's vectors.
    """
    if gain_D is None:
        normal_BSD = F.layer_norm(x_BSD, x_BSD.shape[-1:], eps=1e-6)
    else:
        normal_BSD = unit_rms(x_BSD, gain_D)
    parts = zip(
        normal_BSD.split(list(tokens), dim=1),
        shift_BGD.split(1, dim=1),
        (1 + scale_BGD).split(1, dim=1),
        strict=True,
    )
    return torch.cat([torch.addcmul(shift, part, scale) for part, shift, scale in parts], dim=1)


def add_gated(x_BSD: Tensor, gate_BGD: Tensor, y_BSD: Tensor, tokens: Sequence[int]) -> Tensor:
    """Returns x + gate * y, the gate being that of the token's kind."""
    parts = zip(
        x_BSD.split(list(tokens), dim=1),
        gate_BGD.split(1, dim=1),
        y_BSD.split(list(tokens), dim=1),
        strict=True,
    )
    return torch.cat([torch.addcmul(x, gate, y.float()) for x, gate, y in parts], dim=1)
