"""Blocks that are computed again in the backward pass: the same to the bit, and less is kept."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from moescope.platform.frozen import changed
from moescope.trainer.compute.gradients import step_gradients
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.latents import seen
from moescope.trainer.measure import Measure
from moescope.trainer.moe.expert_choice import BatchChoiceRouter
from moescope.trainer.moe.steps import ExpertSteps
from moescope.trainer.objective.flow import flow_losses
from moescope.trainer.objective.timesteps import draw

Awake = Callable[[RunConfig], nn.Module]
Found = dict[str, torch.Tensor]


def _step(config: RunConfig, model: nn.Module) -> tuple[Found, dict[str, Any]]:
    """Returns all that a sampled step leaves on the device, and what it measured."""
    with Batches(find_clips(config.data.folder), config.data, 0, ahead=0) as batches:
        batch = seen(batches.get(0), config, torch.device("cpu"))
    drawn, experts = draw(config, 0, batch), ExpertSteps(model, config.moe)
    measure = Measure(model, config, torch.device("cpu"))
    found = step_gradients(model, batch, drawn, config, experts, measure.watching)
    measure.take(
        found.losses, found.extra, drawn, torch.zeros(()), torch.zeros(()), is_sampled=True
    )
    values = measure.read(is_sampled=True)
    experts.end(torch.ones(()))
    tensors = {"objective": found.objective, **dict(model.named_buffers())}
    tensors |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for index, layer in enumerate(experts.layers):
        tensors[f"counts.{index}"] = layer.tally.counts_RE
        assert layer.tally.loss() is None
        if isinstance(layer.router, BatchChoiceRouter):
            assert layer.router.predictor_loss is None
    return tensors, values


@pytest.mark.usefixtures("one_thread")
def test_losses_gradients_counts_and_signals_are_the_same_to_the_bit(
    small: RunConfig, way: str, ways: dict[str, dict[str, Any]], awake: Awake
) -> None:
    configs = [
        changed(small, ways[way] | {"compute.are_blocks_recomputed": is_recomputed})
        for is_recomputed in (False, True)
    ]
    kept, again = (_step(config, awake(config)) for config in configs)
    for want, got in zip(kept, again, strict=True):
        assert want.keys() == got.keys()
        for name in want:
            # a noise expert without a sample has no loss of its own yet: NaN on both sides
            assert np.array_equal(np.asarray(want[name]), np.asarray(got[name]), equal_nan=True), (
                name
            )


def test_what_is_kept_for_the_way_back_shrinks(small: RunConfig, awake: Awake) -> None:
    kept = []
    for is_recomputed in (False, True):
        config = changed(small, {"model.layers": 8, "compute.are_blocks_recomputed": is_recomputed})
        model = awake(config)
        with Batches(find_clips(config.data.folder), config.data, 0, ahead=0) as batches:
            batch = batches.get(0)
        storages: dict[int, int] = {}

        def note(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        for parameter in model.parameters():
            storages[parameter.untyped_storage().data_ptr()] = 0
        with saved_tensors_hooks(note, lambda tensor: tensor), nullcontext():
            losses = flow_losses(model, batch, draw(config, 0, batch), config)
        kept.append(sum(storages.values()))
        assert losses.total.grad_fn is not None
    # eight blocks of some fifteen tensors each, against one tensor each
    assert kept[1] < kept[0] / 3
