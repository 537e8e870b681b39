"""One update: clips, guards and applies the gradients that are there; of the training loop and of
a replay alike.
"""

import torch
from torch import Tensor

from .config import RunConfig
from .measure import Measure
from .moe.steps import ExpertSteps
from .state import TrainState


def apply_update(
    config: RunConfig,
    state: TrainState,
    experts: ExpertSteps,
    measure: Measure,
    loss: Tensor,
    is_sampled: bool,
) -> tuple[Tensor, Tensor]:
    """Returns the gradient norm and the guard's 0/1, both on the device; gradients are gone
    afterwards."""
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    grads = [p.grad for p in parameters if p.grad is not None]
    # as torch.nn.utils.get_total_norm does, whose norms of single parameters tell of layers, too
    norms = torch.stack(torch._foreach_norm(grads, 2.0))
    grad_norm = torch.linalg.vector_norm(norms, 2.0)
    measure.take_norms(parameters, norms)
    is_guarded = config.guard.is_on
    held = state.guard.hold(loss, grad_norm) if is_guarded else torch.zeros_like(grad_norm)
    with measure.updating(is_sampled, held):
        torch.nn.utils.clip_grads_with_norm_(parameters, config.optim.clip_norm, grad_norm)
        # the fused kernel changes neither weights, moments nor step counters where this is 1
        state.optimizer.found_inf = held  # type: ignore[attr-defined]
        state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    keep = 1.0 - held
    experts.end(keep)
    state.ema.update(keep)
    return grad_norm, held
