"""The router: sigmoid scores in fp32, and a bias that balances the experts without an auxiliary
loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.routing.op import route
from ...kernels.routing.reference import Routing
from ..numerics import exact

# T tokens  D width  E experts


class SigmoidRouter(nn.Module):
    """Sends each token to `num_chosen` of `num_experts` experts; all of it in fp32.

    `bias_E` is a buffer without gradient: it takes part in the choice, never in the weights. The
    forward changes no state. Source: facts: model.md 3.2 and section 4 (aux-loss-free balancing,
    arXiv 2408.15664).
    """

    bias_E: Tensor

    def __init__(self, width: int, num_experts: int, num_chosen: int, scale: float) -> None:
        super().__init__()
        self.num_chosen = num_chosen
        self.scale = scale
        # std 0.02: facts: model.md 3.2
        self.weight_ED = nn.Parameter(torch.randn(num_experts, width) * 0.02)
        self.register_buffer("bias_E", torch.zeros(num_experts))

    def forward(self, x_TD: Tensor) -> Routing:
        """x_TD: (T, D), any float dtype. Returns the routing of each token."""
        with exact(x_TD.device):
            logit_TE = F.linear(x_TD.float(), self.weight_ED)
            return route(logit_TE, self.bias_E, self.num_chosen, self.scale)

    @torch.no_grad()
    def update_bias(self, counts_E: Tensor, speed: float, keep: Tensor) -> None:
        """Raises the bias of experts that got less than the mean, lowers that of the others; once
        per optimizer step.

        bias += keep * speed * sign(mean(counts) - counts)
        counts_E: (E,) tokens of the whole optimizer step. keep: 0/1 tensor on the same device; 0
        changes nothing.
        """
        counts_E = counts_E.float()
        self.bias_E.add_(torch.sign(counts_E.mean() - counts_E) * (keep * speed))
