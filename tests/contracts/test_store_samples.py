"""What every store promises of samples."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moescope.platform import catalogue, tables
from moescope.platform.compacted.compaction import compact
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Frame, Run
from moescope.platform.series import known_signals, latest, read_series, read_since
from moescope.platform.store import Store
from moescope.platform.summaries import Summary, summaries

RUN = Run("r1", "first", "demo", {}, "running", "cpu", "0.1", 1000.25, 1001.5)


def frame(step: int, segment: int = 0, run_id: str = "r1", **values: Any) -> Frame:
    """A frame of loss/total, unless other values are given with `__` for the slash."""
    named = {name.replace("__", "/"): np.asarray(v, "f4") for name, v in values.items()}
    return Frame(run_id, segment, step, 100.0 + step, named or {"loss/total": np.float32(step)})


@pytest.fixture
def filled(store: Store) -> Store:
    """A store that knows the run r1."""
    store.add_run(RUN)
    return store


def rows_of(store: Store) -> dict[str, float]:
    """{table: number of rows} of what belongs to a run."""
    owned = [t for t in tables.metadata.sorted_tables if {"run_id", "run_number"} & set(t.c.keys())]
    count = "SELECT count(*) FROM "
    return {
        table.name: store.database.read(
            lambda c, name=table.name: c.exec_driver_sql(count + name).scalar_one()  # type: ignore[misc]
        )
        for table in owned
    }


def test_samples_come_back_bit_for_bit(filled: Store) -> None:
    odd = [np.nan, np.inf, -np.inf, 1e-45, -0.0, 3.4e38]
    values = {
        "loss__total": odd[0],
        "grad__norm": odd[1],
        "router__max_violation": odd,
        "router__expert_tokens": np.outer([1, 0.5], odd),
    }
    filled.write_frames([frame(5, **values), frame(6)])
    for name, value in values.items():
        series = read_series(filled, "r1", name.replace("__", "/"))
        assert series.values[0].tobytes() == np.asarray(value, "f4").tobytes()
        assert (series.segments[0], series.steps[0], series.times_s[0]) == (0, 5, 105.0)
    one = read_series(filled, "r1", "router/expert_tokens", row=1)
    assert one.values[0].tobytes() == np.asarray(values["router__expert_tokens"], "f4")[1].tobytes()
    assert known_signals(filled, "r1") == [
        "grad/norm",
        "loss/total",
        "router/expert_tokens",
        "router/max_violation",
    ]


def test_scalars_of_one_step_meet_in_one_row_whichever_came_first(filled: Store) -> None:
    filled.write_frames([frame(1, loss__total=1.0, grad__norm=2.0)])
    filled.write_frames([frame(1, loss__spike_score=3.0), frame(1, grad__norm=4.0)])
    expected = {"loss/total": 1.0, "loss/spike_score": 3.0, "grad/norm": 4.0}
    found = latest(filled, "r1", list(expected))
    assert {name: (step, float(value)) for name, (step, value) in found.items()} == {
        name: (1, value) for name, value in expected.items()
    }
    assert rows_of(filled)["scalar_rows"] == 1


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_writing_frames_twice_changes_nothing(store: Store, data: st.DataObject) -> None:
    number = len(store.runs())
    run_id = f"run{number}"
    store.add_run(replace(RUN, id=run_id))
    floats = st.floats(width=32)
    scalar = floats.map(np.float32)
    values = st.dictionaries(
        st.sampled_from(["loss/total", "grad/norm", "user/mine", "user/two words"]), scalar
    ).flatmap(
        lambda some: st.fixed_dictionaries(
            {name: st.just(value) for name, value in some.items()},
            optional={
                "activation/rms": arrays("f4", 3, elements=floats),
                "router/expert_load": arrays("f4", (2, 3), elements=floats),
            },
        )
    )
    frames = [
        Frame(run_id, segment, step, float(step), value)
        for segment, step, value in data.draw(
            st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), values), max_size=8)
        )
    ]
    store.write_frames(frames)
    before = everything(store, run_id)
    cut = data.draw(st.integers(0, len(frames)))
    store.write_frames(frames[cut:])
    store.write_frames(frames)
    assert everything(store, run_id) == before


def everything(store: Store, run_id: str) -> dict[str, list[bytes]]:
    found = {name: read_series(store, run_id, name) for name in known_signals(store, run_id)}
    return {
        name: [a.tobytes() for a in (s.segments, s.steps, s.times_s, s.values)]
        for name, s in found.items()
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loss__totl": 1.0}, "unknown signal loss/totl; did you mean loss/total"),
        ({"loss__total": [1.0]}, r"loss/total has shape \(1,\), expected 0 dimensions"),
        ({"router__expert_tokens": [1.0]}, "expected 2 dimensions .moe_layer, expert."),
        ({"user__a\nb": 1.0}, "must be one line"),
    ],
)
def test_a_wrong_frame_is_refused_before_anything_is_written(
    filled: Store, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(MoescopeError, match=said):
        filled.write_frames([*(frame(step) for step in range(2000)), frame(0, **values)])
    assert known_signals(filled, "r1") == []


def test_reading_on_from_a_cursor_gives_what_came_after_it(filled: Store) -> None:
    filled.write_frames([frame(step) for step in range(5)])
    filled.write_frames([frame(step, segment=1) for step in range(3, 6)])
    everything_so_far = read_since(filled, "r1", "loss/total", None)
    assert everything_so_far.steps.tolist() == [0, 1, 2, 3, 4, 3, 4, 5]
    assert read_since(filled, "r1", "loss/total", (0, 3)).steps.tolist() == [4, 3, 4, 5]
    assert read_since(filled, "r1", "loss/total", (1, 5)).steps.tolist() == []
    filled.write_frames([frame(6, segment=1)])
    new = read_since(filled, "r1", "loss/total", (1, 5))
    assert (new.segments.tolist(), new.steps.tolist()) == ([1], [6])


def test_the_newest_value_is_that_of_the_newest_segment(filled: Store) -> None:
    filled.write_frames([frame(9, loss__total=1.0), frame(4, segment=1, loss__total=2.0)])
    filled.write_frames([frame(5, segment=1, grad__norm=3.0)])
    found = latest(filled, "r1", ["loss/total", "grad/norm", "loss/video"])
    assert {name: (step, float(value)) for name, (step, value) in found.items()} == {
        "loss/total": (4, 2.0),
        "grad/norm": (5, 3.0),
    }
    with pytest.raises(MoescopeError, match="unknown signal"):
        latest(filled, "r1", ["loss/totl"])


def test_every_signal_of_the_catalogue_can_be_kept(filled: Store) -> None:
    shapes = {spec.name: (2, 3, 4)[: len(spec.dimensions)] for spec in catalogue.CATALOGUE.values()}
    values = {name: np.ones(shape, "f4") for name, shape in shapes.items()}
    filled.write_frames([Frame("r1", 0, 0, 1.0, values)])
    assert known_signals(filled, "r1") == sorted(shapes)
    found = latest(filled, "r1", list(shapes))
    # what lies behind the first dimension comes back as one row
    rows = {n: (*shape[:1], 12) if len(shape) == 3 else shape for n, shape in shapes.items()}
    assert {name: value.shape for name, (_, value) in found.items()} == rows


def test_what_a_scalar_came_to_is_known_without_its_samples(filled: Store) -> None:
    nan, inf = float("nan"), float("inf")
    filled.write_frames([frame(i, loss__total=v) for i, v in enumerate([3.0, inf, 1.0, 9.0, 1.0])])
    filled.write_frames([frame(i, 1, loss__total=v) for i, v in ((2, -inf), (4, 9.0), (3, 0.5))])
    filled.write_frames([frame(0, grad__norm=nan), frame(1, user__mine=2.0)])
    found = summaries(filled, ["loss/total", "grad/norm", "user/other"])
    assert set(found) == {"r1"}
    assert set(found["r1"]) == {"loss/total", "grad/norm"}
    assert found["r1"]["loss/total"] == Summary(9.0, 1, 4, 0.5, 1, 3, 9.0, 0, 3)
    odd = found["r1"]["grad/norm"]
    assert np.isnan(odd.last)
    assert (odd.low, odd.low_step, odd.high, odd.high_segment) == (None, -1, None, -1)
    # written again, and packed, it stays the same
    filled.write_frames([frame(2, loss__total=1.0), frame(4, 1, loss__total=9.0)])
    compact(filled, replace(RUN, status="finished"))
    assert summaries(filled, ["loss/total"])["r1"]["loss/total"] == found["r1"]["loss/total"]
    assert summaries(filled, ["loss/total"], ["r2"]) == {}
