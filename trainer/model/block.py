"""A transformer block with adaLN-Zero, each kind of token modulated by its own noise level."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..moe.experts import MoeLayer
from .attention import Attention
from .positions import Extent

# B batch  S stream tokens  D width  G kinds of token (text, video, audio)  N modulation vectors


class Block(nn.Module):
    """x += gate * attention(modulate(norm(x))); x += gate * mlp(modulate(norm(x))); the mlp may be
    a MoeLayer.

    modulate(y) = y * (1 + scale) + shift; shift, scale and gate come from the token kind's
    condition through a linear map that starts at zero, so that a new block is the identity. Norms
    have no parameters. Source: DiT, arXiv 2212.09748; facts: model.md 1.1.
    """

    def __init__(self, width: int, heads: int, mlp: nn.Module) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.mlp = mlp
        self.modulation = Modulation(width, 6)

    def forward(
        self, x_BSD: Tensor, condition_BGD: Tensor, rotary_2SP: Tensor, tokens: Extent
    ) -> Tensor:
        """x_BSD: (B, S, D). condition_BGD: (B, 3, D), after its activation. Returns (B, S, D)."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition_BGD)
        y_BSD = self.attention(modulate(x_BSD, shift_1, scale_1, tokens), rotary_2SP)
        x_BSD = add_gated(x_BSD, gate_1, y_BSD, tokens)
        y_BSD = modulate(x_BSD, shift_2, scale_2, tokens)
        if isinstance(self.mlp, MoeLayer):
            y_BSD = self.mlp(y_BSD.flatten(0, 1)).view_as(y_BSD)
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
        """Returns `num` tensors (B, G, D)."""
        vectors: Tensor = self.linear(condition_BGD).float()
        return vectors.chunk(self.num, dim=-1)


class DenseMlp(nn.Module):
    """f(x) = silu(x W_1 + b_1) W_2 + b_2. Source: DSMoE's dense blocks, facts: model.md 1.1."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_in = nn.Linear(width, hidden)
        self.w_out = nn.Linear(hidden, width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        out_BSD: Tensor = self.w_out(F.silu(self.w_in(x_BSD)))
        return out_BSD


def modulate(x_BSD: Tensor, shift_BGD: Tensor, scale_BGD: Tensor, tokens: Extent) -> Tensor:
    """Normalises each token (no parameters, eps 1e-6), then scales and shifts it by its kind's
    vectors.
    """
    normal_BSD = F.layer_norm(x_BSD, x_BSD.shape[-1:], eps=1e-6)
    parts = zip(
        normal_BSD.split(tokens, dim=1),
        shift_BGD.split(1, dim=1),
        (1 + scale_BGD).split(1, dim=1),
        strict=True,
    )
    return torch.cat([torch.addcmul(shift, part, scale) for part, shift, scale in parts], dim=1)


def add_gated(x_BSD: Tensor, gate_BGD: Tensor, y_BSD: Tensor, tokens: Extent) -> Tensor:
    """Returns x + gate * y, the gate being that of the token's kind."""
    parts = zip(
        x_BSD.split(tokens, dim=1),
        gate_BGD.split(1, dim=1),
        y_BSD.split(tokens, dim=1),
        strict=True,
    )
    return torch.cat([torch.addcmul(x, gate, y.float()) for x, gate, y in parts], dim=1)
