"""Which path computes the experts here, and why. One function chooses; its reason is said once at
the start of a run.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Path = Literal["grouped_mm", "one_by_one", "reference"]


@dataclass(frozen=True, slots=True)
class Choice:
    path: Path
    reason: str


def choose_expert_path(device: torch.device, dtype: torch.dtype, width: int, hidden: int) -> Choice:
    """Chooses between `torch.nn.functional.grouped_mm`, one expert after the other with a gradient
    of its own, and the loop that is the definition.

    width, hidden: the matrices' dimensions; grouped_mm wants rows whose strides are multiples of
    16 bytes. On CUDA it is taken for bf16 only, where it is one kernel for all experts. On a
    processor it is a loop over products, which one_by_one beats; with half precision, by far where
    torch has no fast product of that dtype (docs/benchmarks.md). Where it has one, measured
    elsewhere to be 7 times as fast as fp32, grouped_mm uses it and one_by_one would not.
    """
    name = str(dtype).removeprefix("torch.")
    if device.type == "cpu":
        if not _has_fast_product(dtype):
            return Choice("one_by_one", f"one expert after the other (cpu, {name})")
    elif device.type != "cuda":
        return Choice("reference", f"no fast path was tried on {device.type}")
    elif dtype is not torch.bfloat16:
        return Choice("reference", f"grouped_mm on CUDA wants bfloat16, not {name}")
    step = 16 // dtype.itemsize
    for what, size in (("width", width), ("hidden width", hidden)):
        if size % step:
            slow: Path = "one_by_one" if device.type == "cpu" else "reference"
            return Choice(
                slow, f"the {what} {size} is not a multiple of {step}, as grouped_mm wants"
            )
    return Choice("grouped_mm", f"one grouped product for all experts ({device.type}, {name})")


def _has_fast_product(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of a half-precision dtype faster than fp32."""
    match dtype:
        case torch.bfloat16:
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        case torch.float16:
            return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
        case _:
            return False
