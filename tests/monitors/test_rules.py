import inspect
from collections.abc import Callable
from typing import Any

import pytest

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.detectors.deadlock import Deadlock
from moescope.monitors.detectors.drift import DriftScore
from moescope.monitors.detectors.own_baseline import Change, Multiple
from moescope.monitors.detectors.spike import SpikeScore
from moescope.monitors.rules import (
    LIMITS,
    PARAMETERS,
    check_certification,
    read_rules,
)
from moescope.platform.errors import MoescopeError
from moescope.trainer.config import PolicyConfig

ROW: dict[str, Any] = {
    "name": "my_spike",
    "signal": "user/reward",
    "detector": "spike",
    "threshold": 5.0,
    "severity": "warning",
    "delay_p99_steps": 3,
    "message": "reward jumps",
}


def test_the_default_rules_survive_being_written_and_read() -> None:
    rows = [rule.model_dump() for rule in DEFAULT_RULES]
    assert read_rules(rows) == DEFAULT_RULES


def test_a_users_own_signal_can_have_a_rule() -> None:
    assert read_rules([ROW])[0].signal == "user/reward"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"signal": "loss/totl"}, "did you mean loss/total", id="unknown-signal"),
        pytest.param({"detector": "wave"}, "detector", id="unknown-detector"),
        pytest.param({"parameters": {"windw": 3}}, "did you mean window", id="unknown-parameter"),
        pytest.param({"patience": 4, "of_last": 2}, "patience is 4", id="patience-over-of-last"),
        pytest.param({"detector": "monopoly"}, "router/expert_tokens", id="wrong-signal"),
        pytest.param({"signal": "activation/rms"}, "dimensions layer", id="vector-signal"),
        pytest.param({"treshold": 4}, "did you mean threshold", id="unknown-field"),
        pytest.param({"severity": "bad"}, "severity", id="unknown-severity"),
        pytest.param({"parameters": {"floor": 0}}, "1e-12 to 1e+12", id="division-by-zero"),
        pytest.param({"parameters": {"window": 3.5}}, "whole number", id="half-a-step"),
        pytest.param({"parameters": {"window": 20}}, "before 48 values", id="never-ready"),
        pytest.param({"signal": "user/"}, "user/ has no name", id="no-name"),
        pytest.param({"delay_p99_steps": 10**9}, "1000000", id="no-end-of-delay"),
        pytest.param({"severity": "info", "action": "halt"}, "action is halt", id="idle-action"),
        pytest.param(
            {"signal": "loss/per_sample", "parameters": {"level_rate": 0.1}},
            "level_rate has no effect on loss/per_sample",
            id="level-of-its-own",
        ),
    ],
)
def test_a_wrong_rule_is_one_line_that_names_it(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(MoescopeError) as caught:
        read_rules([ROW | change])
    message = str(caught.value)
    assert expected in message
    assert message.count("rule my_spike: ") == 1
    assert "\n" not in message


def test_a_field_that_is_missing_is_named_and_the_rest_is_not_repeated() -> None:
    row = {name: value for name, value in ROW.items() if name != "threshold"}
    with pytest.raises(MoescopeError) as caught:
        read_rules([row])
    assert str(caught.value) == "rule my_spike: threshold: field required"


def test_every_parameter_has_limits_and_its_default_lies_within_them() -> None:
    of_detector: dict[str, Callable[..., object]] = {
        "spike": SpikeScore,
        "drift": DriftScore,
        "rise": Change,
        "multiple": Multiple,
        "deadlock": Deadlock,
    }
    for detector, made in of_detector.items():
        known = inspect.signature(made).parameters
        for name in PARAMETERS[detector] & known.keys():
            least, most = LIMITS[name]
            assert least <= known[name].default <= most, (detector, name)
    for detector, names in PARAMETERS.items():
        assert names <= LIMITS.keys(), detector


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"detector": "rise", "signal": "loss/per_sample"}, "which the samples of loss/per_sample"),
        ({"detector": "collapse", "signal": "router/entropy_nats"}, "give it that signal"),
        ({"detector": "rise", "parameters": {"min_count": 100}}, "make it longer"),
        ({"detector": "above", "parameters": {"window": 9}}, "has no parameter window"),
        ({"detector": "deadlock"}, "does not fit signal user/reward"),
    ],
)
def test_a_detector_of_vectors_that_does_not_fit_is_told(
    change: dict[str, Any], words: str
) -> None:
    with pytest.raises(MoescopeError, match=words):
        read_rules([ROW | {"parameters": {}} | change])


@pytest.mark.parametrize("change", [{"is_dry_run": True}, {"is_on": False}])
def test_a_rule_that_does_nothing_impugns_nothing(change: dict[str, Any]) -> None:
    row = ROW | {"action": "rollback"}
    assert read_rules([row])[0].impugns_state
    assert not read_rules([row | change])[0].impugns_state


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(MoescopeError, match="my_spike is there 2 times"):
        read_rules([ROW, ROW])


def test_a_certificate_must_wait_for_the_slowest_rollback_rule() -> None:
    slowest = max(rule.delay_p99_steps for rule in DEFAULT_RULES if rule.action == "rollback")
    check_certification(DEFAULT_RULES, slowest)
    with pytest.raises(MoescopeError, match=r"policy.certify_after_steps is .* use at least"):
        check_certification(DEFAULT_RULES, slowest - 1)


def test_the_trainers_default_waits_long_enough() -> None:
    check_certification(DEFAULT_RULES, PolicyConfig().certify_after_steps)
    assert PolicyConfig().certify_after_steps >= 12
