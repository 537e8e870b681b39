"""Routing for all tokens at once, without leaving the device."""

import torch
from torch import Tensor

from .reference import (
    TINY,
    ExpertChoice,
    Routing,
    RoutingRule,
    Scope,
    Scores,
    capacity,
    scores_of,
)

# B batch  S stream tokens  T tokens (B*S)  E experts  K chosen experts  N picks of experts
# H heads of a token  P pools of tokens  Q tokens of a pool  C capacity  G groups  M experts of one


def route(logit_TE: Tensor, bias_E: Tensor | None, rule: RoutingRule) -> Routing:
    """Does what `reference.route_reference` defines.

    logit_TE: (T, E). bias_E: (E,), without gradient; None is 0. Of equal choices the lower index
    wins, on every device. A NaN counts as the highest; the experts of a token differ in any case.
    Raises TypeError unless logits and bias are fp32 (or both fp64): in bf16 close experts round to
    a tie, and the choice is an accident. Raises ValueError where the rule does not fit E.
    """
    _refuse_half_precision(logit_TE, bias_E)
    num_experts = logit_TE.shape[1]
    rule.check(num_experts)
    score_TE = scores_of(logit_TE, rule.scores)
    choice_TE = score_TE.detach() if bias_E is None else score_TE.detach() + bias_E
    if rule.num_chosen_groups < rule.num_groups:
        choice_TE = _keep_best_groups(choice_TE, rule)
    chosen_TK = _highest(choice_TE, rule.num_chosen)
    weight_TK = score_TE.gather(1, chosen_TK)
    if rule.is_normalised:
        sum_T1 = weight_TK.detach() if rule.num_chosen == 1 else weight_TK.sum(1, keepdim=True)
        weight_TK = weight_TK / (sum_T1 + TINY)
    if rule.scale != 1:
        weight_TK = weight_TK * rule.scale
    return Routing(chosen_TK, weight_TK, score_TE, count(chosen_TK, num_experts), logit_TE)


def route_heads(logit_HTE: Tensor, bias_HE: Tensor, num_chosen: int) -> Routing:
    """Does what `reference.route_heads_reference` defines: T * H rows, experts numbered through
    all heads, counts (H, E), scores and logits (H, T, E).

    Raises as `route` does.
    """
    _refuse_half_precision(logit_HTE, bias_HE)
    num_heads, _, num_experts = logit_HTE.shape
    RoutingRule(num_chosen).check(num_experts)
    best_HTK = _highest(logit_HTE.detach() + bias_HE[:, None], num_chosen)
    weight_HTK = torch.softmax(logit_HTE.gather(2, best_HTK), dim=-1)
    first_H11 = torch.arange(num_heads, device=best_HTK.device)[:, None, None] * num_experts
    chosen_NK = (best_HTK + first_H11).transpose(0, 1).flatten(0, 1)
    counts_HE = count(chosen_NK, num_heads * num_experts).view(num_heads, num_experts)
    return Routing(
        chosen_NK,
        weight_HTK.transpose(0, 1).flatten(0, 1),
        torch.softmax(logit_HTE, dim=-1),
        counts_HE,
        logit_HTE,
    )


def choose_tokens(
    logit_BSE: Tensor, num_chosen: int, scores: Scores, scale: float, scope: Scope
) -> ExpertChoice:
    """Does what `reference.choose_tokens_reference` defines; of fp64 scores that are one number in
    fp32 the lower index wins, too. Raises as `route` does."""
    _refuse_half_precision(logit_BSE, None)
    num_samples, num_tokens, num_experts = logit_BSE.shape
    RoutingRule(num_chosen).check(num_experts)
    logit_TE = logit_BSE.flatten(0, 1)
    score_TE = scores_of(logit_TE, scores)
    num_pools, pool = (num_samples, num_tokens) if scope == "sample" else (1, logit_TE.shape[0])
    wanted = capacity(pool, num_experts, num_chosen)
    score_PQE = score_TE.detach().float().view(num_pools, pool, num_experts)
    picked_EPC = _highest_tokens(score_PQE.permute(2, 0, 1), wanted)
    first_P1 = torch.arange(num_pools, device=logit_BSE.device)[:, None] * pool
    token_EN = (picked_EPC + first_P1).flatten(1)
    weight_N = score_TE.t().gather(1, token_EN).flatten() * scale
    counts_E = torch.full(
        (num_experts,), token_EN.shape[1], dtype=torch.int64, device=logit_BSE.device
    )
    return ExpertChoice(token_EN.flatten(), weight_N, score_TE, counts_E, logit_TE)


def count(chosen_TK: Tensor, num_experts: int) -> Tensor:
    """Counts the tokens sent to each expert. chosen_TK: (T, K) int64. Returns (E,) int64 on the
    same device.

    Integer scatter instead of bincount, which waits for the device to learn the largest value.
    """
    flat_N = chosen_TK.reshape(-1)
    zeros_E = torch.zeros(num_experts, dtype=torch.int64, device=chosen_TK.device)
    return zeros_E.scatter_add_(0, flat_N, torch.ones_like(flat_N))


def _highest(choice_TE: Tensor, number: int) -> Tensor:
    """The indices (..., number) of the highest values along the last dimension, best first; of
    equal ones the lower index first, which torch.topk does not promise and torch.max does.

    Round after round the maximum is taken and struck out. What was -inf from the start is above
    what was struck out, so that no index comes twice.
    """
    left_TE = choice_TE.clamp(min=torch.finfo(choice_TE.dtype).min)
    rounds = [left_TE.max(dim=-1, keepdim=True).indices]
    for _ in range(number - 1):
        left_TE.scatter_(-1, rounds[-1], -torch.inf)
        rounds.append(left_TE.max(dim=-1, keepdim=True).indices)
    return torch.cat(rounds, dim=-1)


def _highest_tokens(score_EPQ: Tensor, number: int) -> Tensor:
    """The indices (E, P, number) of the highest scores along the last dimension, in ascending
    order; of equal ones the lower index is taken. score_EPQ: fp32, not negative.

    The bits of such numbers are in the order of the numbers, so that an integer of the bits above
    and the index below is in the wanted order and has no equal: topk need not be stable. Measured
    on a CPU: 3.4 to 4.5 times as fast as a stable sort.
    """
    key_EPQ = score_EPQ.contiguous().view(torch.int32).to(torch.int64) << 32
    key_EPQ -= torch.arange(key_EPQ.shape[-1], device=key_EPQ.device)
    return key_EPQ.topk(number, dim=-1, sorted=False).indices.sort(dim=-1).values


def _keep_best_groups(choice_TE: Tensor, rule: RoutingRule) -> Tensor:
    # -inf and not 0: beside a negative bias an excluded 0 would win
    choice_TGM: Tensor = choice_TE.unflatten(1, (rule.num_groups, -1))
    two = min(2, choice_TGM.shape[2])
    group_TG = choice_TGM.topk(two, dim=2).values.sum(2)
    is_out_TG = torch.ones_like(group_TG, dtype=torch.bool)
    is_out_TG.scatter_(1, _highest(group_TG, rule.num_chosen_groups), False)
    return choice_TGM.masked_fill(is_out_TG[..., None], -torch.inf).flatten(1)


def _refuse_half_precision(logit_TE: Tensor, bias_E: Tensor | None) -> None:
    dtypes = {logit_TE.dtype} | ({bias_E.dtype} if bias_E is not None else set())
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        names = " with ".join(str(dtype) for dtype in sorted(dtypes, key=str))
        raise TypeError(f"routing is done in float32, not {names}")
