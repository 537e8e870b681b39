"""Where a history went back is found again, whatever its signals' rhythms are."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.platform.history.branches import Branches
from moescope.platform.records import Series
from moescope.platform.series import is_living

Row = tuple[str, int, float]


@st.composite
def trainings(draw: st.DrawFn) -> tuple[list[Row], dict[str, dict[int, float]]]:
    """A log of a training that was resumed some times, and what counts of it in the end: {signal:
    {step: value}}. A signal is logged at the multiples of its rhythm; the value of a row is its
    place in the log."""
    rhythms = {"loss": draw(st.integers(1, 8))}
    rhythms |= {name: draw(st.integers(1, 10)) for name in draw(st.sampled_from(["", "a", "ab"]))}
    rows: list[Row] = []
    counts: dict[str, dict[int, float]] = {name: {} for name in rhythms}
    step = 0
    for _ in range(draw(st.integers(1, 4))):
        for kept in counts.values():
            for lost in [at for at in kept if at >= step]:
                del kept[lost]
        last = step + draw(st.integers(40, 60))
        for here in range(step, last):
            for name, rhythm in rhythms.items():
                if here % rhythm == 0:
                    counts[name][here] = float(len(rows))
                    rows.append((name, here, float(len(rows))))
        # far enough that every signal shows it, and not so far that one does not come in again
        step = last - draw(st.integers(12, 30))
    return rows, counts


@settings(max_examples=60, deadline=None)
@given(trainings())
def test_what_counts_in_the_end_is_found(
    training: tuple[list[Row], dict[str, dict[int, float]]],
) -> None:
    rows, counts = training
    branches = Branches("run")
    placed = [(name, branches.place(name, step, 0.0), step, value) for name, step, value in rows]
    for name, wanted in counts.items():
        # as the store does it: of a step that comes twice in a segment the last value counts
        kept = {(segment, step): value for n, segment, step, value in placed if n == name}
        own = [(segment, step, value) for (segment, step), value in sorted(kept.items())]
        series = Series(
            name,
            np.array([segment for segment, _, _ in own], np.int32),
            np.array([step for _, step, _ in own], np.int64),
            np.zeros(len(own)),
            np.array([value for _, _, value in own], np.float32),
        )
        alive = is_living(series, branches.segments)
        found = dict(zip(series.steps[alive].tolist(), series.values[alive].tolist(), strict=True))
        assert found == wanted
        assert len(found) == int(alive.sum()), "a step counts twice"


@settings(max_examples=20, deadline=None)
@given(trainings(), st.integers(0, 1000))
def test_what_was_placed_stays_where_it_is_when_more_comes(
    training: tuple[list[Row], object], cut: int
) -> None:
    rows = training[0]
    whole, part = Branches("run"), Branches("run")
    of_whole = [whole.place(name, step, 0.0) for name, step, _ in rows]
    of_part = [part.place(name, step, 0.0) for name, step, _ in rows[:cut]]
    assert of_part == of_whole[: len(of_part)]
