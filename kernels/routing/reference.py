"""The definition of sigmoid routing with a balancing bias, token by token."""

from typing import NamedTuple

import torch
from torch import Tensor

# T tokens  E experts  K chosen experts


class Routing(NamedTuple):
    """Where each token goes. `score_TE` and `weight_TK` carry gradients, the others do not."""

    chosen_TK: Tensor
    """(T, K) int64, best first by score + bias; the experts of one token differ."""
    weight_TK: Tensor
    """(T, K) fp32: a token's weights add up to the routed scale."""
    score_TE: Tensor
    """(T, E) fp32 sigmoid scores, without bias."""
    counts_E: Tensor
    """(E,) int64: tokens sent to each expert; adds up to T * K."""


def route_reference(logit_TE: Tensor, bias_E: Tensor, num_chosen: int, scale: float) -> Routing:
    """Sends each token to the experts with the highest score + bias and weighs them by score
    alone.

    s = sigmoid(logit); chosen = top_k(s + bias); weight = scale * s[chosen] / (sum s[chosen] +
    1e-20) logit_TE: (T, E) fp32. bias_E: (E,) fp32, no gradient. num_chosen: K <= E. Source:
    facts: model.md 3.2 (DeepSeek-V3 with a single group).
    """
    num_experts = logit_TE.shape[1]
    score_TE = torch.sigmoid(logit_TE)
    chosen, weights = [], []
    counts_E = torch.zeros(num_experts, dtype=torch.int64, device=logit_TE.device)
    for score_E in score_TE:
        ranked = sorted(
            range(num_experts), key=lambda e: float(score_E[e].detach() + bias_E[e]), reverse=True
        )
        best = torch.tensor(ranked[:num_chosen], device=logit_TE.device)
        score_K = score_E[best]
        chosen.append(best)
        weights.append(scale * score_K / (score_K.sum() + 1e-20))
        counts_E[best] += 1
    if not chosen:
        empty_TK = torch.zeros(0, num_chosen, device=logit_TE.device)
        return Routing(empty_TK.long(), empty_TK, score_TE, counts_E)
    return Routing(torch.stack(chosen), torch.stack(weights), score_TE, counts_E)
