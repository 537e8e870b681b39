"""Compaction, roll-ups and what is forgotten, on a store of a plain run."""

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moescope.platform.compacted import compaction
from moescope.platform.compacted.compaction import compact
from moescope.platform.compacted.due import MARGIN
from moescope.platform.compacted.housekeeping import Housekeeping
from moescope.platform.compacted.retention import Rule, retain
from moescope.platform.errors import MoescopeError
from moescope.platform.matrices import read_matrix
from moescope.platform.records import Alert, Frame, Run, Series
from moescope.platform.series import read_series
from moescope.platform.store import Store, open_store
from moescope.platform.store_check import check_store
from moescope.platform.thinning import thinned

RUN = Run("r", "run", "p", {}, "running", "cpu", "0", 0.0, 0.0)
ENDED = replace(RUN, status="finished")
LOAD, LOSS = "router/expert_load", "loss/total"
NUM_STEPS = 5000


def load(num_steps: int = NUM_STEPS) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((num_steps, 2, 3), np.float32)


def loss(num_steps: int = NUM_STEPS) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=num_steps).astype("f4")


def frames(num_steps: int = NUM_STEPS, first: int = 0) -> list[Frame]:
    values = zip(load(num_steps), loss(num_steps), strict=True)
    return [
        Frame("r", 0, step, step / 4, {LOAD: matrix, LOSS: number})
        for step, (matrix, number) in enumerate(values)
        if step >= first
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        opened.add_run(RUN)
        yield opened


def rows_left(store: Store) -> tuple[int, int]:
    """(rows of scalars, rows of vectors)"""
    counts = [
        store.database.read(
            lambda c, n=name: c.exec_driver_sql(f"SELECT count(*) FROM {n}").scalar_one()  # type: ignore[misc]
        )
        for name in ("scalar_rows", "vector_rows")
    ]
    return counts[0], counts[1]


def whole(series: Series) -> list[bytes]:
    return [a.tobytes() for a in (series.segments, series.steps, series.times_s, series.values)]


def test_only_windows_that_a_run_has_left_behind_are_packed(store: Store) -> None:
    store.write_frames(frames(1024 + MARGIN - 1))
    assert compact(store, RUN) == 0
    store.write_frames(frames(1024 + MARGIN + 1, first=1024 + MARGIN - 1))
    assert compact(store, RUN) == 2  # one of the loss, one of the loads
    assert rows_left(store) == (2 * (MARGIN + 1), 2 * (MARGIN + 1))
    assert compact(store, ENDED) == 2
    assert rows_left(store) == (0, 0)
    assert compact(store, ENDED) == 0


def test_a_long_series_out_of_rollups_has_the_points_of_the_whole(store: Store) -> None:
    store.write_frames(frames())
    full = read_series(store, "r", LOSS)
    compact(store, RUN)
    assert whole(read_series(store, "r", LOSS)) == whole(full)
    for first, last, most in [(0, 4999, 60), (0, 4999, 20), (300, 4700, 50), (1024, 4095, 30)]:
        found = read_series(store, "r", LOSS, from_step=first, to_step=last, max_points=most)
        part = read_series(store, "r", LOSS, from_step=first, to_step=last)
        assert whole(found) == whole(thinned(part, most))


def test_one_spike_is_in_every_zoom_of_a_line_and_of_a_map(store: Store) -> None:
    some = frames()
    some[1234] = replace(some[1234], values={LOSS: np.float32(99), LOAD: some[1234].values[LOAD]})
    some[3210] = replace(some[3210], values={LOSS: np.float32(np.nan)})
    spiky = np.array(some[2345].values[LOAD])
    spiky[1, 2] = 55
    some[2345] = replace(some[2345], values={LOAD: spiky, LOSS: some[2345].values[LOSS]})
    store.write_frames(some)
    compact(store, RUN)
    for most in (4, 10, 50, 100, 1000):
        line = read_series(store, "r", LOSS, max_points=most)
        assert np.nanmax(line.values) == 99
        assert 3210 in line.steps
        bands = read_matrix(store, "r", LOAD, row=1, max_buckets=most)
        assert len(bands.steps) <= most
        assert bands.high.max() == 55
        (where,) = np.flatnonzero(bands.high[:, 2] == 55)
        assert bands.steps[where] == 2345 // bands.width * bands.width
        assert bands.num_points.sum() == NUM_STEPS - 1


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("most", [3, 7, 40, 90, 2000, 9999])
def test_bands_are_what_numpy_makes_of_the_numbers(
    store: Store, is_packed: bool, most: int
) -> None:
    store.write_frames(frames())
    if is_packed:
        compact(store, ENDED)
    first, last = 130, 4870
    bands = read_matrix(store, "r", LOAD, row=0, from_step=first, to_step=last, max_buckets=most)
    assert len(bands.steps) <= most
    assert bands.width == 1 or 2 * len(bands.steps) + 2 > most
    values, steps = load()[first : last + 1, 0], np.arange(first, last + 1)
    for start, low, high, mean, count in zip(
        bands.steps, bands.low, bands.high, bands.mean, bands.num_points, strict=True
    ):
        here = values[steps // bands.width == start // bands.width]
        assert count == len(here)
        np.testing.assert_array_equal(low, here.min(axis=0))
        np.testing.assert_array_equal(high, here.max(axis=0))
        np.testing.assert_allclose(mean, here.mean(axis=0), rtol=1e-5)
    line = read_matrix(store, "r", LOSS, max_buckets=most)
    assert line.high.max() == loss().max()
    assert line.num_points.sum() == NUM_STEPS


def test_a_closed_bucket_stays_what_it_is_while_the_run_grows(store: Store) -> None:
    store.write_frames(frames(4000))
    compact(store, RUN)
    before = read_matrix(store, "r", LOAD, row=0, max_buckets=100)
    store.write_frames(frames(4040, first=4000))
    after = read_matrix(store, "r", LOAD, row=0, max_buckets=100)
    closed = slice(0, len(before.steps) - 1)
    assert before.width == after.width
    for name in ("steps", "low", "mean", "num_points"):
        assert getattr(before, name)[closed].tolist() == getattr(after, name)[closed].tolist()


def test_what_died_half_way_reads_right_and_is_gone_on_with(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_frames(frames(2048))
    before = [whole(read_series(store, "r", name)) for name in (LOSS, LOAD)]
    moved = compaction._move_scalars

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compaction, "_move_scalars", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compact(store, ENDED)
    assert [whole(read_series(store, "r", name)) for name in (LOSS, LOAD)] == before
    monkeypatch.setattr(compaction, "_move_scalars", moved)
    assert compact(store, ENDED) == 4
    assert rows_left(store) == (0, 0)
    assert [whole(read_series(store, "r", name)) for name in (LOSS, LOAD)] == before


def test_a_writer_that_was_faster_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_frames(frames(2048))
    newer = Frame("r", 0, 7, 1.0, {LOAD: np.full((2, 3), 7, "f4"), LOSS: np.float32(7)})
    moved = compaction._vectors_there

    def and_somebody_writes(*args: object, **kwargs: object) -> object:
        found = moved(*args, **kwargs)  # type: ignore[arg-type]
        monkeypatch.setattr(compaction, "_vectors_there", moved)
        store.write_frames([newer])
        return found

    monkeypatch.setattr(compaction, "_vectors_there", and_somebody_writes)
    assert compact(store, ENDED) == 3
    assert (read_series(store, "r", LOAD).values[7] == 7).all()
    assert compact(store, ENDED) == 1
    assert (read_series(store, "r", LOAD).values[7] == 7).all()
    assert read_series(store, "r", LOSS).values[7] == 7


class TestRetention:
    def test_vectors_are_forgotten_but_not_around_alerts(self, store: Store) -> None:
        store.write_frames(frames())
        store.put_alert(Alert("a", "r", 0, "x", "warning", 2000, 2400, 0, 0, "", 0, "x"))
        store.update_run("r", status="finished", finished_s=0.0)
        compact(store, ENDED)
        maps = [read_matrix(store, "r", LOAD, row=1, max_buckets=most) for most in (2, 78)]
        line = whole(read_series(store, "r", LOSS))
        done = retain(store, Rule(days=30), now_s=40 * 86400.0)
        assert done.num_bytes > 0.6 * load().nbytes
        kept = read_series(store, "r", LOAD)
        near = [*range(2000 - 256, 2000 + 257), *range(2400 - 256, 2400 + 257)]
        assert kept.steps.tolist() == sorted(set(near))
        assert (kept.values == load()[kept.steps]).all()
        assert whole(read_series(store, "r", LOSS)) == line
        for before in maps:
            after = read_matrix(store, "r", LOAD, row=1, max_buckets=len(before.steps))
            assert after.width == before.width
            assert after.high.tolist() == before.high.tolist()
        # a zoom into what was forgotten shows the roll-up
        near = read_matrix(store, "r", LOAD, row=1, from_step=0, to_step=1023, max_buckets=1000)
        assert (near.width, near.num_points.sum()) == (64, 1024)
        assert retain(store, Rule(days=30), now_s=41 * 86400.0).num_chunks == 0
        # a step that comes late does not spoil what the roll-ups remember
        store.write_frames(frames(3, first=2))
        compact(store, ENDED)
        assert read_matrix(store, "r", LOAD, row=1, max_buckets=2).num_points.sum() == NUM_STEPS
        assert check_store(store.url).faults == ()

    def test_a_rule_counts_runs_and_days_and_both_must_be_passed(self, store: Store) -> None:
        store.write_frames(frames(1100))
        store.add_run(replace(RUN, id="newer", created_s=9.0))
        compact(store, ENDED)
        store.update_run("r", status="finished", finished_s=0.0)
        for rule in (Rule(runs=2), Rule(days=1), Rule(days=0, runs=2)):
            assert retain(store, rule, now_s=80_000.0).num_chunks == 0
        assert retain(store, Rule(days=0.5, runs=1), now_s=80_000.0).num_chunks == 4

    def test_a_living_run_forgets_its_old_windows_by_days_alone(self, store: Store) -> None:
        store.write_frames(frames(4000))
        store.update_run("r", heartbeat_s=1000.0)
        compact(store, RUN)
        assert retain(store, Rule(runs=0), now_s=1000.0).num_chunks == 0
        retain(store, Rule(days=700 / 86400), now_s=1000.0)
        # the window that was measured until second 256 is older than 700 s, the next one is not
        assert read_series(store, "r", LOAD).steps[0] == 1024

    @pytest.mark.parametrize(
        ("first", "then"),
        [
            pytest.param((0, 1024), (500, 501), id="one step once more"),
            pytest.param((0, 500), (500, 1024), id="the rest of a window"),
            pytest.param((0, 1024), (0, 1024), id="all once more"),
        ],
    )
    def test_what_comes_after_forgetting_widens_the_roll_ups(
        self, store: Store, first: tuple[int, int], then: tuple[int, int]
    ) -> None:
        far = Frame("r", 0, 20_000, 0.0, {LOAD: np.zeros((2, 3), np.float32)})
        store.write_frames([*frames(first[1], first[0]), far])
        compact(store, ENDED)
        store.update_run("r", status="finished")
        retain(store, Rule(days=0), now_s=1e12)
        late = frames(then[1], then[0])
        late = [replace(frame, values={LOAD: 10 + frame.values[LOAD]}) for frame in late]
        store.write_frames(late)
        compact(store, ENDED)
        for buckets in (400, 20):
            bands = read_matrix(store, "r", LOAD, row=0, max_buckets=buckets)
            before = load(first[1])[first[0] :, 0]
            assert bands.low[:-1].min() == before.min()
            assert bands.high.max() == max(frame.values[LOAD][0].max() for frame in late)
            assert bands.num_points[:-1].sum() == pytest.approx(1024, abs=1)

    @pytest.mark.parametrize(
        ("days", "runs", "said"),
        [
            (None, None, "no rule"),
            (-1, None, "days to keep is -1"),
            (math.nan, None, "days to keep is nan"),
            (None, -2, "runs to keep"),
        ],
    )
    def test_a_wrong_rule_is_one_line(
        self, days: float | None, runs: int | None, said: str
    ) -> None:
        with pytest.raises(MoescopeError, match=said):
            Rule(days, runs)


def test_the_service_packs_and_forgets_in_its_ticks(store: Store) -> None:
    store.write_frames(frames(3000))
    house = Housekeeping(store, Rule(days=0), threading.Event(), clock=lambda: 1e9)
    house.tick()
    assert rows_left(store)[0] == 2 * (3000 - 2048)
    store.update_run("r", status="finished", finished_s=0.0)
    for _ in range(3):
        house.tick()
    assert rows_left(store) == (0, 0)
    house = Housekeeping(store, Rule(days=0), threading.Event(), clock=lambda: 1e9)
    house.tick()
    assert len(read_series(store, "r", LOAD).steps) == 0
    assert len(read_series(store, "r", LOSS).steps) == 3000
    assert read_matrix(store, "r", LOAD, row=0, max_buckets=10).num_points.sum() == 3000


def test_damage_in_a_chunk_is_found_and_told(store: Store) -> None:
    store.write_frames(frames(1024))
    compact(store, ENDED)
    assert check_store(store.url).faults == ()
    for table in ("chunks", "rollups", "chunk_steps"):
        store.database.write(
            lambda c, table=table: c.exec_driver_sql(
                f"UPDATE {table} SET data = substr(data, 1, 9)"
            )  # type: ignore[misc]
        )
    told = [fault.what for fault in check_store(store.url).faults]
    assert told[:2] == ["3 rows of chunks cannot be read", "2 rows of chunk_steps cannot be read"]
    assert "6 rows of rollups cannot be read" in told
    with pytest.raises(MoescopeError, match="the store is damaged"):
        read_series(store, "r", LOSS)
