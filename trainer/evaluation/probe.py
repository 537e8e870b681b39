"""The slow tier: the loss of a fixed batch of held-out clips, with fixed noise and fixed noise
levels, how alike the experts are on it and where its tokens go.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...monitors.step_record import Values, scalar
from ...platform import catalogue
from ..config import RunConfig
from ..data.batches import Batch, Batches
from ..data.latents import seen
from ..moe.similarity import ExpertSimilarity
from .evaluate import NUM_BINS, ProbePass, probe, probe_passes
from .routing_probe import RoutingProbe, saturation
from .token_traits import Trait, timestep_trait, token_traits


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
        self._traits: dict[str, Trait] = {}
        # step of a probe, and where its tokens went
        self._routings: list[tuple[int, NDArray[np.bool_]]] = []

    def is_due(self, step: int) -> bool:
        every = self._config.watch.probe_every
        return bool(every) and step % every == 0

    def measure(self, model: nn.Module, step: int, saved_step: int | None) -> Values:
        """Returns the probe's catalogue signals; waits for the device. Changes nothing that
        computes.

        saved_step: of the newest checkpoint on disk; the routing is compared with that of the last
        probe that is no younger.
        """
        if self._fixed is None:
            batch = self._batches.validation_batch(self._config.watch.num_probe_clips)
            batch = seen(batch, self._config, self._device)
            self._fixed = batch, probe_passes(self._config, batch)
            self._traits = token_traits(batch, self._config)
        batch, passes = self._fixed
        similarity = ExpertSimilarity(model)
        routing = RoutingProbe(model, len(batch.names))

        @contextmanager
        def watching(drawn: ProbePass) -> Iterator[None]:
            by_timestep = timestep_trait(drawn.bin_MB, self._config, NUM_BINS)
            traits = {**self._traits, catalogue.ROUTING_BY_TIMESTEP: by_timestep}
            with routing.watching(traits):
                yield

        with similarity.watching():
            losses = probe(model, batch, passes, self._config, watching)
        values: dict[str, NDArray[np.float32]] = {
            catalogue.PROBE_LOSS: scalar(losses.total),
            catalogue.PROBE_LOSS_BIN: losses.total_Q.astype(np.float32),
        }
        weights_M, answers_M = similarity.read()
        if weights_M.size:
            values[catalogue.EXPERT_WEIGHT_COSINE] = weights_M
            values[catalogue.EXPERT_OUTPUT_COSINE] = answers_M
        found, kept_MTE = routing.read()
        values |= found
        if kept_MTE.size:
            values |= self._saturation(kept_MTE, step, saved_step)
        return values

    def _saturation(
        self, now_MTE: NDArray[np.bool_], step: int, saved_step: int | None
    ) -> dict[str, NDArray[np.float32]]:
        """Compares with the routing at the last checkpoint, and forgets what no later probe will
        ask for: what is older, and what a rollback has abandoned."""
        before = [(s, kept) for s, kept in self._routings if s < step]
        old = [(s, kept) for s, kept in before if saved_step is not None and s <= saved_step]
        self._routings = [*old[-1:], *before[len(old) :], (step, now_MTE)]
        if not old or old[-1][1].shape != now_MTE.shape:
            return {}
        return {catalogue.ROUTING_SATURATION: saturation(now_MTE, old[-1][1])}
