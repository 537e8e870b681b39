"""Multi-Head LatentMoE: a token is projected and cut into parts, and each part goes to experts of
its head.

What crosses ranks when the heads are shared out is the same for every routing, which is why it is
cheap to communicate; here all heads are in one process.
"""

import math

import torch
from torch import Tensor, nn

from ...kernels.choice import choose_expert_path
from ...kernels.expert_mlp.op import expert_mlp
from ...kernels.expert_mlp.reference import Experts
from ..model_config import MoeConfig
from ..numerics import exact, matmul_dtype
from .router import HeadRouters
from .tally import Tally

# B batch  S stream tokens  T tokens (B*S)  D width  H heads  d width of a part  E experts of a head
# e hidden


class LatentMoe(nn.Module):
    """z = W_in x, cut into H parts z_h; y_h = sum over K of weight * expert(z_h); out = W_out y,
    the parts joined.

    expert(z) = gelu(z W_1) W_2, exact GELU, no biases; weights are a softmax over the K chosen
    logits of the head's own fp32 router. 2 * D * H * d + H * E * (d + 2 * d * e) parameters; no
    shared expert. W_out starts at N(0, (0.02 / sqrt(2 L))^2). The experts of all heads are computed
    as H * E experts on T * H rows. Source: facts: model.md 3.6 (arXiv 2602.04870).
    """

    def __init__(self, width: int, layers: int, config: MoeConfig) -> None:
        super().__init__()
        heads, part = config.latent_heads, config.latent_head_width
        num, hidden = heads * config.num_experts, config.hidden
        self.heads = heads
        self.router = HeadRouters(part, heads, config.num_experts, config.num_chosen)
        self.w_in = nn.Linear(width, heads * part, bias=False)
        self.w_in_EDG = nn.Parameter(torch.randn(num, part, hidden) / math.sqrt(part))
        self.w_out_EHD = nn.Parameter(torch.randn(num, hidden, part) / math.sqrt(hidden))
        self.w_out = nn.Linear(heads * part, width, bias=False)
        nn.init.normal_(self.w_out.weight, std=0.02 / math.sqrt(2 * layers))
        self.tally = Tally(config, num_rows=heads)

    def forward(self, x_BSD: Tensor, told_BSD: Tensor | None = None) -> Tensor:
        """x_BSD: (B, S, D). told_BSD is not looked at. Returns (B, S, D)."""
        z_THd = self.w_in(x_BSD).flatten(0, 1).unflatten(1, (self.heads, -1))
        routing = self.router(z_THd)
        self.tally.note(routing, self.w_in_EDG)
        dtype = matmul_dtype(x_BSD.device)
        _, part, hidden = self.w_in_EDG.shape
        path = choose_expert_path(x_BSD.device, dtype, part, hidden).path
        # the kernel knows one row of experts, numbered over all heads, as the routing's choices are
        routing = routing._replace(counts_E=routing.counts_E.flatten())
        with exact(x_BSD.device):
            experts = Experts(self.w_in_EDG.to(dtype), self.w_out_EHD.to(dtype), form="gelu_exact")
            y_Nd = expert_mlp(z_THd.flatten(0, 1).to(dtype), routing, experts, path)
        out_BSD: Tensor = self.w_out(y_Nd.view(*x_BSD.shape[:2], -1).to(x_BSD.dtype))
        return out_BSD
