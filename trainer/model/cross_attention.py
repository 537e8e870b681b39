"""Cross-attention: video tokens read the caption."""

import torch
from torch import Tensor, nn

from ..model_config import ModelConfig
from .attention import attend, by_head, unit_rms

# B batch  S video tokens, or told tokens  D width  H heads  d head width


class CrossAttention(nn.Module):
    """out = softmax(q k^T / sqrt(d)) v, per head; queries of the video's tokens, keys and values of
    what is told, without places.

    4 * (D^2 + D) parameters, and gains of the QK-norm: 2 * D over the full width, 2 * d over each
    head. Every told token is looked at: there is no mask, and padding is a token like another, as
    in Wan. Shared heads of keys (kv_heads) and gates are for self-attention alone. Source: facts:
    model.md section 2 (Wan2.2).
    """

    def __init__(self, m: ModelConfig) -> None:
        super().__init__()
        self.heads, self.qk_norm, self.soft_cap = m.heads, m.qk_norm, m.logit_soft_cap
        self.query = nn.Linear(m.width, m.width)
        self.key_value = nn.Linear(m.width, 2 * m.width)
        self.out = nn.Linear(m.width, m.width)
        if m.qk_norm != "none":
            normed = m.width if m.qk_norm == "full" else m.width // m.heads
            self.query_gain = nn.Parameter(torch.ones(normed))
            self.key_gain = nn.Parameter(torch.ones(normed))

    def forward(self, x_BSD: Tensor, told_BSD: Tensor) -> Tensor:
        """x_BSD: (B, S, D). told_BSD: (B, any number from 1, D). Returns (B, S, D)."""
        q_BSD = self.query(x_BSD)
        k_BSD, v_BSD = self.key_value(told_BSD).chunk(2, dim=-1)
        if self.qk_norm == "full":
            q_BSD, k_BSD = unit_rms(q_BSD, self.query_gain), unit_rms(k_BSD, self.key_gain)
        q_BHSd, k_BHSd, v_BHSd = (by_head(x, self.heads) for x in (q_BSD, k_BSD, v_BSD))
        if self.qk_norm == "head":
            q_BHSd, k_BHSd = unit_rms(q_BHSd, self.query_gain), unit_rms(k_BHSd, self.key_gain)
        dtype = v_BHSd.dtype
        y_BHSd = attend(q_BHSd.to(dtype), k_BHSd.to(dtype), v_BHSd, self.soft_cap)
        out_BSD: Tensor = self.out(y_BHSd.transpose(1, 2).flatten(2))
        return out_BSD
