"""The MoE layer: shared and routed experts, their counts and their gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moescope.kernels.compare import relative_error
from moescope.kernels.routing.reference import Routing
from moescope.trainer.config import MoeConfig
from moescope.trainer.moe.experts import MoeLayer
from moescope.trainer.moe.make import make_router

# B batch  S stream tokens  D width  G rows of w_in


def _layer(**changes: Any) -> MoeLayer:
    torch.manual_seed(0)
    values: dict[str, Any] = {"num_experts": 4, "num_chosen": 2, "num_shared": 1, "hidden": 8}
    config = MoeConfig.model_validate({**values, **changes})
    layer = MoeLayer(16, config, make_router(16, config))
    for bias in (layer.b_in_EG, layer.b_out_ED):
        if bias is not None:
            nn.init.normal_(bias)
    return layer


def _by_hand(layer: MoeLayer, x_BSD: Tensor) -> Tensor:
    """Every token by itself, in the words of the docstring."""
    rows = []
    routing = layer.router(x_BSD)
    assert isinstance(routing, Routing)
    experts = layer.experts(torch.float32)
    for token, x_D in enumerate(x_BSD.flatten(0, 1)):
        out_D = torch.zeros_like(x_D) if layer.shared is None else layer.shared(x_D)
        for expert, weight in zip(
            routing.chosen_TK[token].tolist(), routing.weight_TK[token], strict=True
        ):
            hidden_G = x_D @ experts.w_in_EDG[expert]
            if experts.b_in_EG is not None:
                hidden_G = hidden_G + experts.b_in_EG[expert]
            if experts.form == "swiglu":
                gate, up = hidden_G.chunk(2)
                hidden_G = gate * torch.sigmoid(gate) * up
            else:
                hidden_G = hidden_G * torch.sigmoid(hidden_G)
            answer_D = hidden_G @ experts.w_out_EHD[expert]
            if experts.b_out_ED is not None:
                answer_D = answer_D + experts.b_out_ED[expert]
            out_D = out_D + weight * answer_D
        rows.append(out_D)
    return torch.stack(rows).view_as(x_BSD)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="usual"),
        pytest.param({"num_shared": 0}, id="no-shared"),
        pytest.param({"num_shared": 2}, id="two-shared"),
        pytest.param({"num_chosen": 4}, id="all-chosen"),
        pytest.param({"routed_scale": 1.0}, id="scale-1"),
        pytest.param({"has_expert_bias": True}, id="biases"),
        pytest.param({"expert": "silu", "has_expert_bias": True}, id="as-a-dense-mlp"),
        pytest.param({"router": "softmax", "is_normalised": False}, id="softmax"),
        pytest.param({"num_groups": 2}, id="groups"),
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_the_layer_is_the_sum_of_its_shared_and_chosen_experts(changes: dict[str, Any]) -> None:
    layer = _layer(**changes)
    x_BSD = torch.randn(1, 11, 16, requires_grad=True)
    got_BSD, want_BSD = layer(x_BSD), _by_hand(layer, x_BSD)
    assert relative_error("out_BSD", want_BSD, got_BSD) < 1e-5
    names = ["x_BSD", *(name for name, _ in layer.named_parameters())]
    inputs = [x_BSD, *layer.parameters()]
    upstream_BSD = torch.randn_like(want_BSD)
    want = torch.autograd.grad(want_BSD, inputs, upstream_BSD, retain_graph=True)
    got = torch.autograd.grad(got_BSD, inputs, upstream_BSD)
    for name, want_grad, got_grad in zip(names, want, got, strict=True):
        assert relative_error(f"d_{name}", want_grad, got_grad) < 1e-4


def test_counts_add_up_over_the_forwards_of_a_step_and_are_no_state() -> None:
    layer = _layer()
    layer(torch.randn(1, 10, 16))
    layer(torch.randn(2, 3, 16))
    assert int(layer.tally.counts_RE.sum()) == 32
    layer.tally.start_step()
    layer(torch.randn(1, 3, 16))
    assert int(layer.tally.counts_RE.sum()) == 6
    assert not [name for name in layer.state_dict() if "count" in name]


def test_the_router_learns_through_the_weights() -> None:
    layer = _layer()
    layer(torch.randn(1, 10, 16)).square().mean().backward()
    grads = [p.grad for p in layer.router.parameters()]
    assert all(grad is not None and float(grad.norm()) > 0 for grad in grads)


@pytest.mark.parametrize("router", ["expert_choice", "batch_choice"])
def test_experts_that_choose_do_the_same_work_each(router: str) -> None:
    layer = _layer(router=router, bias_update_speed=0.0)
    layer(torch.randn(2, 8, 16))
    # 16 tokens, two of four experts each on average
    assert layer.tally.counts_RE.tolist() == [[8, 8, 8, 8]]
