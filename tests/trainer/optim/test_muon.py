"""Muon beside torch's, matrix by matrix, and what is on it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.model.make import make_model
from moescope.trainer.optim.groups import fused_matrices, make_optimizer
from moescope.trainer.optim.muon import Cut, MuonAdamW, orthogonalised

RATE, DECAY, MOMENTUM = 0.02, 0.1, 0.9
BOUND = 5e-4
"""Theirs multiplies in bf16, ours on a processor in fp32: weights after 3 steps of RATE * 0.2 *
sqrt(R), as in facts: model.md section 7."""


def _theirs(matrix: Tensor, gradients: list[Tensor]) -> Tensor:
    """One matrix after torch.optim.Muon's steps."""
    parameter = nn.Parameter(matrix.clone())
    optimizer = torch.optim.Muon(
        [parameter],
        lr=RATE,
        weight_decay=DECAY,
        momentum=MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def _ours(stack: Tensor, gradients: list[Tensor], cut: Cut | None = None) -> Tensor:
    parameter = nn.Parameter(stack.clone())
    group = {
        "params": [parameter],
        "lr": RATE,
        "weight_decay": DECAY,
        "is_muon": True,
        "momentum": MOMENTUM,
    }
    optimizer = MuonAdamW([group], {} if cut is None else {parameter: cut})
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(64, 64), (16, 48), (48, 16), (1, 8)], ids=str)
def test_a_matrix_moves_as_with_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    want, got = _theirs(matrix, gradients), _ours(matrix, gradients)
    assert float((want - got).abs().max()) < BOUND
    # the steps are ten times larger than what they may differ by
    assert float((want - matrix).abs().mean()) > 10 * BOUND


def test_stacked_experts_move_each_by_itself() -> None:
    torch.manual_seed(0)
    stack, gradients = torch.randn(5, 24, 40), [torch.randn(5, 24, 40) for _ in range(3)]
    got = _ours(stack, gradients)
    for expert in range(5):
        want = _theirs(stack[expert], [gradient[expert] for gradient in gradients])
        assert float((want - got[expert]).abs().max()) < BOUND
    together = _theirs(stack.flatten(0, 1), [gradient.flatten(0, 1) for gradient in gradients])
    assert float((together.view_as(stack) - got).abs().max()) > 10 * BOUND


@pytest.mark.parametrize("cut", [Cut(0, (32, 16, 16)), Cut(0, (32, 32))], ids=str)
def test_matrices_that_lie_in_one_are_split_before(cut: Cut) -> None:
    torch.manual_seed(0)
    fused, gradients = torch.randn(64, 32), [torch.randn(64, 32) for _ in range(3)]
    got = _ours(fused, gradients, cut)
    parts = zip(*(t.split(cut.sizes) for t in (fused, got, *gradients)), strict=True)
    for matrix, found, *each in parts:
        assert float((_theirs(matrix, list(each)) - found).abs().max()) < BOUND


def test_gate_and_up_of_all_experts_are_split_along_the_last_dimension() -> None:
    torch.manual_seed(0)
    fused, gradients = torch.randn(3, 24, 40), [torch.randn(3, 24, 40) for _ in range(2)]
    got = _ours(fused, gradients, Cut(2, (20, 20)))
    for half in (slice(0, 20), slice(20, 40)):
        want = _theirs(fused[1, :, half], [gradient[1, :, half] for gradient in gradients])
        assert float((want - got[1, :, half]).abs().max()) < BOUND


def test_singular_values_come_near_to_one() -> None:
    torch.manual_seed(0)
    (found,) = orthogonalised([torch.randn(4, 32, 96)])
    values = torch.linalg.svdvals(found.float())
    # five steps of these coefficients leave them between 0.7 and 1.2 (facts: model.md section 7)
    assert 0.6 < float(values.min()) < float(values.max()) < 1.3


def test_stacks_of_several_shapes_come_back_in_their_order() -> None:
    torch.manual_seed(0)
    stacks = [torch.randn(2, 8, 4), torch.randn(6, 6), torch.randn(8, 4), torch.randn(3, 6, 6)]
    together = orthogonalised(stacks)
    for stack, found in zip(stacks, together, strict=True):
        torch.testing.assert_close(found, orthogonalised([stack])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_a_held_step_changes_nothing_to_the_bit(small: RunConfig, poison: float) -> None:
    config = changed(small, {"optim.optimizer": "muon"})
    model = make_model(config)
    optimizer = make_optimizer(model, config)

    def state() -> list[bytes]:
        moments = [v for entry in optimizer.state.values() for v in entry.values()]
        return [t.detach().numpy().tobytes() for t in [*model.parameters(), *moments]]

    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    before = state()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, poison)
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert state() == before
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    optimizer.step()
    assert all(one != two for one, two in zip(before, state(), strict=True))


def test_hidden_matrices_are_on_muon_and_all_else_is_not(
    small: RunConfig, way: str, ways: dict[str, dict[str, Any]]
) -> None:
    plain = {"optim.is_router_on_muon": False, "optim.is_modulation_on_muon": False}
    config = changed(small, ways[way] | plain | {"optim.optimizer": "muon"})
    model = make_model(config)
    groups = make_optimizer(model, config).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    on_muon = {names[id(p)] for group in groups if group["is_muon"] for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(names)
    for name in on_muon:
        assert "blocks." in name
        assert not any(part in name for part in ("router", "modulation", "bias", "gain", "table"))
    kinds = ("attention.qkv.weight", "attention.out.weight")
    kinds += () if len(config.moe_blocks) == config.model.layers else ("mlp.w_in.weight",)
    kinds += ("mlp.w_in_EDG", "mlp.w_out_EHD") if config.moe_blocks else ()
    assert all(any(name.endswith(kind) for name in on_muon) for kind in kinds)


def test_routers_and_modulations_are_on_muon_where_it_is_asked_for(small: RunConfig) -> None:
    changes = {"optim.is_router_on_muon": True, "optim.is_modulation_on_muon": True}
    config = changed(small, {"optim.optimizer": "muon", **changes})
    model = make_model(config)
    muon, *_ = make_optimizer(model, config).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)] for p in muon["params"]}
    assert {"blocks.1.mlp.router.weight_ED", "blocks.0.modulation.linear.weight"} <= found
    cuts = fused_matrices(model)
    assert cuts[model.blocks[0].modulation.linear.weight] == Cut(0, (32,) * 6)
    assert cuts[model.blocks[0].attention.qkv.weight] == Cut(0, (32, 32, 32))
