"""The losses and the gradients of an optimizer step's batch, one micro-batch after the other."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..data.batches import Batch
from ..model.noise_experts import NoiseExperts, Noted, joined
from ..moe.steps import ExpertSteps
from ..objective.flow import Losses, flow_losses
from ..objective.timesteps import Draw


class StepLosses(NamedTuple):
    """What a step's forwards found; without gradients."""

    losses: Losses
    """Of the whole batch, whatever the number of micro-batches."""
    extra: Tensor | None
    """The mean over micro-batches of what the layers of experts add, or None."""
    forward_s: float
    backward_s: float

    @property
    def objective(self) -> Tensor:
        """The scalar that the gradients are of."""
        total = self.losses.total
        return total if self.extra is None else total + self.extra


def step_gradients(
    model: nn.Module,
    batch: Batch,
    drawn: Draw,
    config: RunConfig,
    experts: ExpertSteps,
    watching: Callable[[bool], AbstractContextManager[None]],
) -> StepLosses:
    """Adds the batch's gradients to the parameters', and counts anew what goes to which expert.

    The gradients of compute.num_micro_batches parts add up to those of the batch in one piece:
    denominators are the whole batch's, that of sound the number of its clips with sound. What the
    experts add is a mean over the parts. watching(True) is opened around the last forward, and its
    repetition where blocks are recomputed, so that a sampled step shows one micro-batch;
    watching(False) around the others.
    """
    experts.start()
    found: list[Losses] = []
    extras: list[Tensor] = []
    noted: list[Noted] = []
    forward_s = backward_s = 0.0
    num = config.compute.num_micro_batches
    for index, (part, part_drawn) in enumerate(_parts(batch, drawn, num)):
        start_s = time.perf_counter()
        with ExitStack() as watched:
            watched.enter_context(watching(index == num - 1))
            losses = flow_losses(model, part, part_drawn, config, whole=batch)
            extra = experts.loss()
            objective = losses.total
            if extra is not None:
                extra = extra / num
                objective = objective + extra
                extras.append(extra.detach())
            middle_s = time.perf_counter()
            if not config.compute.are_blocks_recomputed:
                # else the repetition is watched, too: without hooks another compiled graph would
                # run in it, which saves other tensors
                watched.close()
            objective.backward()
        forward_s += middle_s - start_s
        backward_s += time.perf_counter() - middle_s
        found.append(Losses(*(loss.detach() for loss in losses)))
        if isinstance(model, NoiseExperts) and model.noted is not None:
            noted.append(model.noted)
    if isinstance(model, NoiseExperts):
        model.noted = joined(noted)
    extra = torch.stack(extras).sum() if extras else None
    return StepLosses(_joined(found), extra, forward_s, backward_s)


@torch.no_grad()
def step_losses(model: nn.Module, batch: Batch, drawn: Draw, config: RunConfig) -> Losses:
    """Returns the losses of the batch in the same parts, without gradients."""
    parts = _parts(batch, drawn, config.compute.num_micro_batches)
    return _joined([flow_losses(model, *part, config, whole=batch) for part in parts])


def _parts(batch: Batch, drawn: Draw, num: int) -> Iterator[tuple[Batch, Draw]]:
    if num == 1:
        yield batch, drawn
        return
    size = len(batch.names) // num
    for first in range(0, size * num, size):
        rows = slice(first, first + size)
        yield batch.rows(rows), drawn.rows(rows)


def _joined(parts: list[Losses]) -> Losses:
    if len(parts) == 1:
        return parts[0]
    per_sample_MB = torch.cat([part.per_sample_MB for part in parts], dim=1)
    return Losses(per_sample_MB, torch.stack([part.total for part in parts]).sum())
