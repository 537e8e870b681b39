"""Blocks that keep only their input for the backward pass, and compute the rest again in it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_IS_RECOMPUTING = ContextVar("is_recomputing", default=False)


def run_block(block: nn.Module, *args: object, is_recomputed: bool) -> Tensor:
    """Returns block(*args). With is_recomputed, and where gradients are wanted, what lies inside is
    forgotten and computed again in the backward pass: about a third more time for the memory of one
    block instead of all.

    Nothing in a block is drawn by chance, so that no state of generators is kept. Source: arXiv
    1604.06174; torch.utils.checkpoint.
    """
    if not (is_recomputed and torch.is_grad_enabled()):
        answer: Tensor = block(*args)
        return answer
    answer = checkpoint(
        block, *args, use_reentrant=False, preserve_rng_state=False, context_fn=_contexts
    )
    return answer


def is_recomputing() -> bool:
    """Whether this forward repeats one that was counted already. What it counts is to be dropped;
    what it computes is not: the repetition must save the tensors that the forward saved."""
    return _IS_RECOMPUTING.get()


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _recomputing()


@contextmanager
def _recomputing() -> Iterator[None]:
    token = _IS_RECOMPUTING.set(True)
    try:
        yield
    finally:
        _IS_RECOMPUTING.reset(token)
