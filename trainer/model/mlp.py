"""The MLP of dense blocks and of shared experts, in three forms."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..model_config import MlpForm

# ... any  D width  H hidden


class Mlp(nn.Module):
    """f(x) = act(x W_in + b_in) W_out + b_out.

    act: SiLU, GELU (tanh), or SwiGLU: silu(gate) * up with [gate | up] = x W_in + b_in. Source:
    facts: model.md 1.1 (DSMoE: SiLU; its experts SwiGLU), 1.2 (JiT: SwiGLU with biases), 2 (Wan:
    GELU); SwiGLU: arXiv 2002.05202.
    """

    def __init__(self, width: int, hidden: int, form: MlpForm, has_bias: bool) -> None:
        super().__init__()
        self.form = form
        rows = 2 * hidden if form == "swiglu" else hidden
        self.w_in = nn.Linear(width, rows, bias=has_bias)
        self.w_out = nn.Linear(hidden, width, bias=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D). Returns the same shape."""
        hidden = self.w_in(x)
        if self.form == "swiglu":
            gate, up = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        elif self.form == "silu":
            hidden = F.silu(hidden)
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        out: Tensor = self.w_out(hidden)
        return out
