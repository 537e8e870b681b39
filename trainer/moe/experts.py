"""The Mixture-of-Experts layer: shared experts for every token, routed ones for those that the
router sends.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.choice import choose_expert_path
from ...kernels.expert_mlp.op import expert_mlp
from ...kernels.expert_mlp.reference import Experts
from ..config import MoeConfig
from ..numerics import exact, matmul_dtype
from .router import SigmoidRouter

# T tokens  D width  E experts  H hidden  G 2*H


class MoeLayer(nn.Module):
    """out = shared(x) + sum over a token's chosen experts of weight * expert(x); every expert is a
    SwiGLU without bias.
    """

    counts_E: Tensor
    """(E,) int64 on the device: tokens that each expert got in the last forward. No state: a new
    forward replaces it.
    """

    def __init__(self, width: int, config: MoeConfig) -> None:
        super().__init__()
        self.router = SigmoidRouter(
            width, config.num_experts, config.num_chosen, config.routed_scale
        )
        hidden = config.hidden
        self.w_in_EDG = nn.Parameter(
            torch.randn(config.num_experts, width, 2 * hidden) / math.sqrt(width)
        )
        self.w_out_EHD = nn.Parameter(
            torch.randn(config.num_experts, hidden, width) / math.sqrt(hidden)
        )
        self.shared = SwiGlu(width, config.num_shared * hidden) if config.num_shared else None
        self.counts_E = torch.zeros(config.num_experts, dtype=torch.int64)

    def forward(self, x_TD: Tensor) -> Tensor:
        """x_TD: (T, D). Returns (T, D) and leaves the counts of this forward in `counts_E`."""
        routing = self.router(x_TD)
        self.counts_E = routing.counts_E
        dtype = matmul_dtype(x_TD.device)
        _, width, wide = self.w_in_EDG.shape
        path = choose_expert_path(x_TD.device, dtype, width, wide // 2).path
        with exact(x_TD.device):
            experts = Experts(self.w_in_EDG.to(dtype), self.w_out_EHD.to(dtype))
            routed_TD = expert_mlp(x_TD.to(dtype), routing, experts, path).to(x_TD.dtype)
        return routed_TD if self.shared is None else routed_TD + self.shared(x_TD)


class SwiGlu(nn.Module):
    """f(x) = (silu(gate) * up) @ W_out with [gate | up] = x @ W_in; no bias."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_in = nn.Linear(width, 2 * hidden, bias=False)
        self.w_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        gate_TH, up_TH = self.w_in(x_TD).chunk(2, dim=-1)
        out_TD: Tensor = self.w_out(F.silu(gate_TH) * up_TH)
        return out_TD
