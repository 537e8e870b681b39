"""A rule's scope: which entries of a vector signal count."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge
from moescope.monitors.rules import Rule, read_rules
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError

DEAD: dict[str, Any] = {
    "name": "dead_below",
    "signal": catalogue.EXPERT_TOKENS,
    "detector": "dead_experts",
    "parameters": {"min_expected": 20, "min_steps": 3},
    "threshold": 0.0,
    "severity": "warning",
    "delay_p99_steps": 5,
    "message": "experts of the lower layers are idle",
}


def tokens(dead: tuple[int, int]) -> dict[str, Any]:
    counts_LE = np.full((3, 4), 50)
    counts_LE[dead] = 0
    return {catalogue.EXPERT_TOKENS: counts_LE}


def first_alert(rule: Rule, dead: tuple[int, int]) -> Any:
    judge = Judge([rule], "run")
    for step in range(10):
        judgement = judge.step(step, 0, 0.0, tokens(dead))
        if judgement.alerts:
            return judgement.alerts[0], judgement.scores
    return None, {}


def test_only_the_chosen_layers_count_and_are_named_by_their_own_index() -> None:
    (rule,) = read_rules([DEAD | {"scope": {"moe_layer": [1, 2]}}])
    assert first_alert(rule, (0, 3))[0] is None
    alert, scores = first_alert(rule, (2, 3))
    assert alert.evidence["layer_expert"] == [[2, 3]]
    assert alert.evidence["scope"] == {"moe_layer": [1, 2]}
    # the catalogue's signal is the one of all layers
    assert scores == {}


def test_two_dimensions_are_chosen_from_together() -> None:
    (rule,) = read_rules([DEAD | {"scope": {"moe_layer": [0], "expert": [1, 3]}}])
    assert first_alert(rule, (0, 2))[0] is None
    assert first_alert(rule, (0, 3))[0].evidence["layer_expert"] == [[0, 3]]


def test_an_entry_of_a_vector_is_named_in_the_whole() -> None:
    row = DEAD | {
        "signal": catalogue.ACTIVATION_ABSMAX,
        "detector": "above",
        "parameters": {},
        "threshold": 5.0,
        "scope": {"layer": [2, 4]},
    }
    judge = Judge(read_rules([row]), "run")
    for values, expected in (([9, 9, 1, 9, 1, 9], None), ([1, 1, 1, 1, 8, 1], 4)):
        found = judge.step(0, 0, 0.0, {catalogue.ACTIVATION_ABSMAX: np.array(values)}).alerts
        assert [alert.evidence["layer"] for alert in found] == [expected] * bool(expected)


def test_a_named_entry_keeps_its_name() -> None:
    signal = catalogue.ROUTING_BY_REGION
    row = DEAD | {
        "signal": signal,
        "detector": "above",
        "parameters": {},
        "threshold": 5.0,
        "scope": {"region": ["middle", "bottom"]},
    }
    share_LRE = np.zeros((2, 9, 4))
    share_LRE[1, 7, 3], share_LRE[0, 0, 0] = 9.0, 99.0
    (alert,) = Judge(read_rules([row]), "run").step(0, 0, 0.0, {signal: share_LRE}).alerts
    found = [alert.evidence[name] for name in ("layer", "region", "expert")]
    assert found == [1, "bottom", 3]


def test_signals_that_are_judged_together_are_chosen_from_together() -> None:
    collapse = next(rule for rule in DEFAULT_RULES if rule.detector == "collapse")
    (rule,) = read_rules([collapse.model_dump() | {"scope": {"moe_layer": [1]}, "patience": 1}])
    judge = Judge([rule], "run")
    found = []
    for step in range(80):
        entropy_L = np.array([2.0, 2.0 if step < 70 else 0.05])
        values = {catalogue.LOAD_ENTROPY_NATS: entropy_L, catalogue.ROUTER_ENTROPY_NATS: entropy_L}
        found += judge.step(step, 0, 0.0, values).alerts
    assert [alert.evidence["layer"] for alert in found] == [1]


def test_a_scope_outside_of_what_was_measured_gives_no_score() -> None:
    (rule,) = read_rules([DEAD | {"scope": {"moe_layer": [7]}}])
    assert first_alert(rule, (2, 3))[0] is None


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        pytest.param((4.0, 1.0), ["loss_spike"], id="video"),
        pytest.param((1.0, 4.0), ["loss_spike", "sound_spike"], id="audio"),
    ],
)
def test_a_rule_on_one_modality_does_not_hear_the_other(
    loss_stream: Callable, factors: tuple[float, float], expected: list[str]
) -> None:
    spike = next(rule for rule in DEFAULT_RULES if rule.name == "loss_spike")
    row = spike.model_dump() | {"name": "sound_spike", "scope": {"modality": ["audio"]}}
    judge, stream = Judge([spike, *read_rules([row])], "run"), loss_stream(5)
    for step in range(200):
        judge.step(step, 0, 0.0, stream.step(step))
    found = [
        alert.rule
        for step in range(200, 206)
        for alert in judge.step(step, 0, 0.0, stream.step(step, factors)).alerts
    ]
    assert sorted(found) == expected


def test_scopes_of_rules_on_one_signal_keep_their_own_baselines() -> None:
    rules = read_rules(
        [
            DEAD | {"name": "low", "scope": {"moe_layer": [0]}},
            DEAD | {"name": "high", "scope": {"moe_layer": [2]}},
        ]
    )
    judge = Judge(rules, "run")
    found = [a.rule for s in range(10) for a in judge.step(s, 0, 0.0, tokens((2, 1))).alerts]
    assert found == ["high"]
    assert len(judge.state_dict()["scorers"]) == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"scope": {"moe_layr": [0]}}, "did you mean moe_layer", id="dimension"),
        pytest.param({"scope": {"modality": ["audio"]}}, "there are: moe_layer, expert", id="none"),
        pytest.param({"scope": {"moe_layer": []}}, "names no entry", id="empty"),
        pytest.param({"scope": {"moe_layer": ["first"]}}, "counted from 0", id="word"),
        pytest.param(
            {"scope": {"moe_layer": [0, -1]}},
            "rule dead_below: scope.moe_layer.1 is -1: expected a name, or a number counted from 0",
            id="negative",
        ),
        pytest.param(
            {"scope": {"moe_layer": [1.5]}},
            "rule dead_below: scope.moe_layer.0 is 1.5: expected a name, or a number counted",
            id="fraction",
        ),
        pytest.param(
            {
                "signal": catalogue.LOSS_PER_SAMPLE,
                "detector": "spike",
                "parameters": {},
                "scope": {"modality": ["adio"]},
            },
            "did you mean audio",
            id="modality",
        ),
        pytest.param(
            {
                "signal": catalogue.LOSS_PER_SAMPLE,
                "detector": "spike",
                "parameters": {},
                "scope": {"sample": [0]},
            },
            "no dimension sample to choose from",
            id="sample",
        ),
    ],
)
def test_a_scope_that_cannot_be_is_one_line(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(MoescopeError) as caught:
        read_rules([DEAD | change])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "constrained" not in str(caught.value)
