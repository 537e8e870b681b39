"""What a step measures of all its micro-batches together."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.trainer.compute.gradients import step_gradients
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.latents import seen
from moescope.trainer.measure import Measure
from moescope.trainer.model.make import make_model
from moescope.trainer.moe.steps import ExpertSteps, moe_layers
from moescope.trainer.objective.timesteps import draw

CPU = torch.device("cpu")


@pytest.mark.usefixtures("one_thread")
def test_the_violations_of_a_step_are_those_of_its_micro_batches_together(
    small: RunConfig,
) -> None:
    config = changed(small, {"compute.num_micro_batches": 2, "moe.every": 1})
    torch.manual_seed(0)
    model = make_model(config)
    experts, measure = ExpertSteps(model, config.moe), Measure(model, config, CPU)
    counts_LNE = defaultdict(list)
    for index, layer in enumerate(moe_layers(model)):

        def note(module: nn.Module, args: Any, routing: Any, index: int = index) -> None:
            counts_LNE[index].append(routing.counts_E.numpy().copy())

        layer.router.register_forward_hook(note)
    with Batches(find_clips(config.data.folder), config.data, 0, ahead=0) as batches:
        batch = seen(batches.get(1), config, CPU)
    drawn, none = draw(config, 0, batch), torch.zeros(())
    found = step_gradients(model, batch, drawn, config, experts, measure.watching)
    measure.take(found.losses, found.extra, drawn, none, none, is_sampled=True)
    values = measure.read(is_sampled=True)
    assert [len(counts) for counts in counts_LNE.values()] == [2, 2]
    for layer, counts in counts_LNE.items():
        load_E = sum(counts) / np.mean(sum(counts))
        want = {
            catalogue.GLOBAL_MAX_VIOLATION: load_E.max() - 1,
            catalogue.GLOBAL_MIN_VIOLATION: 1 - load_E.min(),
            catalogue.GLOBAL_AVG_VIOLATION: np.abs(load_E - 1).mean(),
        }
        # no two are alike, so that none can stand in another's place
        assert np.diff(sorted(want.values())).min() > 1e-3
        for signal, number in want.items():
            assert values[signal][layer] == pytest.approx(number, rel=1e-5), signal
        # the taps see the last micro-batch alone
        last_E = counts[-1] / counts[-1].mean()
        assert values[catalogue.MAX_VIOLATION][layer] == pytest.approx(last_E.max() - 1, rel=1e-5)
        assert (
            values[catalogue.MAX_VIOLATION][layer] != values[catalogue.GLOBAL_MAX_VIOLATION][layer]
        )
