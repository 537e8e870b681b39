"""What keeps experts in balance and apart: auxiliary losses, and the counts of a whole optimizer
step.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from ..numerics import exact

# T tokens  E experts  K chosen experts  N numbers that stand for an expert
# Leading dimensions before (T, E) and (E,), such as heads with experts of their own, are averaged.


def balance_loss(
    score_TE: Tensor, counts_E: Tensor, num_chosen: int, total_counts_E: Tensor | None = None
) -> Tensor:
    """Returns a scalar that is 1 in perfect balance and up to E / K in collapse; its gradient
    pushes tokens away from experts that got more than others.

    loss = E * sum_e f_e P_e,  f_e = c_e / sum(c),  P_e = mean_t p_te,  p_t = score_t / sum(score_t)
    score_TE: (..., T, E), softmax or sigmoid. counts_E: (..., E) tokens of this forward, T * K in
    all. total_counts_E: counts of the whole optimizer step, which then stand for c. The gradient
    flows through P alone. No tokens give 0. Sequence-wise balance is score (B, S, E) with counts
    (B, E).

    The mean over ranks and micro-batches of this loss, and of its gradient, is that of a single
    forward of the joined batch, if each has the same number of tokens and each is given the same
    total_counts_E, of all of them: P is a mean, and f the same everywhere. Over ranks that is
    `sum_over_ranks`. Over micro-batches there are two ways, since f wants counts that are yet to
    come:
    - exact: all micro-batches are routed first (without gradient; the router does not change within
      a step, so that they are routed the same again), then each loss is given the sum;
    - so far: each loss is given the sum up to its own counts, without a second forward, as in
      Megatron. With one micro-batch that is exact; else the first losses see a smaller sample of
      the batch, and only the last sees all of it.
    Source: facts: model.md section 4 (f adds up to 1); over the global batch: arXiv 2501.11873.
    """
    num_experts = score_TE.shape[-1]
    if total_counts_E is None:
        share_E = counts_E / max(1, score_TE.shape[-2] * num_chosen)
    else:
        share_E = total_counts_E / total_counts_E.sum(-1, keepdim=True).clamp_min(1)
    p_TE = score_TE / score_TE.sum(-1, keepdim=True).clamp_min(1e-20)
    mean_E = p_TE.sum(-2) / max(1, score_TE.shape[-2])
    return num_experts * (share_E.detach() * mean_E).sum(-1).mean()


def z_loss(logit_TE: Tensor) -> Tensor:
    """Returns mean_t logsumexp_e(logit_te)^2, a scalar that keeps logits small. No tokens give 0.

    logit_TE: (..., T, E). Source: ST-MoE, arXiv 2202.08906; facts: model.md section 4.
    """
    z_T = torch.logsumexp(logit_TE, dim=-1)
    return z_T.square().sum() / max(1, z_T.numel())


def contrast_loss(apart_EN: Tensor) -> Tensor:
    """Returns how alike experts are, a scalar: 0 where all are orthogonal, 1 where all are
    identical up to a factor; to be made small.

    loss = mean over pairs i < j of cos(v_i, v_j)^2
    apart_EN: (E, ...); what stands for an expert, flattened to v_e, in fp32. Three choices:
    - its weights, such as w_in_EDG: no tokens needed, E^2 * D * G multiplications. Blind to hidden
      units in another order, which two experts may have and still answer alike;
    - its answers on the same few tokens, (E, tokens, D): what homogenisation is about, at the price
      of the experts on those tokens;
    - the mean of its answers to its own tokens: cheap, but tokens differ between experts.
    A zero vector (an idle expert) is orthogonal to all. Fewer than two experts give 0.

    At exact equality the gradient is zero, since the cosine is at its maximum there: clones that
    were not told apart before are not told apart by this loss.
    Source: moescope choice; remedy of arXiv 2605.19378 (facts: model.md section 9), without its
    formula; the squared cosine is that of orthogonality regularisation, arXiv 1810.09102.
    """
    apart_EN = apart_EN.flatten(1).to(torch.promote_types(apart_EN.dtype, torch.float32))
    num_experts = apart_EN.shape[0]
    # the products of all pairs first, then their norms: no normalised copy of the weights is made
    with exact(apart_EN.device):
        product_EE = apart_EN @ apart_EN.t()
    norm_E = product_EE.diagonal().clamp_min(1e-30).sqrt()
    cos_EE = product_EE / norm_E / norm_E[:, None]
    pairs = cos_EE.square().triu(diagonal=1).sum()
    return pairs / max(1, num_experts * (num_experts - 1) // 2)


def sum_over_ranks(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Returns the sum over the ranks of a group, or of all; a copy without gradient, and of the
    values themselves where there is one process. Every rank must call it as often. The host waits
    for the device only where the backend does."""
    values = values.detach().clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values, group=group)
    return values
