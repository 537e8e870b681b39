"""What the routing of one layer adds up to within an optimizer step: counts and losses."""

import torch
from torch import Tensor

from ...kernels.routing.reference import ExpertChoice, Routing
from ..compute.recomputation import is_recomputing
from ..model_config import MoeConfig
from .balance import balance_loss, contrast_loss, sum_over_ranks, z_loss

# R routers of a layer (its heads)  E experts  D width  G rows of w_in


class Tally:
    """Counts of all forwards since `start_step`, and the losses of those that carry gradients.

    It is no state: an optimizer step ends with it. Each of several micro-batches adds to the
    counts and has a loss of its own.
    """

    counts_RE: Tensor
    """(R, E) int64 on the layer's device: tokens that each expert got."""

    def __init__(self, config: MoeConfig, num_rows: int) -> None:
        self._config = config
        self.counts_RE = torch.zeros(num_rows, config.num_experts, dtype=torch.int64)
        self._losses: list[Tensor] = []

    def start_step(self, device: torch.device | None = None) -> None:
        """device: the layer's, which a layer that has not run yet does not know."""
        self.counts_RE = torch.zeros_like(self.counts_RE, device=device)
        self._losses = []

    def note(self, routing: Routing | ExpertChoice, w_in_EDG: Tensor) -> None:
        """Takes in the routing of a forward. w_in_EDG: the experts' weights, which the contrast
        loss compares."""
        counts_RE = routing.counts_E.view(self.counts_RE.shape)
        is_new = not is_recomputing()
        if is_new:
            self.counts_RE = self.counts_RE.to(counts_RE.device) + counts_RE
        if torch.is_grad_enabled():
            losses = self._losses_of(routing, counts_RE, w_in_EDG)
            self._losses += losses if is_new else []

    def loss(self) -> Tensor | None:
        """Returns the weighted sum of the layer's losses of the forwards since the last call, a
        scalar with gradients, or None where the configuration has none."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).sum() if losses else None

    def _losses_of(
        self, routing: Routing | ExpertChoice, counts_RE: Tensor, w_in_EDG: Tensor
    ) -> list[Tensor]:
        config, losses = self._config, []
        if config.balance_weight:
            # of the forwards so far, as in Megatron: exact where a step has one
            total = (
                sum_over_ranks(self.counts_RE) if config.balance_scope == "global_batch" else None
            )
            shape = routing.counts_E.shape
            losses.append(
                config.balance_weight
                * balance_loss(
                    routing.score_TE,
                    routing.counts_E,
                    config.num_chosen,
                    None if total is None else total.view(shape),
                )
            )
        if config.z_loss_weight:
            losses.append(config.z_loss_weight * z_loss(routing.logit_TE))
        if config.contrast_weight:
            # experts of one head are compared with each other
            per_head = w_in_EDG.unflatten(0, counts_RE.shape)
            apart = torch.stack([contrast_loss(head.float()) for head in per_head]).mean()
            losses.append(config.contrast_weight * apart)
        return losses
