"""What a person asked for, read into a configuration."""

from pathlib import Path

import pytest

from moescope.platform.errors import MoescopeError
from moescope.trainer.asked import asked_changes, new_config, resumed_config
from moescope.trainer.recipes.stream import tiny


def test_an_option_and_its_key_say_the_same_thing(tmp_path: Path) -> None:
    by_option = asked_changes((), {"data.folder": str(tmp_path), "steps": 7})
    by_key = asked_changes([f"data.folder={tmp_path}", "steps=7"])
    assert by_option == by_key == {"data.folder": str(tmp_path), "steps": 7}


def test_options_that_were_not_given_change_nothing() -> None:
    assert asked_changes((), {"steps": None, "policy.mode": None}) == {}


def test_the_same_value_given_twice_is_no_contradiction() -> None:
    assert asked_changes(["steps=7"], {"steps": 7}) == {"steps": 7}


def test_a_relative_folder_is_remembered_as_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = new_config("tiny", asked_changes((), {"data.folder": "clips"}))
    assert config.data.folder == str(tmp_path / "clips")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("optim.learning_rate=1e-4", 1e-4, id="a number without a dot"),
        pytest.param("policy.mode=on", "on", id="a word that YAML takes for true"),
        pytest.param("objective.are_modalities_tied=true", True, id="true"),
        pytest.param("data.folder=", "", id="nothing"),
        pytest.param("project=a=b", "a=b", id="an equals sign in the value"),
    ],
)
def test_a_value_is_read_as_it_is_meant(text: str, expected: object) -> None:
    (value,) = asked_changes([text]).values()
    assert value == expected


def test_a_resumed_run_keeps_its_own_configuration_but_for_the_changes() -> None:
    stored = tiny().model_dump(mode="json") | {"seed": 5}
    config = resumed_config(stored, {"steps": 9}, "old")
    assert (config.seed, config.steps, config.optim) == (5, 9, tiny().optim)


def test_a_configuration_of_another_program_is_refused_by_name() -> None:
    stored = tiny().model_dump(mode="json") | {"flavour": "sweet"}
    with pytest.raises(MoescopeError, match=r"configuration of old: unknown key flavour"):
        resumed_config(stored, {}, "old")


def test_a_training_that_was_only_watched_is_not_resumed_here() -> None:
    with pytest.raises(MoescopeError, match="run mine is a training of another program"):
        resumed_config({"recipe": "watched Model", "watched": {}}, {}, "mine")


def test_a_change_without_effect_is_refused_on_a_resume_too() -> None:
    with pytest.raises(MoescopeError, match=r"guard\.extreme_factor has no effect"):
        resumed_config(
            tiny().model_dump(mode="json"),
            {"guard.is_on": False, "guard.extreme_factor": 9.0},
            "old",
        )
