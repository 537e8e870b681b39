"""What waits to be packed is counted as the service would find it."""

import numpy as np

from moescope.platform.compacted.compaction import compact
from moescope.platform.compacted.waiting import waiting
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.store import Store


def _fill(store: Store, name: str, num_steps: int, status: str) -> Run:
    run = Run(name, name, "p", {}, status, "cpu", "0", 1.0, 2.0)  # type: ignore[arg-type]
    store.add_run(run)
    store.add_segment(Segment(name, 0, 0, "start", 1.0))
    values = {"loss/total": np.float32(1)}
    store.write_frames([Frame(name, 0, step, 1.0, values) for step in range(num_steps)])
    return run


def test_an_empty_store_has_nothing_before_it(store: Store) -> None:
    found = waiting(store)
    assert (found.num_runs, found.num_windows, found.num_packed) == (0, 0, 0)


def test_of_a_living_run_only_what_it_has_left_behind_counts(store: Store) -> None:
    run = _fill(store, "a", 3000, "running")  # 0 to 2047 are closed, as 256 more came
    assert (waiting(store).num_runs, waiting(store).num_windows) == (1, 2)
    assert compact(store, run) == 2
    found = waiting(store)
    assert (found.num_runs, found.num_windows, found.num_packed) == (1, 0, 2)


def test_of_a_run_that_has_ended_all_counts(store: Store) -> None:
    run = _fill(store, "a", 1100, "finished")
    assert waiting(store).num_windows == 2
    compact(store, run)
    assert (waiting(store).num_runs, waiting(store).num_windows) == (0, 0)


def test_more_than_a_few_are_not_counted(store: Store) -> None:
    _fill(store, "a", 5000, "finished")
    found = waiting(store, most=3)
    assert (found.num_windows, found.is_more) == (3, True)
