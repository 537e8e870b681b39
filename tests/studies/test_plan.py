"""What a study would run and cost."""

from pathlib import Path
from typing import Any

import pytest

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed, parsed
from moescope.studies.plan import Plan, key_of, plan
from moescope.studies.sizes import sized
from moescope.studies.spec import StudySpec
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.flops import count_flops
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.recipes.by_name import RECIPES, recipe

RATE = {1_000_000: 1e10, 4_000_000: 4e10}


def planned(rate: dict[int, float] | None = None, **keys: Any) -> Plan:
    base = {
        "name": "s",
        "kind": "grid",
        "axes": {"moe.num_experts": [4, 8]},
        "budget": {"tokens": [1e6]},
        "learning_rate": "fixed",
        "batch": "fixed",
    }
    return plan(parsed(StudySpec, {**base, **keys}, "study"), rate or {})


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("share", [0.6, 1.7])
def test_every_recipe_meets_a_size_within_one_percent(name: str, share: float) -> None:
    config = recipe(name)
    wanted = share * count_parameters(config).active
    found = sized(config, wanted, "width")
    assert count_parameters(found).active == pytest.approx(wanted, rel=0.01)
    assert found.model.width // found.model.heads == config.model.width // config.model.heads


@pytest.mark.parametrize("wanted", [3e5, 5e5, 8e5, 1.2e6, 1.6e6, 2e6, 1e7, 1e8, 1e9])
def test_any_size_between_widths_is_met(wanted: float) -> None:
    found = sized(recipe("tiny"), wanted, "width")
    assert count_parameters(found).active == pytest.approx(wanted, rel=0.01)


def test_a_size_that_cannot_be_met_names_the_nearest() -> None:
    with pytest.raises(MoescopeError, match=r"1000 cannot be met within 1%: the nearest is"):
        sized(recipe("tiny"), 1000, "width")


def test_a_grid_is_every_combination() -> None:
    trials = planned(seeds=[0, 1], axes={"moe.num_experts": [4, 8], "moe.every": [1, 2]}).trials
    assert len({trial.key for trial in trials}) == len(trials) == 8
    assert {(t.config.moe.num_experts, t.config.moe.every, t.config.seed) for t in trials} == {
        (e, v, s) for e in (4, 8) for v in (1, 2) for s in (0, 1)
    }


def test_an_ablation_is_one_change_at_a_time() -> None:
    trials = planned(
        kind="ablation",
        axes={},
        ablations={"gqa": {"model.kv_heads": 1}, "dense": {"moe.num_experts": 0}},
    ).trials
    assert [trial.coordinates["ablation"] for trial in trials] == ["base", "gqa", "dense"]
    assert [trial.config.model.kv_heads for trial in trials] == [0, 1, 0]
    assert [trial.config.moe.num_experts for trial in trials] == [8, 8, 0]


@pytest.mark.parametrize("unit", ["tokens", "tokens_per_param", "flops", "hours"])
def test_a_budget_in_any_unit_is_met(unit: str) -> None:
    values = {"tokens": 3e6, "tokens_per_param": 2.0, "flops": 4e13, "hours": 0.5}
    (trial, _) = planned(RATE, budget={unit: [values[unit]]}).trials
    assert trial.hours is not None
    met = {
        "tokens": trial.cost.tokens,
        "tokens_per_param": trial.cost.tokens / trial.cost.active_params,
        "flops": trial.cost.flops,
        "hours": trial.hours,
    }
    assert met[unit] == pytest.approx(values[unit], rel=0.01)


def test_the_cost_is_counted_from_what_is_trained() -> None:
    (trial, _) = planned(parallel={"experts": 2}).trials
    config, cost = trial.config, trial.cost
    samples = config.steps * config.data.batch
    assert cost.tokens == samples * config.tokens_per_sample
    assert cost.flops == samples * count_flops(config).training
    # each token to 2 experts in 3 of the 6 blocks, half of them elsewhere; there and back, twice
    per_token = 3 * 2 * 2 * 2 * config.model.width * 2 / 2
    assert cost.expert_bytes == pytest.approx(per_token * cost.tokens / 2)
    assert cost.head_bytes == 0


def test_head_parallel_sends_the_same_whatever_is_chosen() -> None:
    trials = planned(
        recipe="latent_moe_tiny",
        axes={"moe.num_chosen": [2, 4]},
        parallel={"experts": 4, "heads": 4},
    ).trials
    two, four = (trial.cost for trial in trials)
    assert two.head_bytes == four.head_bytes > 0
    # their ratio is K where the heads together are as wide as the model (facts: model.md 5)
    assert two.expert_bytes / two.head_bytes == pytest.approx(2)
    assert four.expert_bytes / four.head_bytes == pytest.approx(4)


def test_learning_rate_and_batch_follow_their_rules() -> None:
    rule = {"params": 1e6, "tokens": 1e6, "params_exponent": -0.5, "tokens_exponent": 0.0}
    grows = {"params": 1e6, "tokens": 1e6, "tokens_exponent": 1.0}
    trials = planned(
        kind="ladder",
        axes={},
        sizes={"active_params": [1e6, 4e6]},
        budget={"tokens": [1e6, 4e6]},
        learning_rate=rule,
        batch=grows,
    ).trials
    base = recipe("tiny")
    for trial in trials:
        size = trial.cost.active_params / 1e6
        assert trial.config.optim.learning_rate == pytest.approx(
            base.optim.learning_rate * size**-0.5
        )
        times = trial.coordinates["tokens"] / 1e6
        assert trial.config.data.batch == base.data.batch * times


def test_branches_cost_their_decay_and_leave_where_the_trunk_keeps_a_state() -> None:
    made = planned(
        axes={"moe.num_experts": [4, 8]},
        changes={"optim.schedule": "wsd"},
        budget={"tokens": [1e6, 2e6, 4e6]},
        has_branches=True,
    )
    trunks = {trial.key: trial for trial in made.trials if not trial.trunk}
    branches = [trial for trial in made.trials if trial.trunk]
    assert (len(trunks), len(branches)) == (2, 4)
    for branch in branches:
        trunk = trunks[branch.trunk]
        decay = branch.config.optim.decay_steps
        assert branch.branch_at == branch.config.steps - decay
        assert branch.branch_at % trunk.config.checkpoint.disk_every_steps == 0
        assert branch.branch_at <= trunk.config.steps - trunk.config.optim.decay_steps
        assert decay == pytest.approx(0.2 * branch.config.steps, abs=2)
        assert branch.cost.tokens == decay * branch.config.data.batch * 84
        assert branch.config.optim.learning_rate == trunk.config.optim.learning_rate


def test_what_only_looks_after_a_run_does_not_make_another_trial() -> None:
    config = recipe("tiny")
    same = changed(config, {"watch.sample_every": 5, "data.workers": 2, "project": "p"})
    other = changed(config, {"optim.beta1": 0.8})
    assert key_of(config, "d", "", 0) == key_of(same, "d", "", 0)
    keys = {key_of(config, *rest) for rest in (("d", "", 0), ("e", "", 0), ("d", "t", 5))}
    assert len(keys | {key_of(other, "d", "", 0)}) == 4


def test_a_key_is_the_same_in_every_process_and_on_every_machine() -> None:
    assert key_of(RunConfig(), "", "", 0) == key_of(
        RunConfig(**RunConfig().model_dump()), "", "", 0
    )


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"axes": {"moe.num_exprts": [4]}}, "unknown key moe.num_exprts"),
        ({"axes": {"moe.router_hidden": [64, 128]}}, "moe.router_hidden"),
        ({"budget": {"tokens": [10]}}, "less than a step of 1,344: give more"),
        ({"budget": {"hours": [1]}}, "hours need a calibration"),
        ({"recipe": "tyni"}, "unknown recipe tyni"),
        ({"data": "nowhere"}, "data nowhere is no folder"),
        ({"limit": {"flops": 1e9}}, "over its limit"),
        ({"limit": {"hours": 1}}, "limit.hours needs a calibration"),
        (
            {"kind": "ablation", "axes": {}, "ablations": {"same": {"moe.num_experts": 8}}},
            "compute the same",
        ),
        (
            {"budget": {"tokens": [1e6, 2e6]}, "has_branches": True},
            "needs optim.schedule wsd, not constant",
        ),
        (
            {"follow": {"moe.hidden": {"of": "model.mlp"}}},
            "follow.moe.hidden.of is model.mlp, which is no number",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_line(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(MoescopeError) as caught:
        planned(**keys).refuse_over_limit()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_follows_goes_along_through_others() -> None:
    trials = planned(
        axes={"model.width": [96, 128]},
        follow={
            "moe.hidden": {"of": "moe.router_hidden", "times": 0.5},
            "moe.router_hidden": {"of": "model.width", "times": 2},
        },
        changes={"moe.router": "mlp"},
    ).trials
    assert [trial.config.moe.hidden for trial in trials] == [96, 128]


def test_files_that_changed_make_other_trials(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    before = {trial.key for trial in planned(data=str(tmp_path)).trials}
    assert {trial.key for trial in planned(data=str(tmp_path)).trials} == before
    (tmp_path / "a.mp4").write_bytes(b"12")
    assert {trial.key for trial in planned(data=str(tmp_path)).trials}.isdisjoint(before)
