"""The optimizer: what decays, and that a held step changes nothing at all."""

import pytest
import torch
from torch import Tensor, nn

from moescope.trainer.config import RunConfig
from moescope.trainer.model.make import make_model
from moescope.trainer.optim.groups import make_optimizer


def _state_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[Tensor]:
    moments = [
        value.clone()
        for parameter in model.parameters()
        for value in optimizer.state.get(parameter, {}).values()
    ]
    return [p.detach().clone() for p in model.parameters()] + moments


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_a_held_step_changes_neither_weights_nor_moments_nor_counters(
    small: RunConfig, poison: float
) -> None:
    model = make_model(small)
    optimizer = make_optimizer(model, small)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    before = _state_of(optimizer, model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, poison)
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    after = _state_of(optimizer, model)
    assert len(before) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_step_that_is_let_through_is_a_usual_step(small: RunConfig) -> None:
    results = []
    for is_guarded in (False, True):
        model = make_model(small)
        optimizer = make_optimizer(model, small)
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        if is_guarded:
            optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
        optimizer.step()
        results.append(_state_of(optimizer, model))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_every_parameter_is_optimised_once(small: RunConfig) -> None:
    model = make_model(small)
    groups = make_optimizer(model, small).param_groups
    optimised = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(optimised) == sorted(id(parameter) for parameter in model.parameters())


def test_matrices_decay_but_routers_embeddings_and_biases_do_not(small: RunConfig) -> None:
    model = make_model(small)
    decays, keeps = make_optimizer(model, small).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(parameter)] for parameter in decays["params"]}
    keeping = {names[id(parameter)] for parameter in keeps["params"]}
    assert decays["weight_decay"] == small.optim.weight_decay
    assert keeps["weight_decay"] == 0.0
    assert {"blocks.0.attention.qkv.weight", "blocks.1.mlp.w_in_EDG"} <= decaying
    assert {
        "blocks.1.mlp.router.weight_ED",
        "text_in.byte.weight",
        "text_in.gram.weight",
        "blocks.0.attention.qkv.bias",
        "blocks.0.attention.query_gain",
    } <= keeping
