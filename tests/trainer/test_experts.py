"""The MoE layer: shared and routed experts, their counts and their gradients."""

import pytest
import torch
from torch import Tensor

from moescope.kernels.compare import relative_error
from moescope.trainer.config import MoeConfig
from moescope.trainer.moe.experts import MoeLayer

# T tokens  D width


def _layer(**changes: float) -> MoeLayer:
    torch.manual_seed(0)
    values: dict[str, float] = {"num_experts": 4, "num_chosen": 2, "num_shared": 1, "hidden": 8}
    return MoeLayer(16, MoeConfig.model_validate({**values, **changes}))


def _by_hand(layer: MoeLayer, x_TD: Tensor) -> Tensor:
    """Every token by itself, in the words of the docstring."""
    rows = []
    routing = layer.router(x_TD)
    for token, x_D in enumerate(x_TD):
        out_D = torch.zeros_like(x_D) if layer.shared is None else layer.shared(x_D)
        for expert, weight in zip(
            routing.chosen_TK[token].tolist(), routing.weight_TK[token], strict=True
        ):
            gate, up = (x_D @ layer.w_in_EDG[expert]).chunk(2)
            out_D = out_D + weight * ((gate * torch.sigmoid(gate) * up) @ layer.w_out_EHD[expert])
        rows.append(out_D)
    return torch.stack(rows)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="usual"),
        pytest.param({"num_shared": 0}, id="no-shared"),
        pytest.param({"num_shared": 2}, id="two-shared"),
        pytest.param({"num_chosen": 4}, id="all-chosen"),
        pytest.param({"routed_scale": 1.0}, id="scale-1"),
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_the_layer_is_the_sum_of_its_shared_and_chosen_experts(changes: dict[str, float]) -> None:
    layer = _layer(**changes)
    x_TD = torch.randn(11, 16, requires_grad=True)
    got_TD, want_TD = layer(x_TD), _by_hand(layer, x_TD)
    assert relative_error("out_TD", want_TD, got_TD) < 1e-5
    names = ["x_TD", *(name for name, _ in layer.named_parameters())]
    inputs = [x_TD, *layer.parameters()]
    upstream_TD = torch.randn_like(want_TD)
    want = torch.autograd.grad(want_TD, inputs, upstream_TD, retain_graph=True)
    got = torch.autograd.grad(got_TD, inputs, upstream_TD)
    for name, want_grad, got_grad in zip(names, want, got, strict=True):
        assert relative_error(f"d_{name}", want_grad, got_grad) < 1e-4


def test_counts_are_of_the_last_forward_and_no_state() -> None:
    layer = _layer()
    layer(torch.randn(10, 16))
    assert int(layer.counts_E.sum()) == 20
    layer(torch.randn(3, 16))
    assert int(layer.counts_E.sum()) == 6
    assert "counts_E" not in layer.state_dict()


def test_the_router_learns_through_the_weights() -> None:
    layer = _layer()
    layer(torch.randn(10, 16)).square().mean().backward()
    assert layer.router.weight_ED.grad is not None
    assert float(layer.router.weight_ED.grad.norm()) > 0
