"""What the judge remembers over events, restores and splits; and vetting, which changes nothing."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge, Judgement
from moescope.platform import catalogue

Values = dict[str, Any]


SPOILED = (2.0, 2.0)


def judge() -> Judge:
    return Judge(DEFAULT_RULES, "run")


def run(
    judge: Judge, stream: Any, steps: range, change: Callable[[int, Values], Values] | None = None
) -> list[Judgement]:
    return [
        judge.step(step, 0, 1e9 + step, change(step, values) if change else values)
        for step in steps
        if (values := stream.step(step))
    ]


def alerts(found: list[Judgement]) -> list[tuple[str, int, int]]:
    return [(a.rule, a.onset_step, a.fired_step) for j in found for a in j.alerts]


@pytest.mark.parametrize("kind", ["resolution", "data_change"])
def test_an_announced_change_of_the_loss_is_no_alarm(loss_stream: Callable, kind: Any) -> None:
    stream, j = loss_stream(8), judge()
    run(j, stream, range(300))
    j.announce(kind, 300)
    found = [j.step(s, 0, 0.0, stream.step(s, (3.0, 3.0))) for s in range(300, 450)]
    assert alerts(found) == []
    assert not found[0].can_judge
    assert found[-1].can_judge
    found = [j.step(s, 0, 0.0, stream.step(s, (9.0, 9.0))) for s in range(450, 455)]
    assert [rule for rule, _, _ in alerts(found)] == ["loss_spike"]


def test_after_a_resume_spoiled_batches_are_still_found_at_once(loss_stream: Callable) -> None:
    stream, j = loss_stream(9), judge()
    run(j, stream, range(300))
    j.announce("resume", 300)
    assert j.vet(stream.step(300, SPOILED)).is_bad
    found = [j.step(s, 0, 0.0, stream.step(s, SPOILED)) for s in range(300, 305)]
    assert [rule for rule, _, _ in alerts(found)] == ["loss_spike"]


def test_an_event_that_explains_nothing_changes_nothing(loss_stream: Callable) -> None:
    first, second = judge(), judge()
    run(first, loss_stream(1), range(100))
    run(second, loss_stream(1), range(100))
    second.announce("checkpoint", 100)
    assert plain(first.state_dict()) == plain(second.state_dict())


def plain(value: Any) -> str:
    return json.dumps(value, default=lambda array: array.tolist())


def test_vetting_lets_clean_batches_pass_and_catches_spoiled_ones(loss_stream: Callable) -> None:
    num_clean_bad = num_spoiled_good = num = 0
    for seed in range(6):
        stream, j = loss_stream(seed), judge()
        run(j, stream, range(280))
        saved = j.state_dict()
        run(j, stream, range(280, 304))
        j.load_state_dict(saved)  # the rollback, some twenty steps
        run(j, stream, range(280, 300))
        for _ in range(100):
            num += 1
            num_clean_bad += j.vet(stream.step(300)).is_bad
            num_spoiled_good += not j.vet(stream.step(300, SPOILED)).is_bad
    assert num_clean_bad / num < 0.01
    assert num_spoiled_good == 0


def test_vetting_is_pure(loss_stream: Callable) -> None:
    stream, j = loss_stream(0), judge()
    run(j, stream, range(200))
    before = plain(j.state_dict())
    values = stream.step(200, SPOILED)
    assert j.vet(values) == j.vet(values)
    assert plain(j.state_dict()) == before


def test_a_batch_with_a_loss_that_is_no_number_is_bad(loss_stream: Callable) -> None:
    values = loss_stream(0).step(0)
    values[catalogue.LOSS_PER_SAMPLE][1, 0] = np.inf
    vetting = judge().vet(values)
    assert vetting.is_bad
    assert vetting.score == math.inf
    assert "not finite" in vetting.reason


def test_the_same_incident_is_named_the_same_after_a_restore(loss_stream: Callable) -> None:
    def incident(j: Judge) -> list[str]:
        stream = loss_stream(11)
        values = [stream.step(s, SPOILED if s >= 250 else (1, 1)) for s in range(256)]
        found = [j.step(s, 0, 0.0, v) for s, v in enumerate(values)]
        return [alert.id for judgement in found for alert in judgement.alerts]

    assert incident(judge()) == incident(judge()) == ["run-0-252-loss_spike"]


def test_a_relapse_within_the_cooldown_is_the_same_incident(loss_stream: Callable) -> None:
    stream, j = loss_stream(12), judge()
    run(j, stream, range(300))
    spoiled = {*range(300, 304), *range(312, 316)}
    found = [
        j.step(s, 0, 0.0, stream.step(s, SPOILED if s in spoiled else (1, 1)))
        for s in range(300, 320)
    ]
    assert [judgement.step for judgement in found if judgement.alerts] == [302, 314]
    assert found[14].alerts == found[2].alerts
    assert found[2].alerts[0].state == "open"
    held = {c.alert.id for judgement in found[14:16] for c in judgement.conditions}
    assert held == {found[2].alerts[0].id}


schedule = st.lists(
    st.sampled_from(["good", "good", "good", "bad", "nan", "no losses"]), min_size=1, max_size=30
)


@settings(max_examples=25, deadline=None)
@given(schedule, st.integers(0, 130), st.integers(0, 5))
def test_a_judge_split_in_two_finds_the_same(kinds: list[str], at: int, seed: int) -> None:
    # a short window, so that a hundred steps hold everything that can happen
    rules = [
        rule.model_copy(update={"parameters": {"window": 24, "min_count": 12}})
        if rule.signal == catalogue.LOSS_PER_SAMPLE
        else rule
        for rule in DEFAULT_RULES
    ]
    rng = np.random.default_rng(seed)
    series = []
    for step in range(100 + len(kinds)):
        kind = kinds[step - 100] if step >= 100 else "good"
        factor = 4.0 if kind == "bad" else 1.0
        values = {
            catalogue.LOSS_PER_SAMPLE: factor * np.exp(0.2 * rng.standard_normal((2, 4))),
            catalogue.LOSS_SIGMA: rng.random((2, 4)),
            catalogue.GRAD_NORM: np.array(np.nan if kind == "nan" else factor),
            catalogue.EXPERT_TOKENS: rng.integers(0, 3, (2, 4)),
            catalogue.DATA_BATCH: np.array(step),
        }
        if kind == "no losses":
            del values[catalogue.LOSS_PER_SAMPLE]
        series.append(values)

    def found(j: Judge, part: list[Values], start: int) -> list[str]:
        return [plain(asdict(j.step(start + i, 0, 0.0, v))) for i, v in enumerate(part)]

    expected = found(Judge(rules, "r"), series, 0)
    first, second = Judge(rules, "r"), Judge(rules, "r")
    result = found(first, series[:at], 0)
    second.load_state_dict(json.loads(plain(first.state_dict())))
    assert result + found(second, series[at:], at) == expected


def test_odd_batches_that_keep_coming_ask_for_vetting(loss_stream: Callable) -> None:
    stream, j = loss_stream(13), judge()
    run(j, stream, range(300))
    found = [
        j.step(s, 0, 0.0, stream.step(s, (6.0, 6.0) if s % 8 == 0 else (1, 1)))
        for s in range(300, 345)
    ]
    # 304, 312, ..., 344: never three of five, but six of fifty
    assert alerts(found) == [("odd_batches", 304, 344)]
    assert found[-1].conditions[0].action == "skip_data"
    assert found[-1].is_healthy
