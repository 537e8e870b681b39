"""What a router that nobody knows answered: its logits, its scores and how many tokens each expert
got, read on the device and without waiting for it.

T tokens  E experts  K chosen experts
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Scores = Literal["softmax", "sigmoid"]


class Answer(NamedTuple):
    """As kernels' `Routing`, as far as it is measured."""

    counts_E: Tensor
    """(E,) fp32: tokens sent to each expert."""
    score_TE: Tensor
    logit_TE: Tensor


def counted(output: Any, num_experts: int, num_chosen: int) -> Tensor | None:
    """Returns how many tokens each expert got, (E,) fp32: of the indices that the router answered
    with, of its whole numbers for each expert (a mask), else of the `num_chosen` largest of its
    logits. None where it answered with none of them."""
    counts = getattr(output, "counts_E", None)
    if isinstance(counts, Tensor):
        return counts.float()
    chosen = _chosen(output, num_experts)
    if chosen is not None and chosen.shape[-1] == num_experts != num_chosen:
        # not a number for each chosen expert but for each one: how many tokens it got, or a mask
        if chosen.dim() == 1:
            return chosen.detach().float()
        return (chosen.detach().reshape(-1, num_experts) > 0).float().sum(dim=0)
    if chosen is None:
        logit_TE = _logits(output, num_experts)
        if logit_TE is None:
            return None
        chosen = logit_TE.topk(min(num_chosen, num_experts), dim=-1).indices
    return _count(chosen, num_experts)


def read_answer(
    module: nn.Module,
    args: tuple[Any, ...],
    output: Any,
    *,
    num_experts: int,
    num_chosen: int,
    scores: Scores,
) -> Answer | None:
    """Reads logits, scores and counts; None where there is nothing to read.

    Rows that are probabilities already (not negative, sum 1) are taken as they are. A router that
    answers without logits, but has a matrix (E, D), is asked again by `args[0] @ matrix.T`.
    """
    if isinstance(getattr(output, "score_TE", None), Tensor):
        return Answer(output.counts_E.float(), output.score_TE, output.logit_TE)
    logit_TE = _logits(output, num_experts)
    if logit_TE is None:
        logit_TE = _asked_again(module, args, num_experts)
    if logit_TE is None:
        return None
    logit_TE = logit_TE.detach().float()
    raw_TE = torch.sigmoid(logit_TE) if scores == "sigmoid" else torch.softmax(logit_TE, dim=-1)
    is_sum_one = ((logit_TE.sum(dim=-1) - 1.0).abs() < 1e-2).all()
    is_probability = (logit_TE.amin() >= 0) & is_sum_one
    score_TE = torch.where(is_probability, logit_TE, raw_TE)
    logit_TE = torch.where(is_probability, logit_TE.clamp_min(1e-12).log(), logit_TE)
    counts_E = counted(output, num_experts, num_chosen)
    if counts_E is None:
        counts_E = _count(logit_TE.topk(min(num_chosen, num_experts), -1).indices, num_experts)
    return Answer(counts_E, score_TE, logit_TE)


def tensors_of(output: Any) -> Iterator[Tensor]:
    """All tensors of an answer, in its order: of tuples, lists and mappings, a level deep each."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors_of(value)


def _logits(output: Any, num_experts: int) -> Tensor | None:
    for tensor in tensors_of(output):
        if tensor.is_floating_point() and tensor.dim() and tensor.shape[-1] == num_experts:
            return tensor.reshape(-1, num_experts)
    return None


def _chosen(output: Any, num_experts: int) -> Tensor | None:
    for tensor in tensors_of(output):
        is_index = tensor.dtype in (torch.int64, torch.int32) and tensor.dim() >= 1
        if is_index and tensor.shape[-1] <= num_experts:
            return tensor
    return None


def _count(chosen: Tensor, num_experts: int) -> Tensor:
    # one place more: a dropped token is sent to an expert that is not there, -1 or E
    place = chosen.detach().reshape(-1).long()
    place = place.where(place >= 0, num_experts).clamp_max(num_experts)
    counts = torch.zeros(num_experts + 1, device=place.device)
    counts.scatter_add_(0, place, torch.ones_like(place, dtype=torch.float32))
    return counts[:num_experts]


def _asked_again(module: nn.Module, args: tuple[Any, ...], num_experts: int) -> Tensor | None:
    x = next(tensors_of(args), None)
    if x is None:
        return None
    shape = (num_experts, x.shape[-1])
    matrix = next((p for p in module.parameters(recurse=False) if p.shape == shape), None)
    if matrix is None:
        return None
    x_TD = x.detach().reshape(-1, x.shape[-1])
    return F.linear(x_TD.float(), matrix.detach().float())
