"""The layer of experts as training makes it, against whole blocks of transformers: results, and
gradients of the input and of every weight.

`tests/kernels/test_block_parity.py` compares the kernels; here the router, the shared expert, the
configuration and the choice of a path are moescope's own, and the weights are copied from theirs.
Source: facts: model.md section 11.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DeepseekV3Config, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from moescope.kernels.choice import choose_expert_path
from moescope.kernels.compare import relative_error
from moescope.platform.frozen import changed
from moescope.trainer.moe.experts import MoeLayer
from moescope.trainer.moe.make import make_moe
from moescope.trainer.moe.router import LinearRouter
from moescope.trainer.recipes.stream import tiny

# B batch  S stream tokens  D width  E experts  H hidden  G 2*H

SHAPES = [
    pytest.param(2, 24, 32, 8, 2, 16, "grouped_mm", id="usual"),
    # six places for eight experts; hidden rows of 40 bytes are no multiple of grouped_mm's 16
    pytest.param(1, 3, 20, 8, 2, 10, "one_by_one", id="idle-experts-odd-hidden"),
]
SHAPE_NAMES = ("batch", "tokens", "width", "experts", "chosen", "hidden", "path")

BOUND = 5e-6
"""Four times what 25 seeds found at most: relative 3.7e-7 for results, 4.0e-7 for gradients, and
1.2e-6 for the router's with three tokens, whose parts cancel. There both sides round: from fp64
theirs was 8.4e-7 away, ours 6.4e-7."""

NO_SHARED: dict[str, Any] = {
    "moe.router": "softmax",
    "moe.num_shared": 0,
    "moe.routed_scale": 1.0,
    "moe.bias_update_speed": 0.0,
}


def _random(block: Any) -> Any:
    """A block alone has memory that nobody wrote as weights."""
    for weight in block.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return block


def _layer(width: int, experts: int, chosen: int, hidden: int, moe: dict[str, Any]) -> MoeLayer:
    sizes = {
        "model.width": width,
        "model.heads": 1,
        "model.rotary": "none",  # the width need not be one that positions can turn
        "moe.num_experts": experts,
        "moe.num_chosen": chosen,
        "moe.hidden": hidden,
    }
    layer = make_moe(changed(tiny(), sizes | moe))
    assert isinstance(layer, MoeLayer)
    return layer


def _pairs(weight_of: Callable[[str], Tensor], has_shared: bool) -> dict[str, Tensor]:
    """Returns what their weights, or the gradients of these, are under our names and in our layout:
    a linear map holds outputs x inputs, and our stacked experts inputs x outputs."""
    found = {
        "router.weight_ED": weight_of("gate.weight"),
        "w_in_EDG": weight_of("experts.gate_up_proj").transpose(1, 2),
        "w_out_EHD": weight_of("experts.down_proj").transpose(1, 2),
    }
    if has_shared:
        gate_and_up = [weight_of(f"shared_experts.{name}_proj.weight") for name in ("gate", "up")]
        found["shared.w_in.weight"] = torch.cat(gate_and_up)
        found["shared.w_out.weight"] = weight_of("shared_experts.down_proj.weight")
    return found


def _assert_same(block: Any, layer: MoeLayer, x_BSD: Tensor) -> None:
    theirs, ours = dict(block.named_parameters()), dict(layer.named_parameters())
    has_shared = hasattr(block, "shared_experts")
    copied = _pairs(lambda name: theirs[name].detach(), has_shared)
    assert copied.keys() == ours.keys()
    layer.load_state_dict({**layer.state_dict(), **copied})

    upstream_BSD = torch.randn_like(x_BSD)
    want_BSD, got_BSD = block(x_BSD), layer(x_BSD)
    want = torch.autograd.grad(want_BSD, [x_BSD, *theirs.values()], upstream_BSD)
    got = torch.autograd.grad(got_BSD, [x_BSD, *ours.values()], upstream_BSD)

    by_name = dict(zip(theirs, want[1:], strict=True))
    want_of = _pairs(by_name.__getitem__, has_shared)
    assert relative_error("out_BSD", want_BSD, got_BSD) < BOUND
    assert relative_error("d_x_BSD", want[0], got[0]) < BOUND
    for name, gradient in zip(ours, got[1:], strict=True):
        # a zero gradient would be equal to another and prove nothing
        assert want_of[name].abs().max() > 1e-3, name
        assert relative_error(f"d_{name}", want_of[name], gradient) < BOUND


@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.parametrize(SHAPE_NAMES, SHAPES)
@pytest.mark.parametrize(("groups", "chosen_groups"), [(1, 1), (4, 2)])
def test_the_layer_is_the_block_of_deepseek_v3_with_groups_bias_scale_and_shared_experts(
    batch: int,
    tokens: int,
    width: int,
    experts: int,
    chosen: int,
    hidden: int,
    path: str,
    groups: int,
    chosen_groups: int,
) -> None:
    torch.manual_seed(tokens)
    config = DeepseekV3Config(
        hidden_size=width,
        moe_intermediate_size=hidden,
        n_routed_experts=experts,
        num_experts_per_tok=chosen,
        n_shared_experts=2,
        n_group=groups,
        topk_group=chosen_groups,
        routed_scaling_factor=2.5,
        norm_topk_prob=True,
        experts_implementation="eager",
    )
    block = _random(DeepseekV3MoE(config))
    bias_E = block.gate.e_score_correction_bias.normal_(std=0.1)
    moe = {
        "moe.router": "sigmoid",
        "moe.num_shared": 2,
        "moe.routed_scale": 2.5,
        "moe.num_groups": groups,
        "moe.num_chosen_groups": chosen_groups,
    }
    layer = _layer(width, experts, chosen, hidden, moe)
    assert isinstance(layer.router, LinearRouter)
    assert layer.router.bias_E is not None
    layer.router.bias_E.copy_(bias_E)
    x_BSD = torch.randn(batch, tokens, width, requires_grad=True)
    _assert_same(block, layer, x_BSD)
    assert choose_expert_path(x_BSD.device, x_BSD.dtype, width, hidden).path == path
    assert layer.tally.counts_RE.sum() == batch * tokens * chosen


@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.parametrize(SHAPE_NAMES, SHAPES)
def test_the_layer_is_the_block_of_mixtral(
    batch: int, tokens: int, width: int, experts: int, chosen: int, hidden: int, path: str
) -> None:
    torch.manual_seed(tokens)
    config = MixtralConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_local_experts=experts,
        num_experts_per_tok=chosen,
        experts_implementation="eager",
    )
    block = _random(MixtralSparseMoeBlock(config))
    layer = _layer(width, experts, chosen, hidden, NO_SHARED)
    x_BSD = torch.randn(batch, tokens, width, requires_grad=True)
    _assert_same(block, layer, x_BSD)
    assert choose_expert_path(x_BSD.device, x_BSD.dtype, width, hidden).path == path


@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.parametrize(SHAPE_NAMES, SHAPES)
@pytest.mark.parametrize("is_normalised", [True, False])
def test_the_layer_is_the_block_of_qwen3_with_and_without_its_flag(
    batch: int,
    tokens: int,
    width: int,
    experts: int,
    chosen: int,
    hidden: int,
    path: str,
    is_normalised: bool,
) -> None:
    torch.manual_seed(tokens)
    config = Qwen3MoeConfig(
        hidden_size=width,
        moe_intermediate_size=hidden,
        num_experts=experts,
        num_experts_per_tok=chosen,
        norm_topk_prob=is_normalised,
        experts_implementation="eager",
    )
    block = _random(Qwen3MoeSparseMoeBlock(config))
    moe = NO_SHARED | {"moe.is_normalised": is_normalised}
    layer = _layer(width, experts, chosen, hidden, moe)
    x_BSD = torch.randn(batch, tokens, width, requires_grad=True)
    _assert_same(block, layer, x_BSD)
    assert choose_expert_path(x_BSD.device, x_BSD.dtype, width, hidden).path == path
