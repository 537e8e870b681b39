"""A step in several micro-batches: the gradients, losses and counts of the batch in one piece."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from moescope.kernels.compare import relative_error
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.compute.gradients import StepLosses, step_gradients, step_losses
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batch, Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.latents import seen
from moescope.trainer.model.noise_experts import NoiseExperts
from moescope.trainer.moe.steps import ExpertSteps
from moescope.trainer.objective.timesteps import draw

Awake = Callable[[RunConfig], nn.Module]
# these see a whole micro-batch: their losses are another function of the parts
OF_A_BATCH = {"moe.balance_weight": 0.0}


def _batch(config: RunConfig) -> Batch:
    with Batches(find_clips(config.data.folder), config.data, 0, ahead=0) as batches:
        batch = seen(batches.get(0), config, torch.device("cpu"))
    # sound in three of four clips: the parts have one and two
    silent_B = torch.tensor([True, False, True, True][: len(batch.names)])
    return replace(batch, has_sound_B=batch.has_sound_B & silent_B)


def _step(model: nn.Module, config: RunConfig) -> tuple[StepLosses, list[torch.Tensor]]:
    batch, experts = _batch(config), ExpertSteps(model, config.moe)
    model.zero_grad()
    drawn = draw(config, 0, batch)
    found = step_gradients(model, batch, drawn, config, experts, lambda _: nullcontext())
    return found, [layer.tally.counts_RE for layer in experts.layers]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("num", [2, 4])
def test_the_parts_gradients_add_up_to_those_of_the_batch(
    small: RunConfig, way: str, ways: dict[str, dict[str, Any]], num: int, awake: Awake
) -> None:
    one = {**ways[way], **OF_A_BATCH, "compute.num_micro_batches": 1}
    if one.get("moe.router") == "batch_choice":
        one["moe.router"] = "expert_choice"
    config = changed(small, one)
    model = awake(config)
    # bf16 rounds products, and the sums of micro-batches, to 2^-9
    bound = 1e-2 if config.compute.precision == "bf16" else 1e-4
    want, want_counts = _step(model, config)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    got, counts = _step(model, changed(config, {"compute.num_micro_batches": num}))
    losses_MB = want.losses.per_sample_MB
    assert relative_error("losses", losses_MB, got.losses.per_sample_MB) < bound / 10
    assert relative_error("total", want.objective, got.objective) < bound / 10
    assert all(torch.equal(*pair) for pair in zip(want_counts, counts, strict=True))
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert parameter.grad is not None, name
            # where parts cancel, rounding is measured against what cancelled
            assert relative_error(name, gradients[name], parameter.grad) < bound, name


def test_a_step_that_is_looked_at_beforehand_has_the_losses_of_the_step(
    small: RunConfig, awake: Awake
) -> None:
    config = changed(small, {"compute.num_micro_batches": 2})
    model, batch = awake(config), _batch(config)
    drawn = draw(config, 0, batch)
    looked = step_losses(model, batch, drawn, config)
    trained, _ = _step(model, config)
    assert torch.equal(looked.per_sample_MB, trained.losses.per_sample_MB)
    assert torch.equal(looked.total, trained.losses.total)
    assert looked.total.grad_fn is None


def test_how_noise_experts_shared_out_a_step_is_told_of_the_whole_batch(
    small: RunConfig, awake: Awake
) -> None:
    changes = {
        "noise_experts.num_experts": 2,
        "noise_experts.boundaries": [0.7],
        "noise_experts.transition": 0.15,
    }
    noted = []
    for num in (1, 4):
        config = changed(small, changes | {"compute.num_micro_batches": num})
        model = awake(config)
        assert isinstance(model, NoiseExperts)
        _step(model, config)
        assert model.noted is not None
        noted.append(model.noted)
    assert torch.equal(noted[0].weight_XB, noted[1].weight_XB)
    assert noted[1].weight_XB.shape == (2, small.data.batch)


def test_only_the_last_part_of_a_sampled_step_is_watched(small: RunConfig, awake: Awake) -> None:
    config = changed(small, {"compute.num_micro_batches": 4})
    model, batch = awake(config), _batch(config)
    asked: list[bool] = []

    def watching(is_last: bool) -> Any:
        asked.append(is_last)
        return nullcontext()

    experts = ExpertSteps(model, config.moe)
    step_gradients(model, batch, draw(config, 0, batch), config, experts, watching)
    assert asked == [False, False, False, True]


def test_a_batch_that_cannot_be_parted_is_refused_with_the_way_out(small: RunConfig) -> None:
    with pytest.raises(MoescopeError, match=r"data\.batch is 4.* multiple of 3: use 3 or 6"):
        changed(small, {"compute.num_micro_batches": 3})
