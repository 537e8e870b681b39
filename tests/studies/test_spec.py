"""What a study can say, and each slip as one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import parsed
from moescope.studies.plan import plan
from moescope.studies.spec import (
    LIBRARY,
    Budget,
    Follow,
    Limit,
    Parallel,
    PowerRule,
    Sizes,
    StudySpec,
    read_spec,
)

GRID: dict[str, Any] = {
    "name": "g",
    "kind": "grid",
    "axes": {"moe.num_experts": [4, 8]},
    "budget": {"tokens": [1e6]},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axis": {}}, "unknown key axis; did you mean axes?"),
        ({"axes": {"moe.num_experts": []}}, "axes.moe.num_experts is empty"),
        ({"axes": {"moe.num_experts": [4, 4]}}, "has a value twice"),
        ({"axes": {}}, "kind is grid: give axes"),
        ({"kind": "ladder"}, "kind is ladder: give sizes"),
        (
            {"kind": "isoflop", "sizes": {"active_params": [1e6]}},
            "kind is isoflop: give budget.flops",
        ),
        ({"kind": "sensitivity"}, "give sizes"),
        ({"kind": "seeds"}, "give several seeds"),
        ({"seeds": [1, 1]}, "give each once"),
        ({"seeds": []}, "one at least"),
        ({"budget": {}}, "budget takes one of"),
        ({"budget": {"tokens": [1e6], "flops": [1e9]}}, "(given: tokens, flops)"),
        ({"budget": {"tokens": [-1]}}, "greater than 0"),
        ({"budget": {"tokens": [1e6, 2e6]}}, "learning_rate is not said"),
        (
            {"budget": {"tokens": [1e6, 2e6]}, "learning_rate": "fixed"},
            "batch is not said",
        ),
        ({"sizes": {}}, "sizes has recipes or active_params"),
        ({"name": "Not this"}, "name is 'Not this'"),
        ({"ablations": {"a": {}}}, "do not go with kind grid"),
        ({"has_branches": True}, "has_branches needs several budgets"),
        (
            {"follow": {"moe.num_experts": {"of": "model.width"}}},
            "moe.num_experts follows model.width and is set",
        ),
        (
            {"follow": {"moe.hidden": {"of": "model.width"}, "model.width": {"of": "moe.hidden"}}},
            "follow goes in a circle (moe.hidden -> model.width -> moe.hidden)",
        ),
    ],
)
def test_a_slip_is_one_line_that_says_what_to_do(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MoescopeError) as caught:
        parsed(StudySpec, {**GRID, **changes}, "study")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "is no YAML"),
        ("- a", "of keys and values"),
        ("", "of keys and values"),
        ("name: \x00", "is no YAML"),
    ],
)
def test_a_file_that_is_no_study(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(MoescopeError, match=said) as caught:
        read_spec(str(file))
    assert "\n" not in str(caught.value)


def test_a_study_that_is_not_there_has_near_names() -> None:
    with pytest.raises(MoescopeError, match="unknown study positons; did you mean positions"):
        read_spec("positons")
    with pytest.raises(MoescopeError, match="No such file"):
        read_spec("gone.yaml")


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: s\nkind: seeds\nseeds: [0, 1]\nbudget: {tokens: [1e6]}\n")
    assert read_spec(str(file)).budget.tokens == (1e6,)


@pytest.mark.parametrize("file", sorted(LIBRARY.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_named_study_can_be_planned(file: Path) -> None:
    spec = read_spec(file.stem.replace("_", "-"))
    assert spec.name.replace("-", "_") == file.stem
    assert spec.question.endswith("?")
    assert len(plan(spec, {}).trials) >= 9


def test_the_library_answers_the_questions_that_it_is_for() -> None:
    named = {file.stem: yaml.safe_load(file.read_text()) for file in LIBRARY.glob("*.yaml")}
    assert set(named) == {
        "dsmoe_against_dense",
        "experts_and_width",
        "positions",
        "shared_expert",
        "interleaving",
        "gqa",
        "routers_against_deadlock",
        "latent_against_dsmoe",
        "learning_rate_and_cutoff",
        "muon_against_adamw",
        "timesteps",
    }


def test_every_key_of_a_study_is_explained() -> None:
    def unexplained(model: Any) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if not field.description:
                yield f"{model.__name__}.{name}"

    models = (StudySpec, Sizes, Budget, PowerRule, Follow, Limit, Parallel)
    found = [key for model in models for key in unexplained(model)]
    assert found == []
