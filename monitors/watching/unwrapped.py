"""What is inside of wrappers: the model that is trained, the optimizers that step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

from ...platform.errors import MoescopeError


def plain_model(model: Any) -> nn.Module:
    """Returns the module inside of torch.compile's and of data-parallel wrappers. Raises
    MoescopeError where it is no module."""
    if not isinstance(model, nn.Module):
        raise MoescopeError(f"model is a {type(model).__name__}: give the torch module")
    bare: nn.Module = model
    while True:
        if isinstance(bare, OptimizedModule):
            bare = bare._orig_mod
        elif isinstance(bare, nn.parallel.DistributedDataParallel | nn.DataParallel):
            bare = bare.module
        else:
            return bare


def compiled_part(model: nn.Module) -> str:
    """Says which part of a model is compiled, where one is; else nothing."""
    for name, module in model.named_modules():
        if isinstance(module, OptimizedModule) or module._compiled_call_impl is not None:
            return f"{name} is" if name else "the model is"
    return ""


def refuse_state_of_ranks(num_ranks: int, has_state: bool) -> None:
    """Raises MoescopeError where several processes train and are to be rolled back."""
    if has_state and num_ranks > 1:
        raise MoescopeError(
            f"state is given, but {num_ranks} processes train together, and each would have to go "
            "back to a state of its own: leave it out"
        )


def rank_and_number() -> tuple[int, int]:
    """This process and how many there are, by torch.distributed."""
    together = torch.distributed
    if not (together.is_available() and together.is_initialized()):
        return 0, 1
    return together.get_rank(), together.get_world_size()


def plain_optimizers(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
) -> list[torch.optim.Optimizer]:
    """Returns the optimizers inside of wrappers, which keep them as `optimizer` (accelerate,
    Lightning). Raises MoescopeError where one is none."""
    given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    if not given:
        raise MoescopeError("optimizer is an empty list: give the optimizers that step")
    found = []
    for one in given:
        inner: Any = one
        while isinstance(getattr(inner, "optimizer", None), torch.optim.Optimizer):
            inner = inner.optimizer
        if not isinstance(inner, torch.optim.Optimizer):
            raise MoescopeError(
                f"optimizer is a {type(one).__name__}: give the torch optimizer that steps"
            )
        found.append(inner)
    return found
