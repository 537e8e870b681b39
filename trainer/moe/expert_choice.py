"""Routers with which each expert picks its tokens: no expert is idle, and no bias or auxiliary loss
is needed for that.

Every token sees which others were picked. That is no leak here: a diffusion model denoises all
tokens at once, none is the answer to another.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.routing.op import choose_tokens
from ...kernels.routing.reference import ExpertChoice, RoutingRule, Scores, capacity, scores_of
from ..compute.recomputation import is_recomputing
from ..numerics import exact
from .balance import sum_over_ranks

# B batch  S stream tokens  T tokens (B*S)  D width  E experts  N picks of experts

THRESHOLD_DECAY = 0.95
"""Source: DiffMoE, arXiv 2503.14487; facts: model.md 3.7."""


class ExpertChoiceRouter(nn.Module):
    """logit = x @ weight.T; of each sample every expert picks the `capacity` tokens of its highest
    scores, in training and inference alike. E * D parameters.

    A sample's routing does not depend on the others of its batch. Source: expert choice, arXiv
    2202.09368; in diffusion: EC-DiT, arXiv 2410.02098.
    """

    def __init__(
        self,
        width: int,
        num_experts: int,
        num_chosen: int,
        scores: Scores,
        scale: float,
        std: float = 0.02,  # facts: model.md 3.2
    ) -> None:
        """num_chosen: experts per token on average."""
        super().__init__()
        RoutingRule(num_chosen).check(num_experts)
        self.num_chosen = num_chosen
        self.is_exact = True
        self.scores: Scores = scores
        self.scale = scale
        self.weight_ED = nn.Parameter(torch.randn(num_experts, width) * std)

    def forward(self, x_BSD: Tensor, told_BSD: Tensor | None = None) -> ExpertChoice:
        """x_BSD: (B, S, D), any float dtype. told_BSD is not looked at."""
        with exact(x_BSD.device, self.is_exact):
            logit_BSE = F.linear(x_BSD.float(), self.weight_ED)
        with exact(x_BSD.device):
            logit_BSE = logit_BSE.float()
            return choose_tokens(logit_BSE, self.num_chosen, self.scores, self.scale, "sample")


class BatchChoiceRouter(nn.Module):
    """In training every expert picks the `capacity` tokens of its highest scores out of the whole
    batch; in evaluation a predictor says which tokens it would have picked, so that a sample's
    routing does not depend on its batch. E * D + D * D + D + D * E + E parameters.

    predicted = sigmoid(last(silu(first(x)))), on x without gradient;  predictor_loss = mean over
    (token, expert) of the binary cross-entropy of predicted against picked
    threshold_e = moving average (0.95) of the C-th highest predicted[:, e], C being the capacity
    evaluation: token t goes to every expert e with predicted[t, e] >= threshold_e, be they none or
    all; weights are scale * score in both modes
    With several ranks the batch is that of the rank, and thresholds are averaged over ranks.

    State: `threshold_E` and `num_updates` are buffers and change in `update_thresholds` alone.
    Until its first call evaluation takes the C-th highest predictions of the batch at hand: from 0,
    as in the source, everything would pass at first (moescope choice).
    Source: DiffMoE, arXiv 2503.14487 and its code; facts: model.md 3.7.
    """

    threshold_E: Tensor
    num_updates: Tensor
    predictor_loss: Tensor | None
    """Scalar with a gradient to the predictor alone, after a forward in training mode with
    gradients; None after any other."""

    def __init__(
        self,
        width: int,
        num_experts: int,
        num_chosen: int,
        scores: Scores,
        scale: float,
        std: float = 0.02,  # facts: model.md 3.2
    ) -> None:
        """num_chosen: experts per token on average."""
        super().__init__()
        RoutingRule(num_chosen).check(num_experts)
        self.num_chosen = num_chosen
        self.is_exact = True
        self.scores: Scores = scores
        self.scale = scale
        self.weight_ED = nn.Parameter(torch.randn(num_experts, width) * std)
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, num_experts)
        self.register_buffer("threshold_E", torch.zeros(num_experts))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.predictor_loss = None
        self._cutoffs_E: list[Tensor] = []

    def forward(self, x_BSD: Tensor, told_BSD: Tensor | None = None) -> ExpertChoice:
        """x_BSD: (B, S, D), any float dtype. told_BSD is not looked at.

        The mode (`.train()`, `.eval()`) decides who picks; in evaluation the number of picks is
        known to the device alone, and the host waits for it. In training mode with gradients the
        forward leaves `predictor_loss`, and cut-offs for the next `update_thresholds`.
        """
        self.predictor_loss = None
        x_BSD = x_BSD.float()
        with exact(x_BSD.device, self.is_exact):
            logit_BSE = F.linear(x_BSD, self.weight_ED)
        with exact(x_BSD.device):
            logit_BSE = logit_BSE.float()
            if not self.training:
                return self._choose_by_threshold(x_BSD.flatten(0, 1), logit_BSE.flatten(0, 1))
            choice = choose_tokens(logit_BSE, self.num_chosen, self.scores, self.scale, "batch")
            if torch.is_grad_enabled() and choice.token_N.numel():
                self._teach(x_BSD.flatten(0, 1), choice)
            return choice

    @torch.no_grad()
    def update_thresholds(self, keep: Tensor) -> None:
        """Moves the thresholds towards the mean cut-off of the training forwards since the last
        call, over all ranks; once per optimizer step. Without such a forward nothing changes.

        threshold += (1 - decay) * (cut-off - threshold), decay = min(0.95, n / (n + 1)) with n the
        number of updates before: a plain mean at first, which starts from the first cut-off.
        keep: 0/1 tensor on the same device; 0 changes nothing.
        """
        cutoffs, self._cutoffs_E = self._cutoffs_E, []
        if not cutoffs:
            return
        cutoff_E = sum_over_ranks(torch.stack(cutoffs).mean(0)) / _num_ranks()
        past = self.num_updates.float()
        decay = (past / (past + 1)).clamp(max=THRESHOLD_DECAY)
        moved_E = torch.lerp(cutoff_E, self.threshold_E, decay)
        # selected and not multiplied: a step that is held back may hold a NaN
        self.threshold_E.copy_(torch.where(keep > 0, moved_E, self.threshold_E))
        self.num_updates.add_((keep > 0).to(torch.int64))

    def _predict(self, x_TD: Tensor) -> Tensor:
        logit_TE: Tensor = self.last(F.silu(self.first(x_TD.detach())))
        return logit_TE

    def _teach(self, x_TD: Tensor, choice: ExpertChoice) -> None:
        predicted_TE = self._predict(x_TD)
        is_picked_ET = torch.zeros_like(predicted_TE).t().contiguous()
        is_picked_ET.scatter_(1, choice.token_N.view(predicted_TE.shape[1], -1), 1.0)
        loss = F.binary_cross_entropy_with_logits(predicted_TE, is_picked_ET.t())
        if not is_recomputing():
            self.predictor_loss = loss
            self._cutoffs_E.append(self._cutoff(torch.sigmoid(predicted_TE.detach())))

    def _cutoff(self, predicted_TE: Tensor) -> Tensor:
        wanted = capacity(predicted_TE.shape[0], predicted_TE.shape[1], self.num_chosen)
        return predicted_TE.topk(wanted, dim=0).values[-1]

    def _choose_by_threshold(self, x_TD: Tensor, logit_TE: Tensor) -> ExpertChoice:
        score_TE = scores_of(logit_TE, self.scores)
        predicted_TE = torch.sigmoid(self._predict(x_TD))
        if predicted_TE.shape[0]:
            cutoff_E = self._cutoff(predicted_TE)
            threshold_E = torch.where(self.num_updates > 0, self.threshold_E, cutoff_E)
        else:
            threshold_E = self.threshold_E
        is_picked_ET = (predicted_TE >= threshold_E).t()
        expert_N, token_N = is_picked_ET.nonzero(as_tuple=True)
        weight_N = score_TE[token_N, expert_N] * self.scale
        return ExpertChoice(token_N, weight_N, score_TE, is_picked_ET.sum(1), logit_TE)


def _num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
