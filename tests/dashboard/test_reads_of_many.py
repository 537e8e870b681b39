"""What the page that compares reads, against a store with a spike and a rollback."""

from typing import Any

import numpy as np
import pytest

from moescope.dashboard.reads_of_many import (
    compared,
    final_of,
    find_runs,
    labels_of,
    lines_of,
    results_of,
    scalars_of,
)
from moescope.platform import catalogue
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.store import Store


def counted_run(store: Store, make: Any, name: str, num_tokens: float) -> Run:
    """100 steps whose loss falls from 1 to 0.01, of so many tokens each, two seconds apart."""
    run: Run = make.run(name, finished_s=None)
    store.add_run(run)
    store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
    ones = [
        {catalogue.LOSS_TOTAL: 1 - step / 100, catalogue.STEP_TOKENS: num_tokens}
        for step in range(100)
    ]
    store.write_frames(
        [
            Frame(run.id, 0, step, 1000.0 + 2 * step, {k: np.float32(v) for k, v in one.items()})
            for step, one in enumerate(ones)
        ]
    )
    return run


def test_runs_are_found_by_id_or_name_and_each_once(store: Store, spiked_run: Run) -> None:
    wanted = [spiked_run.id, spiked_run.name, "nobody"]
    assert find_runs(store, wanted) == ([spiked_run], ["nobody"])


def test_runs_of_one_name_are_told_apart(make: Any) -> None:
    runs = [make.run("a"), make.run("a", id="0123456789"), make.run("b")]
    assert labels_of(runs) == {
        "id-a": "a (id-a)", "0123456789": "a (01234567)", "id-b": "b",
    }  # fmt: skip


def test_each_run_has_its_own_clock(store: Store, make: Any) -> None:
    runs = [counted_run(store, make, "small", 10), counted_run(store, make, "large", 1000)]
    small, large = lines_of(compared(store, runs, "tokens"), catalogue.LOSS_TOTAL, None, 0)
    # the mark of a step lies at its end: step 99 is the hundredth
    assert (small.x[-1], large.x[-1]) == (pytest.approx(1000), pytest.approx(100_000))
    hours = lines_of(compared(store, runs, "hours"), catalogue.LOSS_TOTAL, None, 0)
    assert (hours[0].x[0], hours[0].x[-1]) == (pytest.approx(0), pytest.approx(198 / 3600))


def test_a_range_is_of_the_axis_and_so_of_other_steps_in_each_run(store: Store, make: Any) -> None:
    runs = [counted_run(store, make, "small", 10), counted_run(store, make, "large", 100)]
    small, large = lines_of(compared(store, runs, "tokens"), catalogue.LOSS_TOTAL, (400, 800), 0)
    assert (small.bands.steps[0], small.bands.steps[-1]) == (39, 79)
    assert (large.bands.steps[0], large.bands.steps[-1]) == (3, 7)


def test_a_run_without_tokens_is_left_out_across_tokens(
    store: Store, spiked_run: Run, make: Any
) -> None:
    runs = [spiked_run, counted_run(store, make, "counted", 10)]
    found = compared(store, runs, "tokens")
    assert [one.clock is None for one in found] == [True, False]
    assert [line.name for line in lines_of(found, catalogue.LOSS_TOTAL, None, 0)] == ["counted"]


def test_only_what_counts_is_drawn(store: Store, spiked_run: Run) -> None:
    (line,) = lines_of(compared(store, [spiked_run], "step"), catalogue.LOSS_TOTAL, None, 0)
    assert line.bands.high.max() == 1.0  # the spike of 5 is on the abandoned branch
    assert line.bands.steps.tolist() == list(range(91))


def test_scalars_are_offered_and_no_vectors(store: Store, spiked_run: Run) -> None:
    found = scalars_of(compared(store, [spiked_run], "step"))
    assert catalogue.LOSS_TOTAL in found
    assert catalogue.EXPERT_LOAD not in found


def test_what_a_run_came_to_in_golden_numbers(store: Store, make: Any) -> None:
    run = counted_run(store, make, "counted", 10)
    (one,) = compared(store, [run], "step")
    final = final_of(one, catalogue.LOSS_TOTAL)
    assert final.last == pytest.approx(0.01)
    assert (final.low, final.low_step) == (pytest.approx(0.01), 99)
    # steps 95 to 99: 0.05, 0.04, 0.03, 0.02, 0.01
    assert final.tail == pytest.approx(0.03)
    assert (final.num_steps, final.tokens, final.flops) == (100, pytest.approx(1000), None)
    assert final.hours == pytest.approx(300 / 3600, rel=0.01)


def test_the_lowest_value_is_of_what_counts(store: Store, make: Any) -> None:
    run = counted_run(store, make, "counted", 10)
    store.add_segment(Segment(run.id, 1, 50, "rollback", run.created_s, 0, 49))
    store.write_frames(
        [
            Frame(run.id, 1, 50 + i, 2000.0 + i, {catalogue.LOSS_TOTAL: np.float32(0.4)})
            for i in range(3)
        ]
    )
    (one,) = compared(store, [run], "step")
    final = final_of(one, catalogue.LOSS_TOTAL)
    assert (final.low, final.low_step, final.num_steps) == (pytest.approx(0.4), 50, 53)


def test_a_run_that_has_measured_nothing_came_to_nothing(store: Store, make: Any) -> None:
    run = make.run("bare")
    store.add_run(run)
    (one,) = compared(store, [run], "step")
    final = final_of(one, catalogue.LOSS_TOTAL)
    assert (final.last, final.low, final.tail, final.num_steps) == (None, None, None, 0)


def test_results_of_all_runs_come_without_those_that_ended_in_nan(store: Store, make: Any) -> None:
    good, bad = counted_run(store, make, "good", 1), counted_run(store, make, "bad", 1)
    store.write_frames([Frame(bad.id, 0, 100, 1.0, {catalogue.LOSS_TOTAL: np.float32("nan")})])
    store.add_run(make.run("bare"))
    (found,) = results_of(store, store.runs(), catalogue.LOSS_TOTAL)
    assert (found.run, found.last, found.low) == (good, pytest.approx(0.01), pytest.approx(0.01))
    assert found.config["steps"] == 600
