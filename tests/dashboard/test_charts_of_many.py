"""Figures of many runs: a line for each, a band for each group, dots and threads."""

from itertools import pairwise

import numpy as np
import pytest

from moescope.dashboard.charts_of_many import (
    MOST_RUNS,
    Across,
    Line,
    grouped_figure,
    look_of,
    overlaid_figure,
    scatter_figure,
)
from moescope.dashboard.clock import STEPS, Clock
from moescope.dashboard.threads import threads_figure
from moescope.platform.records import Bands

STEP = Across("step")


def line(
    values: list[float], *, name: str = "a", place: int = 0, width: int = 1, smoothing: int = 0,
    clock: Clock = STEPS,
) -> Line:  # fmt: skip
    mean = np.array(values, np.float32)[:, None]
    is_finite = np.isfinite(mean)
    count = len(values)
    bands = Bands(
        "loss/total",
        width,
        np.zeros(count, np.int32),
        np.arange(count) * width,
        np.full(count, width),
        np.where(is_finite, mean - (width > 1), np.inf).astype(np.float32),
        np.where(is_finite, mean + 5 * (width > 1), -np.inf).astype(np.float32),
        mean,
        np.where(is_finite, width, 0),
    )
    return Line(name, place, bands, clock, smoothing)


def test_every_run_has_its_own_colour_and_dash_and_neighbours_differ_in_both() -> None:
    looks = [look_of(place) for place in range(MOST_RUNS)]
    assert len(set(looks)) == MOST_RUNS
    for one, next_one in pairwise(looks):
        assert one[0] != next_one[0]
        assert one[1] != next_one[1]


def test_a_run_keeps_its_look_where_another_has_not_measured_the_signal() -> None:
    figure = overlaid_figure([line([1, 2], name="third", place=2)], STEP, unit="mse")
    assert (figure.data[0].line.color, figure.data[0].line.dash) == look_of(2)


def test_a_spike_of_one_step_is_in_the_band_of_its_run() -> None:
    figure = overlaid_figure([line([1, 2, 3], width=64)], STEP, unit="mse")
    high, low, mean = figure.data
    assert high.y.tolist() == [6, 7, 8]
    assert (low.y.tolist(), low.fill) == ([0, 1, 2], "tonexty")
    assert mean.y.tolist() == [1, 2, 3]
    assert mean.x.tolist() == [31.5, 95.5, 159.5]


def test_a_smooth_line_lies_over_its_faint_steps() -> None:
    figure = overlaid_figure([line([0, 3, 6, 9], smoothing=3)], STEP, unit="mse")
    raw, smooth = figure.data
    assert raw.y.tolist() == [0, 3, 6, 9]
    assert smooth.y.tolist() == [1.5, 3, 6, 7.5]  # of two at the ends, of three between
    assert not raw.showlegend


def test_each_run_stands_where_its_own_clock_says() -> None:
    clock = Clock("tokens", {0: (np.array([0.0, 1.0]), np.array([0.0, 500.0]))})
    figure = overlaid_figure([line([1, 2], clock=clock)], Across("tokens seen"), unit="mse")
    assert figure.data[0].x.tolist() == [0, 500]
    assert figure.layout.xaxis.title.text == "tokens seen"


def test_what_is_not_finite_is_marked() -> None:
    figure = overlaid_figure([line([1, float("nan"), 2])], STEP, unit="mse")
    assert figure.data[1].x.tolist() == [1]
    assert "not finite" in figure.data[1].name


def test_a_name_is_no_markup() -> None:
    figure = overlaid_figure([line([1, 2], name="<b>x</b>")], STEP, unit="mse")
    assert figure.data[0].name == "&lt;b&gt;x&lt;/b&gt;"


def test_a_range_is_what_is_seen_in_powers_where_the_axis_is_logarithmic() -> None:
    across = Across("step", (10, 1000), is_log_x=True, is_log=True)
    figure = overlaid_figure([line([1] * 2000)], across, unit="mse")
    low, high = figure.layout.xaxis.range
    assert low == pytest.approx(1, abs=0.05)
    assert high == pytest.approx(3, abs=0.05)
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")


def test_a_group_is_its_mean_over_two_bands_and_says_of_how_many() -> None:
    groups = {"lr = 1": [line([1, 2]), line([3, 4], place=1)], "lr = 2": [line([9, 9], place=2)]}
    figure = grouped_figure(groups, STEP, unit="mse")
    high, low, up, down, mean, alone = figure.data
    assert (low.y.tolist(), high.y.tolist()) == ([1, 2], [3, 4])
    # two runs that lie 2 apart: a standard deviation of the root of 2, an error of 1
    assert (down.y.tolist(), up.y.tolist()) == (pytest.approx([1, 2]), pytest.approx([3, 4]))
    assert (mean.y.tolist(), mean.name) == ([2, 3], "lr = 1 (n = 2)")
    assert (alone.name, alone.y.tolist()) == ("lr = 2 (n = 1)", [9, 9])


def test_groups_that_share_no_place_leave_the_figure_empty() -> None:
    far = Clock("tokens", {0: (np.array([0.0, 1.0]), np.array([1e6, 2e6]))})
    groups = {"g": [line([1, 2]), line([1, 2], clock=far)]}
    assert len(grouped_figure(groups, STEP, unit="mse").data) == 0


def test_dots_are_told_apart_by_symbol_too() -> None:
    figure = scatter_figure(
        [0.1, 0.2, 0.3], [1, 2, 3], ["a", "b", "<c>"], ["x", "y", "x"],
        x_title="lr", y_title="last loss", unit="mse",
    )  # fmt: skip
    first, second = figure.data
    assert first.marker.symbol != second.marker.symbol
    assert first.marker.color != second.marker.color
    assert first.text == ("a", "&lt;c&gt;")
    words = scatter_figure(
        ["muon", "adamw"], [1, 2], ["a", "b"], ["x", "x"], x_title="o", y_title="l", unit="mse"
    )
    assert words.layout.xaxis.type == "category"


def test_threads_go_through_numbers_powers_and_words_to_the_result() -> None:
    settings = {"width": [128, 256], "lr": [1e-4, 1e-2], "name": ["muon", None]}
    (drawn,) = threads_figure(settings, [0.5, 0.4], result="loss/total").data
    width, rate, name, result = drawn.dimensions
    assert list(width.values) == [128, 256]
    assert list(rate.values) == [-4, -2]
    assert list(rate.ticktext) == ["0.0001", "0.001", "0.01"]
    assert (list(name.values), list(name.ticktext)) == ([1, 0], ["-", "muon"])
    assert (result.label, list(result.values)) == ("loss/total", [0.5, 0.4])
    assert list(drawn.line.color) == [0.5, 0.4]
