"""Configurations laid beside each other: what differs, which runs are one but for their seed."""

from typing import Any

import pytest

from moescope.dashboard.configurations import ABSENT, differing
from moescope.dashboard.settings_of_runs import (
    DAMAGED,
    by_all_but_the_seed,
    by_key,
    flat_config,
    is_seed,
    numbers_of,
    text_of,
    wants_log,
)
from moescope.platform.records import DamagedConfig

CONFIGS: dict[str, dict[str, Any]] = {
    "a": {"seed": 0, "optim.lr": 0.1, "model.blocks": [1, 2]},
    "b": {"seed": 1, "optim.lr": 0.1, "model.blocks": [1, 2]},
    "c": {"seed": 0, "optim.lr": 0.2, "model.blocks": [1, 2], "moe.experts": 8},
}


def test_nested_keys_are_joined_by_dots_and_the_machine_is_told(make: Any) -> None:
    run = make.run(config={"optim": {"lr": 0.1}, "seed": 3})
    assert flat_config(run) == {
        "optim.lr": 0.1,
        "seed": 3,
        "(device)": "cpu",
        "(program)": "0.1.0",
    }


def test_an_imported_run_has_the_names_of_its_source(make: Any) -> None:
    config = {"imported": {"from": "mlflow", "place": "x", "params": {"lr": 0.1, "opt": {"b": 2}}}}
    found = flat_config(make.run(config=config))
    assert {key: found[key] for key in found if key[0] != "("} == {"lr": 0.1, "opt.b": 2}


def test_a_damaged_configuration_is_told_as_such(make: Any) -> None:
    assert flat_config(make.run(config=DamagedConfig()))["(configuration)"] == DAMAGED


def test_only_keys_that_differ_are_told_and_what_is_missing_too() -> None:
    assert differing(CONFIGS) == {
        "seed": {"a": "0", "b": "1", "c": "0"},
        "optim.lr": {"a": "0.1", "b": "0.1", "c": "0.2"},
        "moe.experts": {"a": ABSENT, "b": ABSENT, "c": "8"},
    }
    assert differing({"a": CONFIGS["a"]}) == {}


def test_runs_that_differ_in_their_seed_only_are_one_group() -> None:
    assert by_all_but_the_seed(CONFIGS) == {
        "optim.lr = 0.1, moe.experts = -": ["a", "b"],
        "optim.lr = 0.2, moe.experts = 8": ["c"],
    }
    both = {name: CONFIGS[name] for name in ("a", "b")}
    assert by_all_but_the_seed(both) == {"the same but for the seed": ["a", "b"]}


def test_groups_whose_short_names_are_the_same_stay_apart() -> None:
    base = dict.fromkeys(("k1", "k2", "k3", "k4", "k5"), 0)
    last = {**dict.fromkeys(base, 1), "k5": 2}
    configs = {"a": base, "b": dict.fromkeys(base, 1), "c": last}
    assert by_all_but_the_seed(configs) == {
        "k1 = 0, k2 = 0, k3 = 0, k4 = 0, …": ["a"],
        "k1 = 1, k2 = 1, k3 = 1, k4 = 1, …": ["b"],
        "k1 = 1, k2 = 1, k3 = 1, k4 = 1, … (3)": ["c"],
    }


def test_a_key_groups_by_its_value_in_words() -> None:
    assert by_key(CONFIGS, "moe.experts") == {
        "moe.experts = -": ["a", "b"],
        "moe.experts = 8": ["c"],
    }


@pytest.mark.parametrize(
    ("key", "is_one"), [("seed", True), ("data.random_seed", True), ("seeds_per_trial", False)]
)
def test_a_seed_is_known_by_its_last_word(key: str, is_one: bool) -> None:
    assert is_seed(key) == is_one


def test_values_are_said_on_one_line() -> None:
    assert [text_of(value) for value in ("a\nb", 0.1, [1, "ä"], None, True)] == [
        "a b",
        "0.1",
        "[1, 'ä']",
        "none",
        "True",
    ]


def test_numbers_are_told_from_words() -> None:
    assert numbers_of([1, 2.5]) == [1.0, 2.5]
    assert numbers_of([1, True]) is None
    assert numbers_of([1, None]) is None
    assert wants_log([1e-4, 1e-2])
    assert not wants_log([1.0, 4.0])
    assert not wants_log([0.0, 4.0])
