"""The slow tier: the loss of a fixed batch of held-out clips, with fixed noise and fixed noise
levels, and how alike the experts are on it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...platform import catalogue
from ..config import RunConfig
from ..data.batches import Batch, Batches
from ..data.latents import seen
from ..moe.similarity import ExpertSimilarity
from ..step_record import Values, scalar
from .evaluate import ProbePass, probe, probe_passes


class Probe:
    """Measures the same thing every time, so that a change is the model's and not the data's.

    The batch is decoded at the first measurement and kept: the files may change or go away
    afterwards.
    """

    def __init__(self, config: RunConfig, batches: Batches, device: torch.device) -> None:
        self._config = config
        self._batches = batches
        self._device = device
        self._fixed: tuple[Batch, list[ProbePass]] | None = None

    def is_due(self, step: int) -> bool:
        every = self._config.watch.probe_every
        return bool(every) and step % every == 0

    def measure(self, model: nn.Module) -> Values:
        """Returns the probe's catalogue signals; waits for the device. Changes nothing that
        computes."""
        if self._fixed is None:
            batch = self._batches.validation_batch(self._config.watch.num_probe_clips)
            batch = seen(batch, self._config, self._device)
            self._fixed = batch, probe_passes(self._config, batch)
        similarity = ExpertSimilarity(model)
        with similarity.watching():
            losses = probe(model, *self._fixed, self._config)
        values: dict[str, NDArray[np.float32]] = {
            catalogue.PROBE_LOSS: scalar(losses.total),
            catalogue.PROBE_LOSS_BIN: losses.total_Q.astype(np.float32),
        }
        weights_M, answers_M = similarity.read()
        if weights_M.size:
            values[catalogue.EXPERT_WEIGHT_COSINE] = weights_M
            values[catalogue.EXPERT_OUTPUT_COSINE] = answers_M
        return values
