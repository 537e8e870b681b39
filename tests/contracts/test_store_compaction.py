"""Whatever is written, replayed, compacted and forgotten in between: reading gives what a plain
dictionary would.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moescope.platform.compacted.compaction import compact
from moescope.platform.compacted.retention import AROUND_AN_ALERT, Rule, retain
from moescope.platform.records import Alert, Frame, Run, Segment, Series
from moescope.platform.series import latest, read_series, read_since
from moescope.platform.store import Store
from moescope.platform.summaries import summaries
from moescope.platform.thinning import thinned

RUN = Run("r", "run", "p", {}, "running", "cpu", "0", 0.0, 0.0)
SCALARS = ("loss/total", "grad/norm")
VECTOR, MATRIX = "router/max_violation", "router/expert_load"
# around the ends of the first windows, where things go wrong
STEPS = st.one_of(
    st.integers(0, 3), st.integers(1020, 1027), st.integers(2046, 2050), st.integers(4000, 4003)
)
FLOATS = st.floats(width=32)


@st.composite
def frames(draw: st.DrawFn) -> list[Frame]:
    """Frames of one segment: single steps, or a stretch of them that crosses windows."""
    segment = draw(st.integers(0, 1))
    if draw(st.booleans()):
        start, count = draw(STEPS), draw(st.sampled_from([40, 700, 1500]))
        stride = draw(st.sampled_from([1, 10]))
        chance = np.random.default_rng(draw(st.integers(0, 99)))
        return [
            _frame(segment, start + i * stride, chance.normal(), chance.normal(size=(2, 3)))
            for i in range(0, count, stride)
        ]
    found = []
    for step in draw(st.lists(STEPS, min_size=1, max_size=4)):
        names = draw(st.sets(st.sampled_from([*SCALARS, VECTOR, MATRIX]), min_size=1))
        width = draw(st.integers(1, 4))
        values = {}
        for name in sorted(names):
            shape = {VECTOR: (width,), MATRIX: (2, width)}.get(name, ())
            numbers = draw(
                st.lists(FLOATS, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
            )
            values[name] = np.array(numbers, "f4").reshape(shape)
        found.append(Frame("r", segment, step, draw(st.integers(0, 9)) + 0.25, values))
    return found


def _frame(segment: int, step: int, number: float, matrix: NDArray[np.float64]) -> Frame:
    values = {
        "loss/total": np.float32(number),
        VECTOR: matrix[0].astype("f4"),
        MATRIX: matrix.astype("f4"),
    }
    return Frame("r", segment, step, 100 + step / 8, values)  # type: ignore[arg-type]


class Model:
    """What a store should know, in plain dictionaries."""

    def __init__(self) -> None:
        self.values: dict[str, dict[tuple[int, int], NDArray[np.float32]]] = {}
        self.times: dict[tuple[str, int, int], float] = {}
        self.alerts: list[int] = []

    def write(self, some: list[Frame]) -> None:
        for frame in some:
            for name, value in frame.values.items():
                at = frame.segment, frame.step
                old = self.values.setdefault(name, {}).get(at)
                new = np.asarray(value, "f4")
                if name == MATRIX and old is not None and len(old) > len(new):
                    raise AssertionError("the strategy makes two rows")
                self.values[name][at] = new
                self.times[self._group(name), *at] = frame.time_s

    def forget(self) -> None:
        for name in (VECTOR, MATRIX):
            kept = self.values.get(name, {})
            self.values[name] = {
                (segment, step): value
                for (segment, step), value in kept.items()
                if any(abs(step - alert) <= AROUND_AN_ALERT for alert in self.alerts)
            }

    def series(self, name: str, row: int | None = None) -> Series:
        points = sorted(self.values.get(name, {}).items())
        values = [value if row is None else value[row] for _, value in points]
        shape = tuple(np.max([value.shape for value in values], axis=0)) if values else None
        num_dimensions = {VECTOR: 1, MATRIX: 2}.get(name, 0) - (row is not None)
        out = np.full((len(values), *(shape or (0,) * num_dimensions)), np.nan, np.float32)
        for index, value in enumerate(values):
            out[(index, *map(slice, value.shape))] = value
        times = [self.times[self._group(name), *at] for at, _ in points]
        return Series(
            name,
            np.array([segment for (segment, _), _ in points], np.int32),
            np.array([step for (_, step), _ in points], np.int64),
            np.array(times, np.float64),
            out,
        )

    @staticmethod
    def _group(name: str) -> str:
        from moescope.platform.catalogue import signal_spec

        return signal_spec(name).group


def same(found: Series, expected: Series) -> None:
    assert found.segments.tolist() == expected.segments.tolist()
    assert found.steps.tolist() == expected.steps.tolist()
    assert found.times_s.tolist() == expected.times_s.tolist()
    if len(expected.steps):
        assert found.values.tobytes() == expected.values.tobytes()


OPERATION = st.one_of(
    frames(),
    frames(),
    st.sampled_from(["replay", "compact what is closed", "compact all", "forget"]),
    st.tuples(st.just("alert"), STEPS),
)


@pytest.mark.story
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(operations=st.lists(OPERATION, min_size=3, max_size=8), is_compacted=st.booleans())
def test_any_interleaving_reads_as_a_dictionary_does(
    store: Store, operations: list[list[Frame] | str | tuple[str, int]], is_compacted: bool
) -> None:
    store.delete_run("r")
    store.add_run(RUN)
    store.add_segment(Segment("r", 0, 0, "start", 0.0))
    store.add_segment(Segment("r", 1, 0, "rollback", 0.0, 0, 0))
    model, written = Model(), list[list[Frame]]()
    chance = np.random.default_rng(0)
    stretch = [_frame(0, i, chance.normal(), chance.normal(size=(2, 3))) for i in range(1100)]
    last = ["compact all"] if is_compacted else []
    for operation in [stretch, "compact all", *operations, *last]:
        if isinstance(operation, list):
            store.write_frames(operation)
            model.write(operation)
            written.append(operation)
        elif isinstance(operation, tuple):
            step = operation[1]
            name = f"a{step}"
            store.put_alert(Alert(name, "r", 0, name, "warning", step, step, 0, 0, "", 0, name))
            model.alerts.append(step)
        elif operation == "replay" and written:
            store.write_frames(written[-1])
            model.write(written[-1])
        elif operation == "compact what is closed":
            compact(store, RUN)
        elif operation in ("compact all", "forget"):
            compact(store, replace(RUN, status="finished"))
        if operation == "forget":
            store.update_run("r", status="finished")
            retain(store, Rule(days=0, runs=0), now_s=1e12)
            model.forget()
    for name in (*SCALARS, VECTOR, MATRIX):
        expected = model.series(name)
        same(read_series(store, "r", name), expected)
        always = sorted(model.alerts)
        same(read_series(store, "r", name, max_points=12), thinned(expected, 12, always))
    for row in (0, 1):
        if model.values.get(MATRIX):
            same(read_series(store, "r", MATRIX, row=row), model.series(MATRIX, row))
    for name in SCALARS:
        points = model.values.get(name, {})
        whole = summaries(store, [name], ["r"]).get("r", {}).get(name)
        assert (whole is not None) == bool(points)
        if whole is not None:
            step, value = latest(store, "r", [name])[name]
            assert (step, value.tobytes()) == (max(points)[1], points[max(points)].tobytes())
            assert (whole.last_segment, whole.last_step) == max(points)
            # SQLite keeps no sign of zero
            assert np.float32(whole.last) == value or (np.isnan(whole.last) and np.isnan(value))
    cursor = (0, 1024)
    everything = model.series("loss/total")
    after = [at > cursor for at in zip(everything.segments, everything.steps, strict=True)]
    assert read_since(store, "r", "loss/total", cursor).steps.tolist() == (
        everything.steps[np.array(after, bool)].tolist()
    )
