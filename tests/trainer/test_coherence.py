"""What goes together trains, and what does not is refused with the reason."""

from typing import Any

import pytest
import torch

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.model.make import make_model
from moescope.trainer.model.mlp import Mlp
from moescope.trainer.moe.experts import MoeLayer
from moescope.trainer.moe.make import make_moe
from moescope.trainer.moe.steps import ExpertSteps
from moescope.trainer.recipes.by_name import RECIPES, recipe

ROUTERS = ("sigmoid", "softmax", "mlp", "cross_attention", "expert_choice", "batch_choice")
BALANCES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "bias": {"moe.bias_update_speed": 0.1},
    "auxiliary": {"moe.balance_weight": 0.1},
    "auxiliary of the global batch": {
        "moe.balance_weight": 0.1,
        "moe.balance_scope": "global_batch",
    },
    "z": {"moe.z_loss_weight": 0.1},
    "contrast": {"moe.contrast_weight": 0.1},
    "all": {
        "moe.bias_update_speed": 0.1,
        "moe.balance_weight": 0.1,
        "moe.z_loss_weight": 0.1,
        "moe.contrast_weight": 0.1,
    },
}
WITHOUT_BALANCE = {"bias", "auxiliary", "auxiliary of the global batch", "all"}
"""What makes no sense where experts choose: they are balanced as they are."""


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_takes_every_balance_or_says_why_not(
    small: RunConfig, router: str, balance: str
) -> None:
    changes = {"moe.router": router, "moe.bias_update_speed": 0.0, **BALANCES[balance]}
    if router.endswith("choice") and balance in WITHOUT_BALANCE:
        with pytest.raises(MoescopeError, match="there is nothing to balance: use 0"):
            changed(small, changes)
        return
    config = changed(small, changes)
    torch.manual_seed(0)
    layer = make_moe(config)
    steps = ExpertSteps(layer, config.moe)
    steps.start()
    x_BSD = torch.randn(2, 6, config.model.width)
    out_BSD = layer(x_BSD, torch.randn(2, 3, config.model.width))
    extra = steps.loss()
    assert (extra is not None) == config.moe.has_loss
    total = out_BSD.square().mean() if extra is None else out_BSD.square().mean() + extra
    total.backward()
    gradients = [p.grad for p in layer.router.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    steps.end(torch.ones(()))
    moved = {n for n, value in layer.state_dict().items() if not torch.equal(value, before[n])}
    has_bias = config.moe.bias_update_speed > 0
    thresholds = {"router.threshold_E", "router.num_updates"}
    assert moved == (
        thresholds if router == "batch_choice" else {"router.bias_E"} if has_bias else set()
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"moe.num_groups": 3}, "must divide moe.num_experts, 4"),
        ({"moe.num_groups": 4}, "use at most 2|choose more groups"),
        ({"moe.num_groups": 2, "moe.num_chosen": 3}, "choose more groups"),
        ({"moe.layer": "latent"}, "use softmax"),
        ({"moe.layer": "latent", "moe.router": "softmax"}, "no shared expert: use 0"),
        (
            {
                "moe.layer": "latent",
                "moe.router": "softmax",
                "moe.num_shared": 0,
                "moe.num_chosen": 1,
            },
            "use 2 or more",
        ),
        ({"moe.every": 3}, "no block is MoE"),
        ({"model.rotary": "none", "model.has_place_table": False}, "knows its place"),
        ({"model.kv_heads": 3}, "must be a multiple of 3"),
        ({"model.family": "class"}, "use 1 or more"),
        ({"model.family": "wan"}, "no sound: use 0"),
        ({"objective.prediction": "data"}, "use flow"),
        ({"noise_experts.num_experts": 2}, "2 experts need 1"),
        (
            {"noise_experts.num_experts": 3, "noise_experts.boundaries": [0.8, 0.5]},
            "must ascend between 0 and 1",
        ),
        (
            {
                "noise_experts.num_experts": 2,
                "noise_experts.boundaries": [0.5],
                "noise_experts.is_learned": True,
            },
            "no gradient reaches a boundary",
        ),
        (
            {
                "noise_experts.num_experts": 2,
                "noise_experts.boundaries": [0.9],
                "noise_experts.transition": 0.3,
            },
            "reach past 0 or 1: use at most 0.2",
        ),
        (
            {"model.has_reference": True, "data.num_frames": 1, "model.patch_frames": 1},
            "told whole",
        ),
        (
            {
                "noise_experts.num_experts": 2,
                "noise_experts.boundaries": [0.5],
                "noise_experts.guidance": [1.0],
            },
            "has 1 values, but there are 2",
        ),
        (
            {
                "noise_experts.num_experts": 2,
                "noise_experts.boundaries": [0.5],
                "noise_experts.shared_blocks": 2,
            },
            "nothing would differ",
        ),
        (
            {
                "data.latents": "cosine",
                "data.latent_size": 2,
                "data.latent_channels": 13,
                "model.patch_size": 4,
            },
            "a cell has 12 values: use at most as many",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line_with_the_way_out(
    small: RunConfig, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(MoescopeError, match=words) as refused:
        changed(small, changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_keeps_a_router_out_by_what_it_set_itself(name: str) -> None:
    config = RECIPES[name]()
    if not config.moe.num_experts or config.moe.layer == "latent":
        return
    freed = {"moe.num_groups": 1, "moe.num_chosen_groups": 1, "moe.is_normalised": True}
    nothing = {"moe.bias_update_speed": 0, "moe.balance_weight": 0}
    for router in ROUTERS:
        # what was undone is taken, whether or not it was there
        assert recipe(name, {"moe.router": router, **freed, **nothing}).moe.router == router


def test_experts_by_noise_level_can_be_given_up() -> None:
    one = {
        "noise_experts.num_experts": 1,
        "noise_experts.boundaries": [],
        "noise_experts.transition": 0,
        "noise_experts.is_learned": False,
        "noise_experts.shared_blocks": 0,
        "noise_experts.guidance": [],
    }
    for name in ("noise_experts_tiny", "wan22_two_expert_tiny", "wan22_shared"):
        assert recipe(name, one).noise_experts.num_experts == 1


def test_the_last_of_every_so_many_blocks_is_moe(small: RunConfig) -> None:
    for every, wanted in ((1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2])):
        config = changed(small, {"model.layers": 4, "moe.every": every})
        assert list(config.moe_blocks) == wanted
        mlps = [block.mlp for block in make_model(config).blocks]
        assert [isinstance(mlp, MoeLayer) for mlp in mlps] == [i in wanted for i in range(4)]
        assert [isinstance(mlp, Mlp) for mlp in mlps] == [i not in wanted for i in range(4)]
