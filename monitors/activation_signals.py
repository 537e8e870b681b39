"""Statistics of activations and routers as device tensors: pure, no host sync, few passes.

B batch  S stream tokens  D width  T tokens (B*S)  E experts
"""

import torch
from torch import Tensor

MOST_TOKENS = 256
"""Tokens whose tail is looked at: a channel of extreme values is in all of them."""
MOST_ROUTER_TOKENS = 4096
"""Tokens whose router entropy is averaged: its standard error is below 1% of ln E then, at a fixed
cost."""


def rms_and_absmax(x: Tensor) -> Tensor:
    """Returns (2,): root mean square and largest magnitude of all elements, fp32, in two passes
    over x and no copy.

    rms = ||x||_2 / sqrt(n), absmax = ||x||_inf. Exact, never subsampled: an outlier is what is
    looked for.
    """
    flat = x.detach()
    rms = torch.linalg.vector_norm(flat, dtype=torch.float32) * flat.numel() ** -0.5
    if flat.is_floating_point() and flat.device.type == "cpu":
        # aminmax reads once; vector_norm(inf) takes several times as long on a CPU
        low, high = torch.aminmax(flat)
        return torch.stack((rms, torch.maximum(high, -low).float()))
    return torch.stack((rms, torch.linalg.vector_norm(flat, ord=torch.inf).float()))


def some_tokens(x: Tensor) -> Tensor:
    """Returns of (T, D) or (B, S, D) every n-th token of each sample, at most about MOST_TOKENS in
    all, as a view: of a part of a stream nothing is copied."""
    return x.detach()[..., :: max(1, x.shape[:-1].numel() // MOST_TOKENS), :]


def kurtosis(x: Tensor) -> Tensor:
    """mean(x^4) / mean(x^2)^2, about zero, of `some_tokens` of x as a scalar, fp32; 3 is Gaussian,
    0 where all is 0. Source: facts, health.md section 4, 15.
    """
    square = some_tokens(x).float().square()
    # shares of the sum: a fourth power overflows fp32 from 1e9 on
    share = square / square.sum().clamp_min(1e-30)
    moment: Tensor = torch.linalg.vector_norm(share).square() * share.numel()
    return moment


def shape_of_tail(x: Tensor) -> Tensor:
    """Returns (2,) fp32 of `some_tokens` of x: kurtosis, and the share of elements beyond half of
    what the dtype can hold.

    fp32 counts as bf16, whose range it has. Source: facts, health.md section 4, 14 and 15.
    """
    limit = 0.5 * min(torch.finfo(x.dtype).max, torch.finfo(torch.bfloat16).max)
    magnitude = some_tokens(x).abs()
    saturated = torch.count_nonzero(magnitude > limit) / magnitude.numel()
    return torch.stack((kurtosis(x), saturated))


def sampled_tokens(values_TE: Tensor) -> Tensor:
    """Returns (R, T', E) fp32: of (T, E) or (R, T, E) an evenly spaced part of the tokens, about
    MOST_ROUTER_TOKENS where there are more."""
    stride = max(1, values_TE.shape[-2] // MOST_ROUTER_TOKENS)
    values = values_TE.detach()[..., ::stride, :].float()
    return values if values.dim() == 3 else values[None]


def router_entropy_nats(score_RTE: Tensor) -> Tensor:
    """Mean over tokens of the entropy of the normalised scores, (R,) fp32, in nats.

    p = s / sum_e s;  H_t = -sum_e p ln p = ln(sum_e s) - sum_e s ln s / sum_e s. Scores are >= 0
    (sigmoid or softmax). Source: facts, health.md section 4, 8.
    """
    total_RT = score_RTE.sum(dim=-1).clamp_min(1e-30)
    dot_RT = torch.special.xlogy(score_RTE, score_RTE).sum(dim=-1)
    entropy_RT: Tensor = total_RT.log() - dot_RT / total_RT
    return entropy_RT.mean(dim=-1)


def router_balance(score_RTE: Tensor, tokens_RE: Tensor) -> Tensor:
    """The auxiliary balance loss without its weight, (R,) fp32: E * sum_e f_e P_e.

    f: an expert's share of the routed tokens. P: mean over tokens of its normalised score. 1 where
    either is uniform, up to E where one expert has all of both. Source: facts: model.md section 4.
    """
    num_experts = tokens_RE.shape[-1]
    share_RE = tokens_RE / tokens_RE.sum(dim=-1, keepdim=True).clamp_min(1)
    normal_RTE = score_RTE / score_RTE.sum(dim=-1, keepdim=True).clamp_min(1e-30)
    return num_experts * (share_RE * normal_RTE.mean(dim=1)).sum(dim=-1)


def router_z(logit_RTE: Tensor) -> Tensor:
    """Mean over tokens of logsumexp(logits)^2, (R,) fp32. Source: ST-MoE's z-loss, facts: model.md
    section 4."""
    return torch.logsumexp(logit_RTE, dim=-1).square().mean(dim=-1)


def router_margin(logit_RTE: Tensor) -> Tensor:
    """Returns (R, 2) fp32: the mean over tokens of the highest logit less the second, and the
    largest magnitude of a logit; the margin is 0 with a single expert. Source: facts, health.md
    section 4, 12."""
    absmax_R = logit_RTE.abs().amax(dim=(-2, -1))
    if logit_RTE.shape[-1] < 2:
        return torch.stack((torch.zeros_like(absmax_R), absmax_R), dim=-1)
    best_RT2 = logit_RTE.topk(2, dim=-1).values
    return torch.stack(((best_RT2[..., 0] - best_RT2[..., 1]).mean(-1), absmax_R), dim=-1)


def mutual_information_nats(score_RTE: Tensor) -> Tensor:
    """I(token; expert) = H(mean_t p) - mean_t H(p), (R,) fp32 in nats, p = s / sum_e s.

    0 where the router ignores the token, ln E where each token is certain of its own expert and all
    experts are used. Source: facts, health.md section 4, 8.
    """
    normal_RTE = score_RTE / score_RTE.sum(dim=-1, keepdim=True).clamp_min(1e-30)
    mean_RE = normal_RTE.mean(dim=-2)
    of_mean_R: Tensor = -torch.special.xlogy(mean_RE, mean_RE).sum(dim=-1)
    # the difference of two entropies that are equal may round to below 0
    return (of_mean_R - router_entropy_nats(score_RTE)).clamp_min(0.0)
