"""The definitions of routing: token by token where tokens choose, expert by expert where experts
do.

Readable and slow; `op.py` is the fast path and is held to these.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# B batch  S stream tokens  T tokens (B*S)  E experts  K chosen experts  N picks of experts
# H heads of a token, each with experts of its own

Scores = Literal["sigmoid", "softmax"]
"""sigmoid: each expert by itself. softmax: a token's scores add up to 1."""
Scope = Literal["sample", "batch"]
"""Whose tokens compete for an expert: those of one sample, or of the whole batch."""

TINY = 1e-20
"""Added to the sum that weights are divided by, so that scores of 0 give weights of 0. Source:
facts: model.md 3.2 (DeepSeek-V3)."""


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """How tokens choose experts. Raises ValueError where the numbers cannot be."""

    num_chosen: int
    scores: Scores = "sigmoid"
    is_normalised: bool = True
    """Whether a token's weights are divided by their sum."""
    scale: float = 1.0
    """Factor on the weights (routed_scaling_factor)."""
    num_groups: int = 1
    """Groups of neighbouring experts, all of one size."""
    num_chosen_groups: int = 1
    """A token's experts come from that many groups."""

    def __post_init__(self) -> None:
        if self.num_chosen < 1:
            raise ValueError(f"num_chosen is {self.num_chosen}, but a token needs an expert: use 1")
        if not 1 <= self.num_chosen_groups <= self.num_groups:
            raise ValueError(
                f"num_chosen_groups is {self.num_chosen_groups}, but it must be from 1 to "
                f"num_groups, which is {self.num_groups}"
            )

    def check(self, num_experts: int) -> None:
        """Raises ValueError where so many experts cannot be grouped or chosen by this rule."""
        if num_experts % self.num_groups:
            raise ValueError(
                f"{num_experts} experts do not make {self.num_groups} groups of one size: choose a "
                "divisor as num_groups"
            )
        most = num_experts // self.num_groups * self.num_chosen_groups
        if self.num_chosen > most:
            raise ValueError(
                f"num_chosen is {self.num_chosen}, but a token can reach {most} experts: choose at "
                "most as many"
            )


class Routing(NamedTuple):
    """Where each token goes. weight, score and logit carry gradients, the others do not."""

    chosen_TK: Tensor
    """(T, K) int64, best first by score + bias; the experts of one token differ."""
    weight_TK: Tensor
    """(T, K) fp32: where the rule normalises, a token's weights add up to its scale."""
    score_TE: Tensor
    """(T, E) fp32, without bias."""
    counts_E: Tensor
    """(E,) int64: tokens sent to each expert; adds up to T * K."""
    logit_TE: Tensor
    """(T, E) fp32, what the scores came from."""


class ExpertChoice(NamedTuple):
    """Which tokens each expert picks. weight, score and logit carry gradients, the others do not.

    Rows are sorted by expert, and by token within an expert, so that the order is no accident.
    """

    token_N: Tensor
    """(N,) int64: index of the token among the T = B * S of the batch, sample after sample."""
    weight_N: Tensor
    """(N,) fp32: the score of (token, expert), times the scale."""
    score_TE: Tensor
    """(T, E) fp32."""
    counts_E: Tensor
    """(E,) int64: tokens that each expert picked; adds up to N."""
    logit_TE: Tensor
    """(T, E) fp32, what the scores came from."""


def capacity(num_tokens: int, num_experts: int, num_chosen: int) -> int:
    """Returns how many of `num_tokens` each expert picks, so that K experts work on a token on
    average.

    C = max(1, round(num_tokens * K / E)), halves to the even number, and never more than there
    are. Source: expert choice, arXiv 2202.09368, with K as its capacity factor.
    """
    return min(num_tokens, max(1, round(num_tokens * num_chosen / num_experts)))


def scores_of(logit_TE: Tensor, scores: Scores) -> Tensor:
    """sigmoid(logit), or softmax over the experts, which are the last dimension."""
    return torch.sigmoid(logit_TE) if scores == "sigmoid" else torch.softmax(logit_TE, dim=-1)


def route_reference(logit_TE: Tensor, bias_E: Tensor | None, rule: RoutingRule) -> Routing:
    """Sends each token to the experts with the highest score + bias and weighs them by score
    alone.

    p = sigmoid(logit) or softmax(logit);  choice = p + bias
    group score = sum of the two highest choices in the group; outside of the best
    num_chosen_groups groups choice = -inf;  chosen = the K highest choices
    weight = scale * p[chosen], divided by sum(p[chosen]) + 1e-20 where the rule normalises; with
    K = 1 divided by p[chosen] as a constant
    logit_TE: (T, E). bias_E: (E,), no gradient; None is 0. Of equal choices the lower index wins.
    A lone normalised weight is the scale whatever its score, so that dividing by a constant is what
    leaves the router a gradient of the task (moescope choice, facts: model.md section 10).
    Source: facts: model.md 3.1, 3.2 (DeepSeek-V3).
    """
    num_experts = logit_TE.shape[1]
    rule.check(num_experts)
    score_TE = scores_of(logit_TE, rule.scores)
    chosen, weights = [], []
    counts_E = torch.zeros(num_experts, dtype=torch.int64, device=logit_TE.device)
    for score_E in score_TE:
        choice_E = score_E.detach() + (0 if bias_E is None else bias_E)
        allowed = _experts_of_best_groups(choice_E, rule)
        chosen_here = _highest(choice_E.tolist(), allowed, rule.num_chosen)
        best = torch.tensor(chosen_here, device=logit_TE.device)
        score_K = score_E[best]
        if rule.is_normalised:
            sum_1 = score_K.detach() if rule.num_chosen == 1 else score_K.sum()
            score_K = score_K / (sum_1 + TINY)
        chosen.append(best)
        weights.append(rule.scale * score_K)
        counts_E[best] += 1
    if not chosen:
        empty_TK = logit_TE.new_zeros(0, rule.num_chosen)
        return Routing(empty_TK.long(), empty_TK, score_TE, counts_E, logit_TE)
    return Routing(torch.stack(chosen), torch.stack(weights), score_TE, counts_E, logit_TE)


def route_heads_reference(logit_HTE: Tensor, bias_HE: Tensor, num_chosen: int) -> Routing:
    """Lets each head's part of a token choose among the experts of its head.

    chosen = the K highest of logit + bias;  weight = softmax of the chosen logits, without bias
    logit_HTE: (H, T, E). bias_HE: (H, E). Returns a Routing of T * H rows, row t * H + h being part
    h of token t, with chosen = h * E + expert, weights (T * H, K) that add up to 1, counts (H, E),
    and scores (H, T, E) = softmax(logit) and logits (H, T, E) as they came.
    Source: facts: model.md 3.6 (Multi-Head LatentMoE, arXiv 2602.04870).
    """
    num_heads, num_tokens, num_experts = logit_HTE.shape
    chosen, weights = [], []
    counts_HE = torch.zeros(num_heads, num_experts, dtype=torch.int64, device=logit_HTE.device)
    for token in range(num_tokens):
        for head in range(num_heads):
            logit_E = logit_HTE[head, token]
            choice = (logit_E.detach() + bias_HE[head]).tolist()
            best = torch.tensor(
                _highest(choice, range(num_experts), num_chosen), device=logit_HTE.device
            )
            chosen.append(head * num_experts + best)
            weights.append(torch.softmax(logit_E[best], dim=0))
            counts_HE[head, best] += 1
    score_HTE = torch.softmax(logit_HTE, dim=-1)
    if not chosen:
        empty_TK = logit_HTE.new_zeros(0, num_chosen)
        return Routing(empty_TK.long(), empty_TK, score_HTE, counts_HE, logit_HTE)
    return Routing(torch.stack(chosen), torch.stack(weights), score_HTE, counts_HE, logit_HTE)


def choose_tokens_reference(
    logit_BSE: Tensor, num_chosen: int, scores: Scores, scale: float, scope: Scope
) -> ExpertChoice:
    """Lets each expert pick the tokens of its highest scores: as many for each, so that no expert
    is idle, while a token may get several experts or none.

    p = sigmoid(logit) or softmax over the experts;  picks of e = the C highest p[:, e] of each
    sample, or of the batch;  weight = scale * p
    logit_BSE: (B, S, E). C: `capacity` of S, or of B * S. Of equal scores the lower index wins.
    Source: arXiv 2202.09368; over the batch: DiffMoE, arXiv 2503.14487, facts: model.md 3.7.
    """
    num_samples, num_tokens, num_experts = logit_BSE.shape
    logit_TE = logit_BSE.reshape(-1, num_experts)
    score_TE = scores_of(logit_TE, scores)
    pools = [range(b * num_tokens, (b + 1) * num_tokens) for b in range(num_samples)]
    if scope == "batch":
        pools = [range(num_samples * num_tokens)]
    tokens: list[int] = []
    weights = [score_TE.new_zeros(0)]
    counts = []
    for expert in range(num_experts):
        choice = score_TE[:, expert].tolist()
        picked = [
            token
            for pool in pools
            for token in sorted(
                _highest(choice, pool, capacity(len(pool), num_experts, num_chosen))
            )
        ]
        tokens += picked
        weights.append(scale * score_TE[picked, expert])
        counts.append(len(picked))
    device = logit_BSE.device
    return ExpertChoice(
        torch.tensor(tokens, dtype=torch.int64, device=device),
        torch.cat(weights),
        score_TE,
        torch.tensor(counts, dtype=torch.int64, device=device),
        logit_TE,
    )


def _highest(values: Sequence[float], of: Iterable[int], number: int) -> list[int]:
    # sorted() keeps the order of equals, also in reverse
    return sorted(of, key=lambda index: values[index], reverse=True)[:number]


def _experts_of_best_groups(choice_E: Tensor, rule: RoutingRule) -> list[int]:
    size = len(choice_E) // rule.num_groups
    groups = [range(g * size, (g + 1) * size) for g in range(rule.num_groups)]
    choice = choice_E.tolist()
    # summed as tensors are: in Python's fp64 another of two groups that tie in fp32 would win
    group_scores = [float(choice_E[_highest(choice, group, 2)].sum()) for group in groups]
    best = _highest(group_scores, range(rule.num_groups), rule.num_chosen_groups)
    return [expert for group in sorted(best) for expert in groups[group]]
