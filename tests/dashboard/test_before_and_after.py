"""The table of an incident: means before and after, the extreme between, and its words."""

from typing import Any

import numpy as np
import pytest

from moescope.dashboard.before_and_after import Row, row_of
from moescope.dashboard.words_of_incidents import not_recovered, table
from moescope.platform import catalogue
from moescope.platform.incident_story import Recovery
from moescope.platform.records import Segment, Series

START = Segment("r", 0, 0, "start", 0.0)
BACK = Segment("r", 1, 50, "rollback", 1.0, 0, 49)


def _series(points: list[tuple[int, int, Any]], signal: str = catalogue.LOSS_TOTAL) -> Series:
    segments, steps, values = zip(*points, strict=True)
    return Series(
        signal,
        np.array(segments, np.int32),
        np.array(steps, np.int64),
        np.zeros(len(steps)),
        np.array(values, np.float32),
    )


def test_before_is_what_led_to_it_and_after_what_came_of_it(make: Any) -> None:
    alert = make.alert("r", onset_step=60, fired_step=63)
    # the two steps before the onset may be in it already; step 62 is the worst
    points: list[tuple[int, int, Any]] = [(0, step, 1.0) for step in range(58)]
    points += [(0, 58, 9.0), (0, 59, 9.0)]
    points += [(0, 60, 5.0), (0, 61, 6.0), (0, 62, 8.0), (0, 63, 5.0)]
    points += [(1, step, 2.0) for step in range(50, 70)]
    recovery = Recovery(59, 1, 10, 2.0, 1.0)
    row = row_of(_series(points), "loss", alert, [START, BACK], recovery)
    assert row == Row(catalogue.LOSS_TOTAL, "loss", 1.0, 8.0, 62, 2.0)


def test_without_a_recovery_the_newest_ten_points_stand_for_now(make: Any) -> None:
    alert = make.alert("r", onset_step=60, fired_step=63)
    points = [(0, step, float(step)) for step in range(100)]
    row = row_of(_series(points), "loss", alert, [START], None)
    # the mean of 90 to 99
    assert (row.after, row.worst, row.worst_step) == (94.5, 99.0, 99)


def test_what_an_earlier_rollback_abandoned_is_not_what_led_to_it(make: Any) -> None:
    alert = make.alert("r", segment=1, onset_step=60, fired_step=63)
    points = [(0, step, 7.0) for step in range(50, 58)] + [(1, s, 1.0) for s in range(50, 64)]
    assert row_of(_series(points), "loss", alert, [START, BACK], None).before == 1.0


def test_of_a_vector_the_highest_entry_counts_and_of_a_speed_the_lowest_value(make: Any) -> None:
    alert = make.alert("r", onset_step=60, fired_step=63)
    layers = [(0, 10, (0.1, 0.3)), (0, 60, (0.2, 0.9))]
    row = row_of(_series(layers, catalogue.MAX_VIOLATION), "MaxVio", alert, [START], None)
    assert (row.before, row.worst) == (pytest.approx(0.3), pytest.approx(0.9))
    speeds = [(0, 10, 100.0), (0, 60, 20.0), (0, 61, 90.0)]
    row = row_of(_series(speeds, catalogue.TOKENS_PER_S), "speed", alert, [START], None)
    assert (row.worst, row.worst_step) == (20.0, 60)


def test_a_value_that_is_not_finite_is_the_worst(make: Any) -> None:
    alert = make.alert("r", onset_step=60, fired_step=63)
    points = [(0, 10, 1.0), (0, 60, 5.0), (0, 61, float("nan")), (0, 62, 9.0)]
    row = row_of(_series(points), "loss", alert, [START], None)
    assert np.isnan(row.worst or 0.0)
    assert row.worst_step == 61


def test_the_table_says_what_was_not_measured() -> None:
    rows = [
        Row("loss/total", "loss", 1.0, float("nan"), 61, None),
        Row("x", "tokens | per second", None, 2.0, None, 1234.5),
    ]
    lines = table(rows, is_recovered=True).splitlines()
    assert lines[0] == "| | before | at the worst | after recovery |"
    assert lines[2] == "| loss | 1 | **not a number** :gray[step 61] | not measured |"
    assert lines[3] == r"| tokens \| per second | not measured | 2 | 1,234 |"
    assert "now" in table(rows, is_recovered=False)


def test_why_there_is_no_recovery_is_said() -> None:
    far = Recovery(None, None, 40, 5.0, 1.0)
    assert not_recovered(far, "running").startswith("not yet: 40 steps since the alarm")
    assert not_recovered(far, "crashed").startswith("the run has crashed before: 40 steps")
    assert not_recovered(Recovery(None, None, 400, 5.0, 1.0), "running").startswith("not within")
    assert "too little was measured" in not_recovered(None, "running")
