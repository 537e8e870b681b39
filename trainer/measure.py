"""What a training step measures: the step tier of every step and, on sampled steps, the taps; one
packed copy each.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..monitors.collect import Packed
from ..monitors.taps import Taps
from ..platform import catalogue
from .config import RunConfig
from .model.make import watched_blocks
from .moe.steps import moe_layers
from .objective.flow import Losses
from .objective.timesteps import Draw
from .step_record import Values, scalar


class Measure:
    """Writes device tensors into one buffer; nothing here waits for the device but `read` and
    `vetted`."""

    def __init__(self, model: nn.Module, config: RunConfig, device: torch.device) -> None:
        self._layers = moe_layers(model)
        num_experts = config.moe.num_experts
        # a layer of several routers (heads) has a row for each
        num_rows = sum(len(layer.tally.counts_RE) for layer in self._layers)
        samples = (len(catalogue.MODALITIES), config.data.batch)
        layout: dict[str, tuple[int, ...]] = {
            catalogue.LOSS_TOTAL: (),
            catalogue.LOSS_PER_SAMPLE: samples,
            catalogue.LOSS_SIGMA: samples,
            catalogue.GRAD_NORM: (),
            catalogue.GUARD_HELD: (),
        }
        if config.moe.has_loss and num_rows:
            layout[catalogue.LOSS_EXPERTS] = ()
        if num_rows:
            layout[catalogue.EXPERT_TOKENS] = (num_rows, num_experts)
        self._step = Packed(layout, device)
        self._taps = Taps(
            watched_blocks(model),
            [layer.router for layer in self._layers],
            num_experts=num_experts,
            num_rows=[len(layer.tally.counts_RE) for layer in self._layers],
            device=device,
        )

    def watching(self, is_sampled: bool) -> AbstractContextManager[None]:
        """The context of a forward pass; hooks are attached only on a sampled step."""
        return self._taps.watching() if is_sampled else nullcontext()

    @torch.no_grad()
    def take(
        self,
        losses: Losses,
        extra: Tensor | None,
        drawn: Draw,
        grad_norm: Tensor,
        held: Tensor,
        is_sampled: bool,
    ) -> None:
        """Packs a step's measurements and starts their copy to the host. extra: the loss of the
        layers of experts, where they have one."""
        packed = self._step
        packed[catalogue.LOSS_TOTAL].copy_(losses.total)
        packed[catalogue.LOSS_PER_SAMPLE].copy_(losses.per_sample_MB)
        packed[catalogue.LOSS_SIGMA].copy_(drawn.sigma_MB)
        packed[catalogue.GRAD_NORM].copy_(grad_norm)
        packed[catalogue.GUARD_HELD].copy_(held)
        if self._layers:
            tokens_RE = [layer.tally.counts_RE for layer in self._layers]
            packed[catalogue.EXPERT_TOKENS].copy_(torch.cat(tokens_RE))
        if extra is not None:
            packed[catalogue.LOSS_EXPERTS].copy_(extra)
        packed.send()
        if is_sampled:
            self._taps.send()

    def read(self, is_sampled: bool) -> Values:
        """Returns the oldest step that was taken and not yet read, under catalogue names."""
        values = self._step.read()
        per_sample = values[catalogue.LOSS_PER_SAMPLE]
        values[catalogue.LOSS_VIDEO] = scalar(per_sample[0].mean())
        # a clip without sound has an audio loss of exactly 0 and is not in the mean
        with_sound = per_sample[1][per_sample[1] != 0]
        values[catalogue.LOSS_AUDIO] = scalar(with_sound.mean() if with_sound.size else 0.0)
        if is_sampled:
            values |= self._taps.read()
        return values

    def forget(self) -> None:
        """Drops what was taken and not read: it belongs to a branch that is being abandoned."""
        self._step.drop()
        self._taps.drop()

    @staticmethod
    def vetted(losses: Losses, drawn: Draw) -> Mapping[str, NDArray[np.float32]]:
        """Returns what the judge needs to vet a batch; waits for the device."""
        return {
            catalogue.LOSS_PER_SAMPLE: losses.per_sample_MB.float().cpu().numpy(),
            catalogue.LOSS_SIGMA: drawn.sigma_MB.float().cpu().numpy(),
        }
