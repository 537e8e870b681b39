"""Which path computes the experts here, and why. One function chooses; its reason is said once at
the start of a run.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Path = Literal["grouped_mm", "one_by_one", "reference"]
"""grouped_mm and one_by_one: how `expert_mlp/products.py` multiplies. reference: the definition."""


@dataclass(frozen=True, slots=True)
class Choice:
    path: Path
    reason: str


def choose_expert_path(device: torch.device, dtype: torch.dtype, width: int, hidden: int) -> Choice:
    """Chooses between `torch.nn.functional.grouped_mm`, a product for each expert, and the loop
    that is the definition.

    width, hidden: the matrices' dimensions; grouped_mm wants rows whose strides are multiples of
    16 bytes. On CUDA it is taken for bf16 only, where it is one kernel for all experts. On a
    processor it is a loop inside torch, a little faster than one here; yet where torch has no fast
    product of half precision, one_by_one multiplies in fp32, which is 4 to 50 times as fast
    (docs/lab.md). Source of the demands: facts of torch 2.13.
    """
    name = str(dtype).removeprefix("torch.")
    if device.type not in ("cpu", "cuda"):
        return Choice("reference", f"no fast path was tried on {device.type}")
    if reason := _against_grouped_mm(device, dtype, width, hidden):
        return Choice(
            "one_by_one", f"one product for each expert ({device.type}, {name}): {reason}"
        )
    return Choice("grouped_mm", f"one grouped product for all experts ({device.type}, {name})")


def _against_grouped_mm(
    device: torch.device, dtype: torch.dtype, width: int, hidden: int
) -> str | None:
    name = str(dtype).removeprefix("torch.")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"grouped_mm has no {name}"
    if device.type == "cuda" and dtype is not torch.bfloat16:
        return f"grouped_mm on CUDA wants bfloat16, not {name}"
    step = 16 // dtype.itemsize
    for what, size in (("width", width), ("hidden width", hidden)):
        if size % step:
            return f"the {what} {size} is not a multiple of {step}, as grouped_mm wants"
    if device.type == "cpu" and not _multiplies_fast(dtype):
        return f"this processor is slow at products of {name}"
    return None


def _multiplies_fast(dtype: torch.dtype) -> bool:
    match dtype:
        case torch.bfloat16:
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        case torch.float16:
            return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
        case _:
            return True
