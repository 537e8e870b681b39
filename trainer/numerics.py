"""The precision policy at work: stretches of the forward in which products are bf16, and stretches
inside them in which all is fp32.
"""

from contextlib import AbstractContextManager, nullcontext

import torch

from ..platform.precision import PrecisionPolicy, policy_of
from .config import ComputeConfig


def policy_on(device: torch.device, compute: ComputeConfig) -> PrecisionPolicy:
    """Returns the policy of a configuration on a device."""
    return policy_of(compute.precision, device.type, has_exact_router=compute.has_exact_router)


def mixed(device: torch.device, compute: ComputeConfig) -> AbstractContextManager[object]:
    """Opens the stretch in which matrix products run in the policy's dtype; operations that need
    fp32 keep it."""
    if policy_on(device, compute).products == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def exact(device: torch.device, is_on: bool = True) -> AbstractContextManager[object]:
    """Opens the stretch inside `mixed` in which everything is fp32: the router, the modulation."""
    return torch.autocast(device.type, enabled=False) if is_on else nullcontext()


def matmul_dtype(device: torch.device) -> torch.dtype:
    """Returns the dtype of matrix products in the stretch that is open here."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return torch.float32
