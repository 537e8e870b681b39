"""The dtype policy. Weights, norms, router, modulation and loss are fp32 everywhere; on CUDA the
matrix products of attention, MLPs and experts run in bf16.

A CPU with fast bf16 products is not used for them: what a test proves there in fp32 must hold on
every machine. Source: facts: model.md section 8 (precision policies of MAGI and Wan).
"""

from contextlib import AbstractContextManager, nullcontext

import torch


def matmul_dtype(device: torch.device) -> torch.dtype:
    """Returns the dtype in which matrix products run on a device: bf16 on CUDA, else fp32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def mixed(device: torch.device) -> AbstractContextManager[object]:
    """Opens the stretch in which matrix products run in `matmul_dtype`; operations that need fp32
    keep it."""
    if matmul_dtype(device) is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=matmul_dtype(device))


def exact(device: torch.device) -> AbstractContextManager[object]:
    """Opens the stretch inside `mixed` in which everything is fp32: the router, the modulation."""
    return torch.autocast(device.type, enabled=False)
