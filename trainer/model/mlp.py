"""The MLP of dense blocks and of shared experts, in all forms of `kernels.expert_mlp`."""

from torch import Tensor, nn

from ...kernels.expert_mlp.reference import BOUND, activate, count_clamped
from ..model_config import MlpForm, is_gated

# ... any  D width  H hidden


class Mlp(nn.Module):
    """f(x) = act(x W_in + b_in) W_out + b_out.

    act: SiLU, GELU (tanh), or SwiGLU: silu(gate) * up with [gate | up] = x W_in + b_in; or swiglu7
    and gelu7, with a bound on what goes in. Source: facts: model.md 1.1 (DSMoE: SiLU; its experts
    SwiGLU), 1.2 (JiT: SwiGLU with biases), 2 (Wan: GELU), 8 (bounds); SwiGLU: arXiv 2002.05202.
    """

    def __init__(
        self, width: int, hidden: int, form: MlpForm, has_bias: bool, bound: float = BOUND
    ) -> None:
        super().__init__()
        self.form, self.bound = form, bound
        self.w_in = nn.Linear(width, 2 * hidden if is_gated(form) else hidden, bias=has_bias)
        self.w_out = nn.Linear(hidden, width, bias=has_bias)
        self.clamped_2: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D). Returns the same shape. Adds to clamped_2, where it is set, the numbers of
        bounded and of all pre-activations."""
        hidden = self.w_in(x)
        if self.clamped_2 is not None:
            count_clamped(hidden, self.form, self.bound, self.clamped_2)
        out: Tensor = self.w_out(activate(hidden, self.form, self.bound))
        return out
