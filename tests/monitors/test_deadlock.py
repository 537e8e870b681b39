import csv
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from moescope.monitors.detectors.deadlock import Deadlock, minority_share
from moescope.monitors.expert_signals import leaders_share
from moescope.monitors.vector_scoring import DeadlockScorer, thirds
from moescope.platform import catalogue

EVEN = [25, 25, 25, 25]
STUCK = [98, 1, 1, 0]


def feed(deadlock: Deadlock, steps: range, rows: list[list[int]]) -> np.ndarray:
    found = np.zeros(len(rows), bool)
    for step in steps:
        found = deadlock.update(step, np.array(rows, np.float32))
    return found


def test_the_minority_share_is_that_of_the_less_busy_half() -> None:
    tokens = np.array([[50, 50], [90, 10], [98, 2], [0, 0]])
    # the paper's health line is at 0.1, uniform 0.5
    assert minority_share(tokens) == pytest.approx(np.array([0.5, 0.1, 0.02, 0.5]))
    assert minority_share(np.array([[4, 3, 2, 1, 0]])) == pytest.approx(np.array([0.1]))
    assert minority_share(np.array([[7]])).tolist() == [0.5]


def test_only_the_layers_that_are_stuck_are_named_and_since_when() -> None:
    deadlock = Deadlock(memory_steps=10, min_steps=20)
    assert not feed(deadlock, range(50), [EVEN, EVEN, EVEN]).any()
    found = feed(deadlock, range(50, 120), [EVEN, STUCK, EVEN])
    assert found.tolist() == [False, True, False]
    # the memory of ten steps has to see it first
    onset = deadlock.onset_step()
    assert onset is not None
    assert 50 < onset <= 80


def test_a_layer_that_recovers_is_told() -> None:
    deadlock = Deadlock(memory_steps=10, min_steps=20)
    feed(deadlock, range(100), [STUCK, EVEN])
    found = feed(deadlock, range(100, 200), [EVEN, EVEN])
    assert not found.any()
    [[layer, step]] = deadlock.recovered()
    assert layer == 0
    assert 119 < step < 200
    assert deadlock.onset_step() is None


def test_a_flicker_is_no_deadlock_and_early_training_is_forgiven() -> None:
    deadlock = Deadlock(memory_steps=10, min_steps=20)
    for first in range(0, 400, 20):
        assert not feed(deadlock, range(first, first + 12), [STUCK]).any()
        assert not feed(deadlock, range(first + 12, first + 20), [EVEN]).any()
    assert not feed(Deadlock(memory_steps=50, min_steps=50), range(90), [STUCK]).any()


def test_a_step_in_which_a_layer_did_not_run_changes_nothing() -> None:
    deadlock = Deadlock(memory_steps=10, min_steps=20)
    feed(deadlock, range(100), [STUCK])
    assert feed(deadlock, range(100, 300), [[0, 0, 0, 0]]).tolist() == [True]


def test_top_2_of_4_that_is_balanced_over_time_is_none() -> None:
    deadlock, chance = Deadlock(memory_steps=10, min_steps=20), np.random.default_rng(0)
    for step in range(200):
        row = [[0, 0, 50, 50]] if chance.random() < 0.5 else [[50, 50, 0, 0]]
        assert not deadlock.update(step, np.array(row)).any()


def test_a_saved_state_goes_on_as_if_it_had_not_been_saved() -> None:
    whole, first, second = (Deadlock(memory_steps=10, min_steps=20) for _ in range(3))
    rows = [[STUCK, EVEN] if step > 30 else [EVEN, EVEN] for step in range(120)]
    for step in range(60):
        whole.update(step, np.array(rows[step]))
        first.update(step, np.array(rows[step]))
    second.load_state_dict(first.state_dict())
    for step in range(60, 120):
        want = whole.update(step, np.array(rows[step]))
        assert np.array_equal(want, second.update(step, np.array(rows[step])))
    assert whole.state_dict().keys() == second.state_dict().keys()
    assert whole.onset_step() == second.onset_step()
    fresh = Deadlock()
    fresh.load_state_dict(Deadlock().state_dict())
    assert fresh.onset_step() is None


def test_the_alarm_names_layers_their_place_in_depth_and_recoveries() -> None:
    scorer = DeadlockScorer({"memory_steps": 10, "min_steps": 20})
    rows = np.array([STUCK, EVEN, EVEN, EVEN, EVEN, STUCK], np.float32)
    for step in range(100):
        score = scorer.update(step, {catalogue.EXPERT_TOKENS: rows})["deadlock"]
    assert score.value == 2.0
    assert score.evidence["layers"] == [0, 5]
    assert score.evidence["num_in_thirds_of_depth"] == [1, 0, 1]
    assert score.recorded[catalogue.DEADLOCKED].tolist() == [1, 0, 0, 0, 0, 1]
    assert thirds(np.array([True, True, False, False])) == [2, 0, 0]


def test_converged_public_models_are_not_called_deadlocked() -> None:
    beside = Path(__file__).parents[3] / "shared" / "data"
    path = (
        Path(os.environ.get("MOESCOPE_DATA", beside))
        / "curves"
        / "routing"
        / "olmoe_mixtral_expert_counts.csv"
    )
    if not path.exists():
        pytest.skip(f"no recorded routing counts at {path}")
    counts: dict[tuple[str, ...], dict[int, int]] = defaultdict(dict)
    with path.open() as file:
        for row in csv.DictReader(file):
            key = (row["model"], row["kind"], row["dataset"], row["layer"])
            counts[key][int(row["expert"])] = int(row["count"])
    assert len(counts) > 20
    stuck = []
    for key, found in counts.items():
        num = 64 if key[0] == "olmoe" else 8
        tokens = np.array([[found.get(expert, 0) for expert in range(num)]])
        if minority_share(tokens)[0] < 0.1 and leaders_share(tokens)[0] > 0.9:
            stuck.append(key)
    assert stuck == []
