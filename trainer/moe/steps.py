"""What all layers of experts do around an optimizer step: count, add their losses, balance."""

import torch
from torch import Tensor, nn

from ..model_config import MoeConfig
from .balance import sum_over_ranks
from .expert_choice import BatchChoiceRouter, ExpertChoiceRouter
from .experts import MoeLayer
from .latent import LatentMoe

PREDICTOR_WEIGHT = 0.01
"""Of the capacity predictors of experts that choose in the batch; their gradient goes nowhere else.
Source: DiffMoE's code."""


def moe_layers(model: nn.Module) -> list[MoeLayer | LatentMoe]:
    """Returns the layers of experts, in the network's order."""
    return [layer for layer in model.modules() if isinstance(layer, MoeLayer | LatentMoe)]


class ExpertSteps:
    """Around an optimizer step: `start` before its forwards, `loss` after each of them, `end` after
    the update."""

    def __init__(self, model: nn.Module, config: MoeConfig) -> None:
        self.layers = moe_layers(model)
        self._speed = config.bias_update_speed

    def start(self) -> None:
        """Forgets what the forwards before it counted: not every layer need run in a step."""
        for layer in self.layers:
            layer.tally.start_step(layer.w_in_EDG.device)
            if isinstance(layer.router, BatchChoiceRouter):
                layer.router.predictor_loss = None

    def loss(self) -> Tensor | None:
        """Returns what the layers add to the loss of the forwards since the last call, a scalar
        with gradients, or None. Of several micro-batches the mean is wanted, as of their losses."""
        found = [layer.tally.loss() for layer in self.layers]
        losses = [loss for loss in found if loss is not None]
        for layer in self.layers:
            if isinstance(layer.router, BatchChoiceRouter):
                predictor, layer.router.predictor_loss = layer.router.predictor_loss, None
                losses += [] if predictor is None else [PREDICTOR_WEIGHT * predictor]
        return torch.stack(losses).sum() if losses else None

    @torch.no_grad()
    def end(self, keep: Tensor) -> None:
        """Moves the balancing biases by the counts of the step, over all ranks, and the thresholds
        of experts that choose. keep: 0/1 on the device; 0 changes nothing."""
        for layer in self.layers:
            if isinstance(layer.router, BatchChoiceRouter):
                layer.router.update_thresholds(keep)
        if not self._speed:
            return
        balanced = self.layers
        if not balanced:
            return
        # one message for all layers
        totals = sum_over_ranks(torch.cat([layer.tally.counts_RE for layer in balanced]))
        parts = totals.split([len(layer.tally.counts_RE) for layer in balanced])
        for layer, counts_RE in zip(balanced, parts, strict=True):
            router = layer.router
            assert not isinstance(router, ExpertChoiceRouter | BatchChoiceRouter), router
            counts = counts_RE if isinstance(layer, LatentMoe) else counts_RE[0]
            router.update_bias(counts, self._speed, keep)
