"""Compaction works beside others: who reads or writes in the middle of it misses and loses
nothing.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moescope.platform import tables
from moescope.platform.compacted import compaction, reading, retention, rollup_reading
from moescope.platform.compacted.compaction import compact
from moescope.platform.compacted.retention import Rule, retain
from moescope.platform.matrices import read_matrix
from moescope.platform.records import Alert, Frame, Run
from moescope.platform.series import read_series
from moescope.platform.store import Store, open_store
from moescope.platform.store_check import check_store

RUN = Run("r", "run", "p", {}, "running", "cpu", "0", 0.0, 0.0)
ENDED = replace(RUN, status="finished")
LOSS, LOAD = "loss/total", "router/expert_load"


def frames(first: int, last: int, factor: float = 1.0) -> list[Frame]:
    return [
        Frame(
            "r",
            0,
            step,
            step / 4,
            {
                LOSS: np.float32(factor * step),
                LOAD: np.full((2, 3), factor * step, np.float32),
            },
        )
        for step in range(first, last)
    ]


def once(work: Callable[[], object], before: Callable[..., Any], *, after: int = 0) -> Any:
    """`before`, which at the call after that many does the work first."""
    calls = 0

    def call(*words: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == after + 1:
            work()
        return before(*words, **named)

    return call


@pytest.fixture
def other(store: Store) -> Any:
    """The same store, as another process has it."""
    with open_store(store.url) as opened:
        yield opened


def test_all_questions_of_a_reading_transaction_see_one_state(store: Store, other: Store) -> None:
    store.add_run(RUN)

    def ask(connection: Any) -> list[int]:
        count = f"SELECT count(*) FROM {tables.scalar_rows.name}"
        before = connection.exec_driver_sql(count).scalar_one()
        other.write_frames(frames(0, 3))
        return [before, connection.exec_driver_sql(count).scalar_one()]

    assert store.database.read(ask) == [0, 0]


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("signal", [LOSS, LOAD])
def test_a_reader_misses_nothing_that_is_moved_between_its_questions(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, signal: str, after: int
) -> None:
    store.add_run(RUN)
    store.write_frames(frames(0, 600))
    expected = read_series(store, "r", signal)
    move = once(lambda: compact(other, ENDED), reading.tuples, after=after)
    monkeypatch.setattr(reading, "tuples", move)
    found = read_series(store, "r", signal)
    assert found.steps.tolist() == expected.steps.tolist()
    assert found.values.tobytes() == expected.values.tobytes()
    assert found.times_s.tolist() == expected.times_s.tolist()


def test_a_spike_that_comes_late_is_in_the_roll_ups_or_beside_them(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_run(RUN)
    store.write_frames(frames(0, 20_000))
    compact(store, ENDED)
    store.write_frames(frames(5000, 5001, factor=1e6))
    told = rollup_reading.tuples

    def late(result: Any) -> Any:
        rows = told(result)
        compact(other, ENDED)
        return rows

    monkeypatch.setattr(rollup_reading, "tuples", late)
    assert read_matrix(store, "r", LOSS, max_buckets=20).high.max() == np.float32(5000e6)
    monkeypatch.undo()
    assert read_matrix(store, "r", LOSS, max_buckets=20).high.max() == np.float32(5000e6)


def test_a_vector_that_comes_between_the_two_moves_is_kept(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_run(RUN)
    store.write_frames(frames(0, 600))
    # the step's scalars and its time stay what they were
    new = replace(frames(7, 8)[0], values={LOAD: np.full((2, 3), 0.5, np.float32)})
    changed = once(lambda: other.write_frames([new]), compaction.layouts_of)
    monkeypatch.setattr(compaction, "layouts_of", changed)
    compact(store, ENDED)
    monkeypatch.undo()
    for _ in range(2):
        assert read_series(store, "r", LOAD, from_step=7, to_step=7).values[0].max() == 0.5
        compact(store, ENDED)
    left = store.database.read(
        lambda c: c.exec_driver_sql("SELECT count(*) FROM vector_rows").scalar_one()
    )
    assert left == 0


def started(work: Callable[[], object]) -> threading.Thread:
    """A thread that had half a second for the work."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(0.5)
    return thread


def test_what_comes_late_is_kept_if_it_is_packed_while_others_forget(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_run(RUN)
    store.write_frames(frames(0, 1024))
    compact(store, ENDED)
    store.put_alert(Alert("a", "r", 0, "x", "warning", 7, 7, 0, 0, "", 0, "x"))
    store.write_frames(frames(7, 8, factor=1000))
    store.update_run("r", status="finished")
    threads: list[threading.Thread] = []
    pack = once(
        lambda: threads.append(started(lambda: compact(other, ENDED))), retention.decoded, after=0
    )
    monkeypatch.setattr(retention, "decoded", pack)
    retain(store, Rule(days=0, runs=0), now_s=1e12)
    threads[0].join()
    for _ in range(2):
        found = read_series(store, "r", LOAD, from_step=7, to_step=7)
        assert found.values.tolist() == [[[7000.0] * 3] * 2]
        compact(store, ENDED)


def test_two_that_pack_the_same_window_keep_each_step_and_its_time(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_run(RUN)
    store.write_frames(frames(0, 20))

    def work() -> None:
        other.write_frames([replace(frames(5, 6)[0], time_s=99.0), *frames(20, 30)])
        compact(other, ENDED)

    # the first one has read its rows and what it knows of the steps
    threads: list[threading.Thread] = []
    slow = once(lambda: threads.append(started(work)), compaction.write_rows)
    monkeypatch.setattr(compaction, "write_rows", slow)
    compact(store, ENDED)
    threads[0].join()
    for signal in (LOSS, LOAD):
        found = read_series(store, "r", signal)
        assert found.steps.tolist() == list(range(30))
        assert found.times_s.tolist() == [99.0 if step == 5 else step / 4 for step in range(30)]


@pytest.mark.parametrize("after", range(4))
def test_of_a_run_that_is_deleted_while_it_is_packed_nothing_is_left(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    store.add_run(RUN)
    store.write_frames(frames(0, 20))
    threads: list[threading.Thread] = []
    gone = once(
        lambda: threads.append(started(lambda: other.delete_run("r"))),
        compaction.times_of_rows if after == 3 else compaction.write_rows,
        after=after % 3,
    )
    name = "times_of_rows" if after == 3 else "write_rows"
    monkeypatch.setattr(compaction, name, gone)
    compact(store, ENDED)
    threads[0].join()
    assert not store.runs()
    assert [fault.what for fault in check_store(store.url).faults] == []
