"""Self-attention over the whole stream, with QK-norm and rotary positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model_config import ModelConfig
from .positions import rotate

# B batch  S stream tokens  D width  H heads  d head width


class Attention(nn.Module):
    """out = softmax(q k^T / sqrt(d)) v, per head; queries and keys are normalised to RMS 1 before
    they are rotated.

    QK-norm per head keeps attention logits bounded by sqrt(d) times the gains. Source: facts:
    model.md 1.2 and 8.
    """

    def __init__(self, m: ModelConfig) -> None:
        super().__init__()
        self.heads = m.heads
        self.qkv = nn.Linear(m.width, 3 * m.width)
        self.out = nn.Linear(m.width, m.width)
        self.query_gain = nn.Parameter(torch.ones(m.width // m.heads))
        self.key_gain = nn.Parameter(torch.ones(m.width // m.heads))

    def forward(self, x_BSD: Tensor, rotary_2SP: Tensor | None) -> Tensor:
        """x_BSD: (B, S, D). rotary_2SP: `positions.rotary_table`, or None. Returns (B, S, D)."""
        batch, tokens, width = x_BSD.shape
        qkv = self.qkv(x_BSD).view(batch, tokens, 3, self.heads, width // self.heads)
        q_BHSd, k_BHSd, v_BHSd = qkv.permute(2, 0, 3, 1, 4)
        q_BHSd, k_BHSd = _unit_rms(q_BHSd, self.query_gain), _unit_rms(k_BHSd, self.key_gain)
        if rotary_2SP is not None:
            q_BHSd, k_BHSd = rotate(q_BHSd, rotary_2SP), rotate(k_BHSd, rotary_2SP)
        y_BHSd = F.scaled_dot_product_attention(
            q_BHSd.to(v_BHSd.dtype), k_BHSd.to(v_BHSd.dtype), v_BHSd
        )
        out_BSD: Tensor = self.out(y_BHSd.transpose(1, 2).reshape(batch, tokens, width))
        return out_BSD


def _unit_rms(x: Tensor, gain: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain
