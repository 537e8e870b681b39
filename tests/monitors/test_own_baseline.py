import numpy as np
import pytest

from moescope.monitors.detectors.own_baseline import Change, Multiple, OwnBaseline
from moescope.monitors.windows import MAD_TO_SIGMA


def steady(num: int, seed: int = 0) -> np.ndarray:
    """Two entries of levels 1 and 100, spread 2% each."""
    noise = 0.02 * np.random.default_rng(seed).standard_normal((num, 2))
    return np.array([1.0, 100.0]) * np.exp(noise)


def test_level_and_spread_are_median_and_mad_of_what_was_accepted() -> None:
    baseline = OwnBaseline(window=8, min_count=3, floor=0.0)
    for value in (1.0, 2.0, 4.0, 100.0):
        baseline.learn(np.array([value]), np.array([value > 50]))
    level, spread = baseline.level_and_spread(1)
    # of 1, 2, 4: median 2, distances 1, 0, 2
    assert level.tolist() == [2.0]
    assert spread == pytest.approx(np.array([MAD_TO_SIGMA * 1.0]))


def test_an_entry_is_judged_only_once_it_has_values_enough_of_its_own() -> None:
    baseline = OwnBaseline(window=8, min_count=2, floor=0.1)
    for value in ([1.0, np.nan], [1.0, np.nan], [1.0, 5.0]):
        baseline.learn(np.array(value), np.zeros(2, bool))
    level, _ = baseline.level_and_spread(2)
    assert level[0] == 1.0
    assert np.isnan(level[1])
    assert baseline.is_ready


def test_a_rise_is_seen_in_the_entry_where_it_happens_whatever_its_level() -> None:
    change = Change(1.0, window=32, min_count=8, floor=0.05, is_log=True)
    for row in steady(30):
        assert change.update(row).max() < 4
    z = change.update(np.array([1.0, 200.0]))
    # ln 2 over the floor of 0.05
    assert z[0] < 4 < z[1] == pytest.approx(np.log(2) / 0.05, rel=0.05)


def test_a_fall_is_bad_where_falls_are_asked_for() -> None:
    change = Change(-1.0, window=32, min_count=8, floor=0.05)
    for _ in range(10):
        change.update(np.array([1.0]))
    assert change.update(np.array([0.5])).tolist() == [10.0]
    assert change.update(np.array([2.0])).tolist() == [-20.0]


def test_a_rejected_value_never_enters_its_own_window() -> None:
    change = Change(1.0, window=32, min_count=8, floor=0.05)
    for _ in range(10):
        change.update(np.array([1.0]))
    first = change.update(np.array([3.0]))
    for _ in range(20):
        assert change.update(np.array([3.0])) == first


def test_one_nan_neither_blinds_nor_latches() -> None:
    change, other = (Change(1.0, window=32, min_count=8, floor=0.05) for _ in range(2))
    for step in range(20):
        row = np.array([1.0, 2.0]) + 0.01 * (step % 3)
        change.update(np.array([np.nan, row[1]]) if step == 12 else row)
        other.update(row)
    z, want = (c.update(np.array([5.0, 2.0])) for c in (change, other))
    assert z[0] == pytest.approx(want[0], rel=0.02)
    assert z[1] == want[1]


def test_an_entry_that_has_settled_elsewhere_is_learnt_anew() -> None:
    change = Change(1.0, window=16, min_count=8, floor=0.05)
    for _ in range(16):
        change.update(np.array([1.0, 1.0]))
    zs = [change.update(np.array([3.0, 1.0])) for _ in range(40)]
    assert zs[0][0] > 4
    assert zs[-1].tolist() == [0.0, 0.0]


def test_another_number_of_entries_begins_anew() -> None:
    change = Change(1.0, window=16, min_count=4, floor=0.05)
    for _ in range(8):
        change.update(np.array([1.0]))
    assert change.update(np.array([9.0, 9.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["change", "multiple"])
def test_a_saved_state_goes_on_as_if_it_had_not_been_saved(kind: str) -> None:
    def made() -> Change | Multiple:
        if kind == "change":
            return Change(1.0, window=16, min_count=4, floor=0.05)
        return Multiple(window=16, min_count=4, lag=3)

    whole, first, second = made(), made(), made()
    rows = steady(40, seed=3)
    for row in rows[:17]:
        whole.update(row)
        first.update(row)
    if isinstance(first, Change) and isinstance(second, Change):
        second.baseline.load_state_dict(first.baseline.state_dict())
    elif isinstance(first, Multiple) and isinstance(second, Multiple):
        second.load_state_dict(first.state_dict())
    for row in rows[17:]:
        assert np.array_equal(whole.update(row), second.update(row))


def test_a_multiple_is_of_the_median_some_steps_ago() -> None:
    multiple = Multiple(window=50, min_count=10, lag=5)
    for _ in range(15):
        assert multiple.update(np.array([0.2])).tolist() == [0.0]  # still learning
    assert multiple.update(np.array([0.5])) == pytest.approx(np.array([2.5]))


def test_what_takes_twice_as_long_for_long_does_not_become_usual_at_once() -> None:
    multiple = Multiple(window=50, min_count=10, lag=5)
    for _ in range(30):
        multiple.update(np.array([0.2]))
    slow = [multiple.update(np.array([0.4]))[0] for _ in range(120)]
    assert slow[:50] == pytest.approx([2.0] * 50)
    # after as many as the window is long it is
    assert slow[-1] == pytest.approx(1.0)


def test_a_slow_step_that_heals_is_no_part_of_the_usual() -> None:
    multiple = Multiple(window=50, min_count=10, lag=5)
    for step in range(60):
        multiple.update(np.array([5.0 if step % 9 == 0 else 0.2]))
    assert multiple.update(np.array([0.2])) == pytest.approx(np.array([1.0]))
