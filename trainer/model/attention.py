"""Self-attention over the whole stream, with QK-norm and 3-axis rotary positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import rotate

# B batch  S stream tokens  D width  H heads  d head width


class Attention(nn.Module):
    """out = softmax(q k^T / sqrt(d)) v, per head; queries and keys are normalised to RMS 1 before
    they are rotated.

    QK-norm per head keeps attention logits bounded by sqrt(d) times the gains. Source: facts:
    model.md 1.2 and 8.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.query_gain = nn.Parameter(torch.ones(width // heads))
        self.key_gain = nn.Parameter(torch.ones(width // heads))

    def forward(self, x_BSD: Tensor, rotary_2SP: Tensor) -> Tensor:
        """x_BSD: (B, S, D). rotary_2SP: `positions.rotary_table`. Returns (B, S, D)."""
        batch, tokens, width = x_BSD.shape
        qkv = self.qkv(x_BSD).view(batch, tokens, 3, self.heads, width // self.heads)
        q_BHSd, k_BHSd, v_BHSd = qkv.permute(2, 0, 3, 1, 4)
        q_BHSd = rotate(_unit_rms(q_BHSd, self.query_gain), rotary_2SP).to(v_BHSd.dtype)
        k_BHSd = rotate(_unit_rms(k_BHSd, self.key_gain), rotary_2SP).to(v_BHSd.dtype)
        y_BHSd = F.scaled_dot_product_attention(q_BHSd, k_BHSd, v_BHSd)
        out_BSD: Tensor = self.out(y_BHSd.transpose(1, 2).reshape(batch, tokens, width))
        return out_BSD


def _unit_rms(x: Tensor, gain: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain
