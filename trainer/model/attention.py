"""Self-attention: QK-norm, rotary positions, shared heads of keys and values, gates, a soft cap."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model_config import ModelConfig
from .positions import rotate

# B batch  S tokens  H heads of queries  K heads of keys and values  d head width  D width, H * d
# or K * d


class Attention(nn.Module):
    """out = W_out [y_1 ... y_H],  y_h = softmax(cap(q_h k^T / sqrt(d))) v, where H / K heads of
    queries in turn share a head of keys and values (GQA, arXiv 2305.13245).

    One matrix makes queries, keys, values and gates: (H + 2 K) d rows, and H more with head gates.
    QK-norm brings queries and keys to RMS 1 times a gain before they are rotated: over each head,
    which keeps the logits within sqrt(d) times the gains, or over all heads of a token at once, as
    Wan. cap(l) = c tanh(l / c). A head gate multiplies y_h by sigmoid(g_h), g_h being a row of the
    same matrix product. Source: facts: model.md 1.2 and 8.
    """

    def __init__(self, m: ModelConfig) -> None:
        super().__init__()
        head = m.width // m.heads
        self.heads, self.key_heads = m.heads, m.kv_heads or m.heads
        self.qk_norm, self.soft_cap = m.qk_norm, m.logit_soft_cap
        key_width = self.key_heads * head
        self.rows = [m.width, key_width, key_width, m.heads if m.has_head_gate else 0]
        self.qkv = nn.Linear(m.width, sum(self.rows))
        self.out = nn.Linear(m.width, m.width)
        gains = {"head": (head, head), "full": (m.width, key_width), "none": (0, 0)}[m.qk_norm]
        self.query_gain, self.key_gain = (
            nn.Parameter(torch.ones(width)) if width else None for width in gains
        )
        self.logit_bound_1: Tensor | None = None

    def forward(self, x_BSD: Tensor, rotary_2SP: Tensor | None) -> Tensor:
        """x_BSD: (B, S, D). rotary_2SP: `positions.rotary_table`, or None. Returns (B, S, D).
        Raises logit_bound_1, where it is set, to the bound of its logits."""
        q_BSD, k_BSD, v_BSD, gate_BSH = self.qkv(x_BSD).split(self.rows, dim=-1)
        q_BHSd = self._head_by_head(q_BSD, self.heads, self.query_gain)
        k_BKSd = self._head_by_head(k_BSD, self.key_heads, self.key_gain)
        v_BKSd = by_head(v_BSD, self.key_heads)
        if rotary_2SP is not None:
            q_BHSd, k_BKSd = rotate(q_BHSd, rotary_2SP), rotate(k_BKSd, rotary_2SP)
        if self.logit_bound_1 is not None:
            note_logit_bound(q_BHSd, k_BKSd, self.logit_bound_1)
        dtype = v_BKSd.dtype
        y_BHSd = attend(q_BHSd.to(dtype), k_BKSd.to(dtype), v_BKSd, self.soft_cap)
        if gate_BSH.shape[-1]:
            y_BHSd = y_BHSd * gate_BSH.float().sigmoid().transpose(1, 2)[..., None]
        out_BSD: Tensor = self.out(y_BHSd.transpose(1, 2).flatten(2))
        return out_BSD

    def _head_by_head(self, x_BSD: Tensor, heads: int, gain: Tensor | None) -> Tensor:
        if gain is None:
            return by_head(x_BSD, heads)
        if self.qk_norm == "full":
            return by_head(unit_rms(x_BSD, gain), heads)
        return unit_rms(by_head(x_BSD, heads), gain)


def attend(q_BHSd: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, soft_cap: float = 0.0) -> Tensor:
    """Returns softmax(q k^T / sqrt(d)) v for each head, (B, H, S, d); with a soft cap its logits l
    are soft_cap * tanh(l / soft_cap), which the fused kernels cannot do.

    k_BKSd, v_BKSd: K heads, a divisor of H: heads h * H / K to (h + 1) * H / K - 1 of the queries
    read head h.
    """
    group = q_BHSd.shape[1] // k_BKSd.shape[1]
    if not soft_cap:
        # the kernels share heads themselves, without copies
        return F.scaled_dot_product_attention(q_BHSd, k_BKSd, v_BKSd, enable_gqa=group > 1)
    k_BHSd, v_BHSd = shared(k_BKSd, group), shared(v_BKSd, group)
    logit_BHSS = (q_BHSd @ k_BHSd.transpose(-2, -1)).float() / math.sqrt(q_BHSd.shape[-1])
    weight_BHSS = (soft_cap * torch.tanh(logit_BHSS / soft_cap)).softmax(dim=-1)
    return weight_BHSS.to(v_BHSd.dtype) @ v_BHSd


@torch.no_grad()
def note_logit_bound(q_BHSd: Tensor, k_BKSd: Tensor, bound_1: Tensor) -> None:
    """Raises bound_1 to max |q| max |k| / sqrt(d), over the heads of each sample; no logit before a
    soft cap is larger, and the product of queries and keys need not be made to know it."""
    group = q_BHSd.shape[1] // k_BKSd.shape[1]
    q_BH = q_BHSd.float().norm(dim=-1).amax(-1)
    k_BH = k_BKSd.float().norm(dim=-1).amax(-1).repeat_interleave(group, dim=1)
    bound = (q_BH * k_BH).amax() / math.sqrt(q_BHSd.shape[-1])
    bound_1.copy_(torch.maximum(bound_1, bound))


def shared(x_BKSd: Tensor, group: int) -> Tensor:
    """Repeats each head for the `group` heads of queries that share it: (B, K, S, d) -> (B, K *
    group, S, d).
    """
    return x_BKSd[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2)


def by_head(x_BSD: Tensor, heads: int) -> Tensor:
    """(B, S, H * d) -> (B, H, S, d)."""
    x_BSHd: Tensor = x_BSD.unflatten(-1, (heads, -1))
    return x_BSHd.transpose(1, 2)


def unit_rms(x: Tensor, gain: Tensor) -> Tensor:
    """Brings the last dimension to root mean square 1 (eps 1e-6 under the root), times the gain; in
    fp32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain
