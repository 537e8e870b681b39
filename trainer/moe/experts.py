"""The Mixture-of-Experts layer: shared experts for every token, routed ones for those that the
router sends.
"""

import math

import torch
from torch import Tensor, nn

from ...kernels.choice import choose_expert_path
from ...kernels.expert_mlp.op import expert_mlp, expert_mlp_chosen
from ...kernels.expert_mlp.reference import BOUND, Experts
from ...kernels.routing.reference import ExpertChoice
from ..model.mlp import Mlp
from ..model_config import MoeConfig, is_gated
from ..numerics import exact, matmul_dtype
from .router import Router
from .tally import Tally

# B batch  S stream tokens  T tokens (B*S)  D width  E experts  H hidden  G 2*H where gated, else H


class MoeLayer(nn.Module):
    """out = shared(x) + sum over a token's experts of weight * expert(x); shared and routed experts
    are of one form.
    """

    def __init__(self, width: int, config: MoeConfig, router: Router, bound: float = BOUND) -> None:
        super().__init__()
        self.router = router
        self.config = config
        num, hidden, has_bias = config.num_experts, config.hidden, config.has_expert_bias
        rows = 2 * hidden if is_gated(config.expert) else hidden
        self.w_in_EDG = nn.Parameter(torch.randn(num, width, rows) / math.sqrt(width))
        self.w_out_EHD = nn.Parameter(torch.randn(num, hidden, width) / math.sqrt(hidden))
        self.b_in_EG = nn.Parameter(torch.zeros(num, rows)) if has_bias else None
        self.b_out_ED = nn.Parameter(torch.zeros(num, width)) if has_bias else None
        self.shared = (
            Mlp(width, config.num_shared * hidden, config.expert, has_bias, bound)
            if config.num_shared
            else None
        )
        self.bound = bound
        self.clamped_2: Tensor | None = None
        self.squares_2: Tensor | None = None
        self.tally = Tally(config, num_rows=1)

    def forward(self, x_BSD: Tensor, told_BSD: Tensor | None = None) -> Tensor:
        """x_BSD: (B, S, D). told_BSD: tokens of the same width that a router may read beside the
        token itself. Returns (B, S, D) and notes the routing in `tally`, and in squares_2, where it
        is set, how large the two answers are."""
        routing = self.router(x_BSD, told_BSD)
        self.tally.note(routing, self.w_in_EDG)
        dtype = matmul_dtype(x_BSD.device)
        path = choose_expert_path(x_BSD.device, dtype, x_BSD.shape[-1], self.config.hidden).path
        x_TD = x_BSD.flatten(0, 1)
        with exact(x_BSD.device):
            experts = self.experts(dtype)
            compute = expert_mlp_chosen if isinstance(routing, ExpertChoice) else expert_mlp
            routed_BSD = compute(x_TD.to(dtype), routing, experts, path).view_as(x_BSD)
        routed_BSD = routed_BSD.to(x_BSD.dtype)
        if self.shared is None:
            return routed_BSD
        shared_BSD: Tensor = self.shared(x_BSD)
        if self.squares_2 is not None:
            note_squares(shared_BSD, routed_BSD, self.squares_2)
        return routed_BSD + shared_BSD

    def experts(self, dtype: torch.dtype) -> Experts:
        """Returns the routed experts' weights in a dtype, with gradients to the layer's own."""
        biases = (
            None if self.b_in_EG is None else self.b_in_EG.to(dtype),
            None if self.b_out_ED is None else self.b_out_ED.to(dtype),
        )
        return Experts(
            self.w_in_EDG.to(dtype),
            self.w_out_EHD.to(dtype),
            *biases,
            self.config.expert,
            self.bound,
            self.clamped_2,
        )


@torch.no_grad()
def note_squares(shared: Tensor, routed: Tensor, squares_2: Tensor) -> None:
    """Adds the sums of squares of both answers to squares_2."""
    norms = [torch.linalg.vector_norm(x, dtype=torch.float32) for x in (shared, routed)]
    squares_2.add_(torch.stack(norms).square())
