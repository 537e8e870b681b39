import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.monitors.expert_signals import (
    avg_violation,
    effective_experts,
    expert_load,
    leaders_share,
    load_cv,
    load_entropy_nats,
    max_violation,
    min_violation,
)

uniform = np.full((1, 8), 25)
single = np.array([[0, 0, 0, 0, 0, 0, 0, 200]])


def test_load_is_relative_to_the_mean_of_the_layer() -> None:
    # 10 tokens over 4 experts: a mean of 2.5, so 5 tokens are twice the mean
    assert expert_load(np.array([[5, 5, 0, 0]])) == pytest.approx(np.array([[2.0, 2.0, 0.0, 0.0]]))


def test_max_violation_is_the_largest_load_less_one() -> None:
    assert max_violation(uniform) == pytest.approx(np.array([0.0]))
    assert max_violation(single) == pytest.approx(np.array([7.0]))  # E - 1


def test_min_and_average_violation_of_known_loads() -> None:
    tokens_LE = np.array([[6, 2, 2, 0]])  # loads 2.4, 0.8, 0.8, 0
    assert min_violation(tokens_LE) == pytest.approx(np.array([1.0]))
    assert avg_violation(tokens_LE) == pytest.approx(np.array([(1.4 + 0.2 + 0.2 + 1.0) / 4]))
    for violation in (min_violation, avg_violation, load_cv):
        assert violation(uniform) == pytest.approx(np.array([0.0]))


def test_the_load_cv_is_the_deviation_over_all_experts_by_the_mean() -> None:
    # mean 2.5, squares of distances 12.25 + 0.25 + 0.25 + 6.25: sqrt(19 / 4) / 2.5
    assert load_cv(np.array([[6, 2, 2, 0]])) == pytest.approx(np.array([0.8717798]))
    assert load_cv(np.zeros((1, 4))).tolist() == [0.0]


def test_effective_experts_are_as_many_as_share_the_work_evenly() -> None:
    assert effective_experts(uniform) == pytest.approx(np.array([8.0]))
    assert effective_experts(single) == pytest.approx(np.array([1.0]))
    assert effective_experts(np.array([[7, 7, 0, 0]])) == pytest.approx(np.array([2.0]))


def test_load_entropy_goes_from_nothing_to_the_logarithm_of_the_experts() -> None:
    assert load_entropy_nats(uniform) == pytest.approx(np.array([2.0794415]))  # ln 8 = 3 ln 2
    assert load_entropy_nats(single) == pytest.approx(np.array([0.0]))


def test_the_leaders_of_a_deadlocked_layer_are_the_experts_that_do_the_work() -> None:
    # the busiest does 48 of 100, so two would do: they do 95
    assert leaders_share(np.array([[48, 47, 1, 1, 1, 1, 1, 0]])) == pytest.approx(np.array([0.95]))
    assert leaders_share(single) == pytest.approx(np.array([1.0]))


def test_a_balanced_layer_has_no_leaders() -> None:
    # eight experts at the rate of the busiest are more than half of eight
    assert leaders_share(uniform).tolist() == [0.0]
    assert leaders_share(np.array([[60, 40]])).tolist() == [0.0]  # round(100 / 60) = 2 of two


def test_top_2_of_4_with_one_idle_expert_is_far_from_deadlock() -> None:
    # round(100 / 40) = 2 leaders, with 75 of 100
    assert leaders_share(np.array([[40, 35, 25, 0]])) == pytest.approx(np.array([0.75]))


def test_a_layer_without_tokens_gives_numbers() -> None:
    nothing = np.zeros((1, 4))
    assert expert_load(nothing).tolist() == [[0, 0, 0, 0]]
    assert load_entropy_nats(nothing).tolist() == [0]
    assert leaders_share(nothing).tolist() == [0]
    assert leaders_share(np.array([[7]])).tolist() == [0]  # a single expert leads nobody
    assert leaders_share(np.zeros((2, 0))).tolist() == [0, 0]


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=16).filter(sum))
def test_loads_have_mean_one_and_entropy_its_bounds(counts: list[int]) -> None:
    tokens_LE = np.array([counts])
    assert float(expert_load(tokens_LE).mean()) == pytest.approx(1.0, rel=1e-5)
    assert -1e-6 <= load_entropy_nats(tokens_LE)[0] <= np.log(len(counts)) + 1e-6
    assert -1e-6 <= leaders_share(tokens_LE)[0] <= 1 + 1e-6
