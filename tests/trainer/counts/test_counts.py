"""Counts from the configuration equal those of the built module."""

import pytest
import torch

from moescope.platform.frozen import changed
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.model.make import make_model
from moescope.trainer.recipes.by_name import recipe


@pytest.mark.parametrize("name", ["tiny", "tiny_dense"])
@pytest.mark.parametrize("changes", [{}, {"model.width": 192, "model.layers": 5, "moe.hidden": 96}])
def test_the_count_equals_the_built_module(name: str, changes: dict[str, int]) -> None:
    if name == "tiny_dense":
        changes = {key: value for key, value in changes.items() if not key.startswith("moe.")}
    config = changed(recipe(name), changes)
    with torch.device("meta"):
        model = make_model(config)
    count = count_parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    assert sum(count.parts.values()) == count.total


def test_active_leaves_out_the_experts_that_a_token_does_not_see() -> None:
    config = recipe("tiny")
    count = count_parameters(config)
    m, e = config.model, config.moe
    assert count.total - count.active == 3 * (e.num_experts - e.num_chosen) * 3 * m.width * e.hidden
    assert 2e6 <= count.total <= 4e6
    dense = count_parameters(recipe("tiny_dense"))
    assert dense.active == dense.total
