import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.detectors.experts import DeadExperts, Monopoly


def test_an_expert_without_tokens_is_dead_after_the_window_and_no_earlier() -> None:
    dead = DeadExperts(min_expected=20, min_steps=50)
    tokens_LE = np.array([[100, 100, 0, 200]])
    found = [dead.update(tokens_LE) for _ in range(60)]
    assert not any(is_dead.any() for is_dead in found[:49])
    assert np.argwhere(found[49]).tolist() == [[0, 2]]
    assert dead.longest_idle_steps() == 60


def test_one_micro_batch_never_kills_an_expert() -> None:
    dead = DeadExperts(min_expected=20, min_steps=50)
    assert not dead.update(np.array([[100_000, 0]])).any()


def test_few_tokens_take_longer_than_the_window() -> None:
    dead = DeadExperts(min_expected=20, min_steps=50)
    # 1 token over 4 experts: 0.25 expected a step, so 20 of them take 80 steps
    tokens_LE = np.array([[1, 0, 0, 0]])
    found = [bool(dead.update(tokens_LE).any()) for _ in range(90)]
    assert found.index(True) == 79


def test_one_token_brings_an_expert_back() -> None:
    dead = DeadExperts(min_steps=5)
    for _ in range(10):
        dead.update(np.array([[100, 0]]))
    assert dead.update(np.array([[100, 0]])).any()
    assert not dead.update(np.array([[100, 1]])).any()


def test_a_layer_where_two_of_eight_do_nearly_everything_is_a_monopoly() -> None:
    monopoly = Monopoly(memory_steps=5)
    tokens_LE = np.array([[48, 47, 1, 1, 1, 1, 1, 0], [25] * 8])
    found = [monopoly.update(tokens_LE) for _ in range(5)]
    assert found[3].tolist() == [0.0, 0.0]  # too early to say
    assert found[4] == pytest.approx(np.array([0.95, 0.0]))


def test_one_lopsided_batch_is_diluted_by_those_before_it() -> None:
    monopoly = Monopoly(memory_steps=50)
    for _ in range(60):
        monopoly.update(np.array([[25] * 8]))
    assert monopoly.update(np.array([[100, 100, 0, 0, 0, 0, 0, 0]])).tolist() == [0.0]


def test_a_layer_that_sat_steps_out_is_not_said_to_have_dead_experts() -> None:
    dead = DeadExperts(min_expected=20, min_steps=5)
    # an expert of the second layer misses two steps in a row, between which the layer did not run
    ran, rested = np.array([[50, 50], [100, 0]]), np.array([[50, 50], [0, 0]])
    found = [dead.update(counts_LE) for counts_LE in (ran, *[rested] * 60, ran)]
    assert not any(is_dead.any() for is_dead in found)
    for _ in range(2):
        assert not dead.update(ran).any()
    # the fifth step in which it ran; idle since the first of all 65
    assert np.argwhere(dead.update(ran)).tolist() == [[1, 1]]
    assert dead.longest_idle_steps() == 65


def test_a_layer_that_sat_steps_out_is_judged_by_those_in_which_it_ran() -> None:
    monopoly, always = Monopoly(memory_steps=5), Monopoly(memory_steps=5)
    lopsided, rested = [48, 47, 1, 1, 1, 1, 1, 0], [0] * 8
    found = [
        float(monopoly.update(np.array([row]))[0]) for _ in range(5) for row in (rested, lopsided)
    ]
    # too early to say before its fifth step, which is the tenth of all
    assert found[:9] == [0.0] * 9
    assert found[9] == pytest.approx(0.95)
    for _ in range(5):
        want = float(always.update(np.array([lopsided]))[0])
    assert found[9] == pytest.approx(want)


def test_windows_of_a_checkpoint_from_before_layers_could_rest_are_read() -> None:
    dead, monopoly = DeadExperts(min_steps=3), Monopoly(memory_steps=5)
    row = np.array([[100, 0, 60, 0]])
    for _ in range(4):
        dead.update(row)
        monopoly.update(row)
    old_dead, old_monopoly = dead.state_dict(), monopoly.state_dict()
    del old_dead["all_steps_LE"], old_monopoly["num_steps_L"]
    old_monopoly["num_steps"] = 4
    new_dead, new_monopoly = DeadExperts(min_steps=3), Monopoly(memory_steps=5)
    new_dead.load_state_dict(old_dead)
    new_monopoly.load_state_dict(old_monopoly)
    assert new_dead.update(row).tolist() == dead.update(row).tolist()
    assert new_dead.longest_idle_steps() == dead.longest_idle_steps() == 5
    assert new_monopoly.update(row).tolist() == monopoly.update(row).tolist()


counts = st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=5, max_size=30)


@settings(max_examples=30, deadline=None)
@given(counts, st.integers(0, 30))
def test_expert_windows_split_in_two_say_the_same(rows: list[list[int]], at: int) -> None:
    def run(dead: DeadExperts, monopoly: Monopoly, part: list[list[int]]) -> list[list[float]]:
        return [
            [*dead.update(np.array([row]))[0].tolist(), *monopoly.update(np.array([row])).tolist()]
            for row in part
        ]

    def fresh() -> tuple[DeadExperts, Monopoly]:
        return DeadExperts(min_expected=3, min_steps=3), Monopoly(memory_steps=4)

    expected = run(*fresh(), rows)
    first, second = fresh(), fresh()
    found = run(*first, rows[:at])
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(first[1].state_dict())
    assert found + run(*second, rows[at:]) == expected
