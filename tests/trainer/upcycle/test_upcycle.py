"""A dense network becomes one with experts that answers alike; what tells the experts apart comes
after, on purpose, and is said.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.data.chance import generator
from moescope.trainer.model.make import make_model
from moescope.trainer.moe.experts import MoeLayer
from moescope.trainer.upcycle.check import NUM_LEVELS, Difference, compare, made_inputs
from moescope.trainer.upcycle.plan import UpcyclePlan, upcycled_config
from moescope.trainer.upcycle.weights import (
    clones,
    expert_paths,
    with_dense_shared,
    with_dropped_channels,
    with_shared_noise,
)

# E experts  D width  H hidden  G rows of w_in: 2*H where gated, else H

PICTURES: dict[str, Any] = {
    "model.family": "class",
    "model.num_classes": 8,
    "model.rotary": "2d",
    "model.patch_frames": 1,
    "data.num_mel_steps": 0,
    "data.num_text_bytes": 0,
    "data.num_frames": 1,
}
DENSE: dict[str, dict[str, Any]] = {
    "stream, silu": {"model.mlp": "silu"},
    "stream, gelu": {"model.mlp": "gelu", "data.num_mel_steps": 0},
    "stream, swiglu": {"model.mlp": "swiglu", "model.has_reference": True},
    "class as DSMoE": {**PICTURES, "data.latents": "cosine", "data.latent_size": 2}
    | {"model.patch_size": 2, "model.has_variance_output": True, "model.mlp": "silu"},
    # 21 hidden channels and not 21.33: JiT's width is 2/3 of what a plain MLP has
    "class as JiT": {**PICTURES, "model.mlp": "swiglu", "model.mlp_ratio": 2 / 3}
    | {"model.num_class_tokens": 4, "objective.prediction": "data", "model.norm": "rms"},
    "wan": {"model.family": "wan", "model.mlp": "gelu", "model.text_width": 16}
    | {"data.num_mel_steps": 0},
    "two by noise level that share a block": {
        "noise_experts.num_experts": 2,
        "noise_experts.boundaries": [0.7],
        "noise_experts.transition": 0.2,
        "noise_experts.shared_blocks": 1,
    },
}


def dense_of(small: RunConfig, changes: dict[str, Any]) -> RunConfig:
    return changed(small, {"model.layers": 3, "moe.num_experts": 0, **changes})


def worn(model: nn.Module) -> nn.Module:
    """Moves every weight, as training would: new networks have closed gates, behind which no
    difference would show."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def both(
    small: RunConfig, changes: dict[str, Any], plan: UpcyclePlan, asked: dict[str, Any]
) -> tuple[RunConfig, nn.Module, nn.Module, dict[str, Tensor]]:
    """Returns the configuration with experts, the dense network, that with experts and its
    clones."""
    dense_config = dense_of(small, changes)
    config = upcycled_config(dense_config, plan, asked, "r")
    dense, model = worn(make_model(dense_config)), make_model(config)
    weights = clones(dense.state_dict(), model.state_dict(), expert_paths(model))
    model.load_state_dict(weights)
    return config, dense, model, weights


@pytest.mark.parametrize("changes", DENSE.values(), ids=DENSE)
@pytest.mark.parametrize(
    ("num_chosen", "router"), [(1, "softmax"), (2, "sigmoid"), (2, "cross_attention"), (3, "mlp")]
)
def test_clones_answer_as_the_dense_network(
    small: RunConfig, changes: dict[str, Any], num_chosen: int, router: str
) -> None:
    plan = UpcyclePlan(4, num_chosen, every=1)
    config, dense, model, _ = both(small, changes, plan, {"moe.router": router})
    passes = [made_inputs(config, level) for level in range(NUM_LEVELS)]
    layers = [module for module in model.modules() if isinstance(module, MoeLayer)]
    # the three blocks, of which two noise experts share one and have two each
    assert len(layers) == (5 if config.noise_experts.num_experts == 2 else 3)
    found = compare(dense, model, passes)
    assert found.flow <= 1e-5
    assert found.layers <= 1e-5
    assert found.is_none


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"moe.routed_scale": 2.0}, "twice the answer"),
        ({"moe.is_normalised": False}, "weights that add up to less than 1"),
        ({"moe.expert": "gelu"}, "another activation"),
    ],
)
def test_the_comparison_finds_what_breaks_a_law(
    small: RunConfig, spoil: dict[str, Any], reason: str
) -> None:
    config, dense, _, weights = both(small, {}, UpcyclePlan(4, 2), {})
    spoiled = make_model(changed(config, spoil))
    spoiled.load_state_dict(weights)
    found = compare(dense, spoiled, [made_inputs(config, 0)])
    assert not found.is_none, reason
    # not by a rounding: by three orders of magnitude at least
    assert found.layers > 1e-2


def test_a_number_that_is_none_is_no_agreement(small: RunConfig) -> None:
    config, dense, model, weights = both(small, {}, UpcyclePlan(4, 2), {})
    weights["blocks.1.mlp.b_out_ED"][2, 0] = torch.nan
    model.load_state_dict(weights)
    found = compare(dense, model, [made_inputs(config, 0)])
    assert not found.is_none
    assert not Difference(0.0, float("nan")).is_none
    assert not Difference(float("nan"), 0.0).is_none


def test_a_shared_expert_as_the_dense_mlp_doubles_every_layer(small: RunConfig) -> None:
    plan = UpcyclePlan(2, 2, shared_from="dense", every=1)
    config, dense, model, weights = both(small, {"model.mlp": "swiglu"}, plan, {})
    model.load_state_dict(with_dense_shared(weights, dense.state_dict(), expert_paths(model)))
    found = compare(dense, model, [made_inputs(config, 1)], times=2.0)
    assert found.layers <= 1e-5
    assert found.flow > 1e-3
    assert compare(dense, model, [made_inputs(config, 1)]).layers > 1e-2


def layer_weights(form: str = "swiglu") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns a dense MLP of D = 3, H = 4 at `mlp`, and a new layer of 5 experts in its place."""
    rows = 8 if form == "swiglu" else 4
    torch.manual_seed(0)
    dense = {
        "mlp.w_in.weight": torch.randn(rows, 3),
        "mlp.w_in.bias": torch.randn(rows),
        "mlp.w_out.weight": torch.randn(3, 4),
        "mlp.w_out.bias": torch.randn(3),
        "gain": torch.randn(3),
    }
    fresh = {
        "mlp.router.weight_ED": torch.randn(5, 3),
        "mlp.router.bias_E": torch.zeros(5),
        "mlp.w_in_EDG": torch.randn(5, 3, rows),
        "mlp.b_in_EG": torch.randn(5, rows),
        "mlp.w_out_EHD": torch.randn(5, 4, 3),
        "mlp.b_out_ED": torch.randn(5, 3),
        "mlp.shared.w_in.weight": torch.randn(rows, 3),
        "mlp.shared.w_in.bias": torch.randn(rows),
        "mlp.shared.w_out.weight": torch.randn(3, 4),
        "mlp.shared.w_out.bias": torch.randn(3),
        "gain": torch.randn(3),
    }
    return dense, fresh


def test_every_expert_is_the_dense_mlp_and_nothing_is_scaled() -> None:
    dense, fresh = layer_weights()
    made = clones(dense, fresh, ["mlp"])
    for expert in range(5):
        assert torch.equal(made["mlp.w_in_EDG"][expert], dense["mlp.w_in.weight"].t())
        assert torch.equal(made["mlp.w_out_EHD"][expert], dense["mlp.w_out.weight"].t())
        assert torch.equal(made["mlp.b_in_EG"][expert], dense["mlp.w_in.bias"])
        assert torch.equal(made["mlp.b_out_ED"][expert], dense["mlp.w_out.bias"])
    assert torch.equal(made["mlp.router.weight_ED"], fresh["mlp.router.weight_ED"])
    assert torch.equal(made["gain"], dense["gain"])
    assert all(not made[name].any() for name in made if ".shared." in name)
    # a copy: the clones are trained, the source may be used on
    made["mlp.w_in_EDG"][0] += 1
    assert torch.equal(made["mlp.w_in_EDG"][1], dense["mlp.w_in.weight"].t())


@pytest.mark.parametrize(
    ("name", "value"), [("gain", torch.zeros(4)), ("mlp.w_in.bias", None)], ids=["width", "bias"]
)
def test_networks_that_differ_in_more_than_experts_are_refused(
    name: str, value: Tensor | None
) -> None:
    dense, fresh = layer_weights()
    del dense[name]
    if value is not None:
        dense[name] = value
    with pytest.raises(ValueError, match="but its source is"):
        clones(dense, fresh, ["mlp"])


def test_noise_of_the_shared_expert_is_small_keyed_and_without_biases() -> None:
    fresh = {"mlp.shared.w_in.weight": torch.zeros(400, 300), "mlp.shared.w_in.bias": torch.ones(3)}
    one = with_shared_noise(fresh, ["mlp"], 1e-4, seed=1)
    again = with_shared_noise(fresh, ["mlp"], 1e-4, seed=1)
    other = with_shared_noise(fresh, ["mlp"], 1e-4, seed=2)
    drawn = one["mlp.shared.w_in.weight"]
    # the spread of 120,000 numbers is known to about 1 / sqrt(240,000) = 0.2 %
    assert float(drawn.std()) == pytest.approx(1e-4, rel=0.01)
    assert abs(float(drawn.mean())) < 4 * 1e-4 / 120_000**0.5
    assert torch.equal(drawn, again["mlp.shared.w_in.weight"])
    assert not torch.equal(drawn, other["mlp.shared.w_in.weight"])
    assert not one["mlp.shared.w_in.bias"].any()
    assert not fresh["mlp.shared.w_in.weight"].any()


def test_a_shared_expert_of_zeros_would_never_learn_and_one_of_noise_does(small: RunConfig) -> None:
    config, _, model, weights = both(small, {}, UpcyclePlan(4, 2), {})
    (path,) = expert_paths(model)
    noisy = with_shared_noise(weights, [path], 1e-4, seed=0)
    for start, is_stuck in ((weights, True), (noisy, False)):
        model.load_state_dict(start)
        model.zero_grad()
        flow = model(made_inputs(config, 1)).video_BCFHW
        (flow - 1).square().mean().backward()
        shared: Any = model.get_submodule(path).shared
        grads = [float(m.weight.grad.abs().max()) for m in (shared.w_in, shared.w_out)]
        assert all((grad == 0) == is_stuck for grad in grads)


def test_noise_of_the_shared_expert_hardly_moves_the_answer(small: RunConfig) -> None:
    plan = UpcyclePlan(4, 2, every=1)
    config, dense, model, weights = both(small, {}, plan, {})
    model.load_state_dict(with_shared_noise(weights, expert_paths(model), 1e-4, seed=0))
    # facts, model.md section 10: about 2e-6 at 1e-4
    assert compare(dense, model, [made_inputs(config, 1)]).flow < 1e-5


@pytest.mark.parametrize("form", ["silu", "swiglu"])
def test_the_same_hidden_channels_are_dropped_on_both_sides(form: Any) -> None:
    dense, fresh = layer_weights(form)
    whole = clones(dense, fresh, ["mlp"])
    made = with_dropped_channels(whole, ["mlp"], form, 0.5, seed=3)
    dropped = []
    for expert in range(5):
        is_new_G = (made["mlp.w_in_EDG"][expert] != whole["mlp.w_in_EDG"][expert]).all(0)
        is_old_G = (made["mlp.w_in_EDG"][expert] == whole["mlp.w_in_EDG"][expert]).all(0)
        assert bool((is_new_G ^ is_old_G).all())
        is_new_H = (made["mlp.w_out_EHD"][expert] != whole["mlp.w_out_EHD"][expert]).all(1)
        assert int(is_new_H.sum()) == 2  # floor(0.5 * 4)
        for half in is_new_G.split(4):
            assert torch.equal(half, is_new_H)
        is_new_bias = made["mlp.b_in_EG"][expert] != whole["mlp.b_in_EG"][expert]
        assert torch.equal(is_new_bias, is_new_G)
        dropped.append(tuple(is_new_H.tolist()))
    assert len(set(dropped)) > 1  # each expert has channels of its own
    for name in ("mlp.b_out_ED", "mlp.router.weight_ED", "gain"):
        assert torch.equal(made[name], whole[name])
    again = with_dropped_channels(whole, ["mlp"], form, 0.5, seed=3)
    assert all(torch.equal(made[name], again[name]) for name in made)
    other = with_dropped_channels(whole, ["mlp"], form, 0.5, seed=4)
    assert not torch.equal(made["mlp.w_in_EDG"], other["mlp.w_in_EDG"])


def test_dropped_channels_have_the_mean_and_spread_of_what_they_replace() -> None:
    chance = generator(0, "", 0, "test")
    hidden, width = 64, 500
    gate = chance.normal(3.0, 0.5, (hidden, width))
    up = chance.normal(-1.0, 2.0, (hidden, width))
    weights = {
        "mlp.w_in_EDG": torch.from_numpy(np.concatenate([gate, up])).float().t()[None].contiguous(),
        "mlp.w_out_EHD": torch.full((1, hidden, width), 7.0),
    }
    made = with_dropped_channels(weights, ["mlp"], "swiglu", 1.0, seed=0)
    new_gate, new_up = made["mlp.w_in_EDG"][0].t().split(hidden)
    # 32,000 numbers: a mean is known to its spread / 179, a spread to 0.4 %
    assert float(new_gate.mean()) == pytest.approx(3.0, abs=4 * 0.5 / 179)
    assert float(new_gate.std()) == pytest.approx(0.5, rel=0.02)
    assert float(new_up.mean()) == pytest.approx(-1.0, abs=4 * 2.0 / 179)
    assert float(new_up.std()) == pytest.approx(2.0, rel=0.02)
    # what does not spread comes back as it was
    assert torch.equal(made["mlp.w_out_EHD"], weights["mlp.w_out_EHD"])
    assert not bool((new_gate == weights["mlp.w_in_EDG"][0].t()[:hidden]).any())


@pytest.mark.parametrize(("share", "hidden", "expected"), [(0.29, 100, 29), (0.3, 7, 2)])
def test_the_number_of_dropped_channels_is_rounded_down_and_not_by_accident(
    share: float, hidden: int, expected: int
) -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point
    weights = {"m.w_in_EDG": torch.randn(1, 2, hidden), "m.w_out_EHD": torch.randn(1, hidden, 2)}
    made = with_dropped_channels(weights, ["m"], "silu", share, seed=0)
    is_new_H = (made["m.w_out_EHD"] != weights["m.w_out_EHD"]).all(2)
    assert int(is_new_H.sum()) == expected
    with pytest.raises(ValueError, match="of 7 hidden channels is none"):
        with_dropped_channels(
            {"m.w_in_EDG": torch.ones(1, 2, 7), "m.w_out_EHD": torch.ones(1, 7, 2)},
            ["m"], "silu", 0.1, seed=0,
        )  # fmt: skip


def test_the_configuration_follows_from_the_dense_one(small: RunConfig) -> None:
    dense = dense_of(small, {"model.mlp": "gelu", "model.mlp_ratio": 3.0})
    config = upcycled_config(dense, UpcyclePlan(6, 2, 2, every=3), {"steps": 9, "seed": 4}, "r")
    assert (config.steps, config.seed, config.moe_blocks) == (9, 4, (2,))
    moe = config.moe
    assert (moe.num_experts, moe.num_chosen, moe.num_shared) == (6, 2, 2)
    # 96 = 3.0 * 32; the laws of upcycling, facts: model.md section 10
    assert (moe.hidden, moe.expert, moe.has_expert_bias) == (96, "gelu", True)
    assert (moe.is_normalised, moe.routed_scale, moe.layer) == (True, 1.0, "routed")
    assert config.model == dense.model


@pytest.mark.parametrize(
    ("make", "asked", "expected"),
    [
        (lambda: UpcyclePlan(2, 4), {}, "moe.num_chosen is 4, but moe.num_experts is 2"),
        (lambda: UpcyclePlan(4, every=9), {}, "moe.every is 9, but model.layers is 3"),
        (
            lambda: UpcyclePlan(4),
            {"moe.layer": "latent"},
            "Multi-Head LatentMoE cannot be upcycled",
        ),
        (lambda: UpcyclePlan(4), {"moe.router": "expert_choice"}, "do not add up to 1"),
        (lambda: UpcyclePlan(4), {"moe.router": "batch_choice"}, "do not add up to 1"),
        (lambda: UpcyclePlan(4), {"moe.hidden": 7}, "moe.hidden is 7, but .* it is 128"),
        (lambda: UpcyclePlan(4), {"moe.routed_scale": 2.5}, "moe.routed_scale is 2.5, but"),
        (lambda: UpcyclePlan(4), {"moe.num_chosen": 1}, "use --chosen, not --set"),
        (lambda: UpcyclePlan(4), {"model.width": 64}, "model.width cannot change"),
        (lambda: UpcyclePlan(4), {"noise_experts.num_experts": 2}, "cannot change"),
        (lambda: UpcyclePlan(4), {"moe.router_hidden": 8}, "moe.router_hidden has no effect"),
        (lambda: UpcyclePlan(4), {"moe.num_expert": 8}, "unknown key moe.num_expert; did you mean"),
        (lambda: UpcyclePlan(4, noise=0.0), {}, "--noise is 0.0, but it must be above 0"),
        (lambda: UpcyclePlan(4, num_shared=0, noise=1e-3), {}, "--noise has no effect: --shared"),
        (lambda: UpcyclePlan(4, shared_from="dense", noise=1e-3), {}, "--noise has no effect"),
        (lambda: UpcyclePlan(4, num_shared=2, shared_from="dense"), {}, "use --shared 1"),
        (lambda: UpcyclePlan(4, shared_from="moon"), {}, "--shared-from is moon"),
        (lambda: UpcyclePlan(4, drop_share=1.5), {}, "--drop-share is 1.5"),
        (lambda: UpcyclePlan(4, drop_share=float("nan")), {}, "--drop-share is nan"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_computed(
    small: RunConfig, make: Callable[[], UpcyclePlan], asked: dict[str, Any], expected: str
) -> None:
    with pytest.raises(MoescopeError, match=expected):
        upcycled_config(dense_of(small, {}), make(), asked, "r")


def test_a_run_with_experts_is_not_upcycled_again(small: RunConfig) -> None:
    with pytest.raises(MoescopeError, match=r"run amber has experts already .*num_experts is 4"):
        upcycled_config(small, UpcyclePlan(8), {}, "amber")
