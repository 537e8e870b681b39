"""Which part of a training computes in which precision, as one value that can be printed."""

from dataclasses import asdict, dataclass
from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class PrecisionPolicy:
    """Dtypes by part. Where products are bfloat16 all else still is float32, but a router that was
    asked not to be. Source: facts: model.md section 8 (MAGI, Wan).
    """

    products: Dtype
    """Matrix products of attention, MLPs and experts."""
    router: Dtype = "float32"
    """Logits; scores, weights and the balancing bias are float32 always."""
    norms: Dtype = "float32"
    modulation: Dtype = "float32"
    residual: Dtype = "float32"
    """The stream of tokens that blocks add to."""
    loss: Dtype = "float32"
    weights: Dtype = "float32"
    """The masters that are updated; products take copies of them."""
    gradients: Dtype = "float32"
    optimizer_state: Dtype = "float32"
    averages: Dtype = "float32"

    def rows(self) -> dict[str, str]:
        """Returns {part: dtype} in words."""
        return {part.replace("_", " "): dtype for part, dtype in asdict(self).items()}

    def __str__(self) -> str:
        lower = [part for part, dtype in self.rows().items() if dtype != "float32"]
        if not lower:
            return "all in float32"
        return f"{' and '.join(lower)} in bfloat16, all else in float32"


def policy_of(precision: str, device: str, *, has_exact_router: bool = True) -> PrecisionPolicy:
    """Returns the policy of a run. device: its type or its name; with precision auto, products are
    bfloat16 on a GPU and float32 on a CPU, where what a test proves must hold on every machine."""
    is_bf16 = precision == "bf16" or (precision == "auto" and device != "cpu")
    products: Dtype = "bfloat16" if is_bf16 else "float32"
    return PrecisionPolicy(products, "float32" if has_exact_router else products)
