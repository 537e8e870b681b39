"""Figures are pure: series and records in, traces out."""

import numpy as np
import plotly.graph_objects as go
import pytest

from moescope.dashboard.charts import (
    lines_figure,
    noise_figure,
    per_layer_figure,
    per_modality_figure,
    scalar_figure,
    stacked_figure,
)
from moescope.dashboard.clock import Clock
from moescope.dashboard.heat_maps import (
    load_at_step,
    load_over_time,
    who_goes_where,
    working_together,
)
from moescope.dashboard.marks import ROWS, Marks
from moescope.dashboard.window import Branches, Window, selected
from moescope.platform.catalogue import LOSS_TOTAL
from moescope.platform.matrices import joined_bands, narrowed
from moescope.platform.records import Alert, Bands, Checkpoint, Event, Segment


def _bands(
    values: np.ndarray, steps: np.ndarray | None = None, segment: int = 0, width: int = 1
) -> Bands:
    """Buckets of measured values. values: (points,) or (points, numbers)."""
    num = len(values)
    at = np.arange(num, dtype=np.int64) if steps is None else steps
    wide = values.reshape(num, -1).astype(np.float32)
    is_finite = np.isfinite(wide)
    points = Bands(
        LOSS_TOTAL,
        1,
        np.full(num, segment, np.int32),
        at,
        np.ones(num, np.int64),
        np.where(is_finite, wide, np.inf).astype(np.float32),
        np.where(is_finite, wide, -np.inf).astype(np.float32),
        np.where(is_finite, wide, np.nan).astype(np.float32),
        is_finite.astype(np.int64),
    )
    return narrowed(points, width)


def _living(bands: Bands) -> Branches:
    return Branches(bands, selected(bands, np.zeros(len(bands.steps), bool)))


def _draw(
    series: Bands | Branches, window: Window | None = None, marks: Marks | None = None
) -> go.Figure:
    drawn = _living(series) if isinstance(series, Bands) else series
    return scalar_figure(drawn, window or Window(), name="loss", unit="mse", marks=marks)


def _rolled_back() -> Branches:
    """60 steps, of which the last ten were abandoned, and 20 from step 50 on."""
    parent, child = _bands(np.ones(60)), _bands(np.ones(20), np.arange(50, 70), segment=1)
    is_kept = parent.steps < 50
    living = joined_bands(LOSS_TOTAL, [selected(parent, is_kept), child])
    return Branches(living, selected(parent, ~is_kept))


def _named(figure: go.Figure, name: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.name == name]


ALERT = Alert(
    "a", "r", 0, "loss_spike", "critical", 30, 33, 9.0, 4.0, "<b>loud</b>", 0.0, "key"
)  # fmt: skip


def test_a_long_loss_has_a_band_and_keeps_its_spike() -> None:
    values = np.ones(5000)
    values[3333] = 7.0
    figure = _draw(_bands(values, width=16))
    assert [trace.name for trace in figure.data] == [
        "max",
        "min to max of 16 steps",
        "loss, mean of 16 steps",
    ]
    assert max(figure.data[0].y) == 7.0
    # 3333 = 208 * 16 + 5 lies in a bucket whose mean is (15 + 7) / 16
    assert figure.data[2].y[208] == 22 / 16
    assert figure.data[2].x[208] == 208 * 16 + 7.5


def test_a_smoothed_line_follows_the_mean_and_keeps_the_band() -> None:
    values = np.ones(64)
    values[30] = 9.0
    figure = _draw(_bands(values), Window(smoothing=8))
    raw, line = figure.data
    assert raw.y[30] == 9.0
    assert line.name == "loss, mean of 8 steps"
    # from 4 steps before to 4 after: nine values, of which one is 9
    assert line.y[30] == np.float32(17 / 9)
    assert line.y[25] == 1.0


def test_the_range_that_was_asked_for_is_the_axis() -> None:
    figure = _draw(_bands(np.arange(301.0), np.arange(1000, 1301)), Window((1000, 1300)))
    assert figure.layout.xaxis.range == (994.0, 1306.0)


def test_values_that_are_not_finite_are_marked_and_not_only_left_out() -> None:
    values = np.ones(50)
    values[20], values[21] = np.nan, np.inf
    (bad,) = _named(_draw(_bands(values)), "not finite")
    np.testing.assert_array_equal(bad.x, [20, 21])


def test_what_has_no_place_on_an_axis_of_logarithms_is_marked_within_it() -> None:
    values = np.full(50, 2.0)
    values[10], values[11], values[20] = -1.0, 0.0, np.nan
    figure = _draw(_bands(values), Window(is_log=True))
    (low,), (bad,) = _named(figure, "0 or less"), _named(figure, "not finite")
    np.testing.assert_array_equal(low.x, [10, 11])
    np.testing.assert_array_equal([*low.y, *bad.y], [2, 2, 2])
    assert not _named(_draw(_bands(values)), "0 or less")


def test_an_axis_of_tokens_has_tokens_and_their_name() -> None:
    clock = Clock("tokens", {0: (np.array([-1.0, 49.0]), np.array([0.0, 5000.0]))})
    figure = _draw(_bands(np.ones(50)), Window(clock=clock), Marks(alerts=[ALERT]))
    np.testing.assert_allclose(_named(figure, "loss")[0].x, (np.arange(50) + 1) * 100.0)
    assert figure.layout.xaxis.title.text == "tokens seen"
    assert _named(figure, "alert")[0].x[0] == pytest.approx(3400.0)


def test_a_logarithmic_axis_of_steps_begins_at_one() -> None:
    figure = _draw(_bands(np.ones(1000)), Window(is_log_x=True))
    assert figure.layout.xaxis.type == "log"
    low, high = figure.layout.xaxis.range
    assert low == pytest.approx(0.0, abs=0.1)
    assert high == pytest.approx(3.0, abs=0.1)


def test_an_abandoned_branch_is_a_line_of_its_own() -> None:
    figure = _draw(_rolled_back())
    (ghost,) = _named(figure, "abandoned branch")
    np.testing.assert_array_equal(ghost.x, np.arange(50, 60))
    (line,) = _named(figure, "loss")
    np.testing.assert_array_equal(line.x, np.arange(70))


def test_an_alert_is_marked_in_the_strip_on_the_line_and_at_its_onset() -> None:
    values = np.ones(50)
    values[31] = 6.0
    figure = _draw(_bands(values), marks=Marks(alerts=[ALERT]))
    (in_strip,) = _named(figure, "alert")
    assert (in_strip.x[0], in_strip.y[0], in_strip.yaxis) == (33, ROWS.index("alert"), "y2")
    (on_line,) = _named(figure, "critical alert")
    assert (on_line.x[0], on_line.y[0]) == (31, 6.0)
    assert [shape.x0 for shape in figure.layout.shapes] == [30]


def test_an_alert_out_of_range_leaves_no_mark() -> None:
    marks = Marks(alerts=[ALERT])
    figure = _draw(_bands(np.ones(100)), Window(step_range=(50, 99)), marks)
    assert not _named(figure, "alert")
    assert not figure.layout.shapes


def test_a_rollback_is_drawn_from_where_the_branch_ended_to_where_it_went_back() -> None:
    marks = Marks(segments=[Segment("r", 1, 50, "rollback", 0.0, 0, 49)])
    figure = _draw(_rolled_back(), marks=marks)
    arrow = next(t for t in figure.data if t.yaxis == "y2" and t.mode == "lines")
    assert list(arrow.x) == [59, 50]
    assert _named(figure, "rollback")[0].hovertext == ("rolled back to step 50 (segment 1)",)


def test_checkpoints_differ_by_symbol_for_each_health() -> None:
    saved = [
        Checkpoint("r", 0, step, "x", step, 2**20, 0.0, health)  # type: ignore[arg-type]
        for step, health in ((10, "certified"), (20, "fresh"), (30, "tainted"))
    ]
    traces = _named(_draw(_bands(np.ones(50)), marks=Marks(checkpoints=saved)), "saved")
    assert len({trace.marker.symbol for trace in traces}) == 3
    assert "certified, 1 MiB" in traces[1].hovertext[0]


def test_held_and_skipped_steps_are_marked() -> None:
    marks = Marks(held=[(0, 7)], events=[Event("r", 0, 9, 0.0, "skip_data", "batch 9")])
    held = _named(_draw(_bands(np.ones(20)), marks=marks), "held")
    assert sorted(int(trace.x[0]) for trace in held) == [7, 9]


def test_text_of_a_run_is_not_markup_in_a_figure() -> None:
    figure = _draw(_bands(np.ones(50)), marks=Marks(alerts=[ALERT]))
    text = _named(figure, "alert")[0].hovertext[0]
    assert "&lt;b&gt;loud&lt;/b&gt;" in text
    assert "<b>" not in text


def test_a_strip_without_marks_is_still_there() -> None:
    figure = _draw(_bands(np.ones(50)), marks=Marks())
    assert any(trace.yaxis == "y2" for trace in figure.data)


@pytest.mark.parametrize(("top", "dtick"), [(3.0, "D1"), (300.0, "D2"), (1e6, 1)])
def test_a_log_axis_has_labels_enough(top: float, dtick: str | int) -> None:
    figure = _draw(_bands(np.linspace(1, top, 50)), Window(is_log=True))
    assert (figure.layout.yaxis.type, figure.layout.yaxis.dtick) == ("log", dtick)


def test_one_point_is_a_visible_dot() -> None:
    (trace,) = _draw(_bands(np.ones(1))).data
    assert trace.mode == "markers"


def test_lines_differ_by_dash_and_not_by_colour_alone() -> None:
    figure = lines_figure(
        {"video": _living(_bands(np.ones(5))), "audio": _living(_bands(np.ones(5)))},
        Window(),
        unit="mse",
    )
    assert len({trace.line.dash for trace in figure.data}) == 2


def test_many_layers_become_a_heat_map() -> None:
    for num_layers, kind in ((12, "scatter"), (13, "heatmap")):
        series = _bands(np.ones((5, num_layers)))
        figure = per_layer_figure(
            _living(series), Window(), layer="block", unit="1", levels=[("limit", 2.0)]
        )
        assert figure.data[0].type == kind


def test_a_level_has_its_name_written_to_it() -> None:
    figure = lines_figure(
        {"a": _living(_bands(np.ones(5)))}, Window(), unit="nats", levels=[("ln 8", 2), ("0", 0)]
    )
    assert [(note.text, note.y) for note in figure.layout.annotations] == [("ln 8", 2), ("0", 0)]


def test_the_name_of_a_level_stands_at_its_line_on_a_log_axis_too() -> None:
    figure = lines_figure(
        {"a": _living(_bands(np.ones(5)))},
        Window(is_log=True),
        unit="1",
        levels=[("usual", 1e-3), ("none", 0.0)],
    )
    # plotly wants a line's value and a text's power of ten; 0 is nowhere on a log axis
    (line,), (note,) = figure.layout.shapes, figure.layout.annotations
    assert (line.y0, note.y, note.text) == (1e-3, -3.0, "usual")


def test_modalities_differ_by_dash_and_layers_by_colour() -> None:
    values_PLM = np.arange(5 * 6 * 2.0).reshape(5, 6, 2)
    figure = per_modality_figure(
        _living(_bands(values_PLM)), Window(), num_layers=6, layer="block", unit="1"
    )
    audio = _named(figure, "audio 5")[0]
    video = _named(figure, "video 5")[0]
    np.testing.assert_array_equal(audio.y, values_PLM[:, 5, 1])
    assert audio.line.color == video.line.color
    assert audio.line.dash != video.line.dash
    assert len({trace.line.color for trace in figure.data}) == 6


def test_many_layers_of_two_modalities_are_one_heat_map_with_named_rows() -> None:
    series = _bands(np.arange(5 * 7 * 2.0).reshape(5, 7, 2))
    figure = per_modality_figure(_living(series), Window(), num_layers=7, layer="block", unit="1")
    (heat,) = figure.data
    assert heat.z.shape == (14, 5)
    assert figure.layout.yaxis.ticktext[7] == "audio 0"
    assert heat.z[7][0] == 1.0  # first step, first block, audio


def test_named_layers_have_their_names() -> None:
    figure = per_layer_figure(
        _living(_bands(np.ones((5, 2)))), Window(), layer="part", unit="mse", names=["low", "high"]
    )
    assert [trace.name for trace in figure.data] == ["low", "high"]


def test_parts_of_a_step_are_stacked_and_patterned() -> None:
    parts = {"forward": _living(_bands(np.ones(5))), "backward": _living(_bands(np.ones(5)))}
    figure = stacked_figure(parts, Window(), unit="s")
    assert {trace.stackgroup for trace in figure.data} == {"parts"}
    assert len({trace.fillpattern.shape for trace in figure.data}) == 2


def test_a_load_map_over_time_is_experts_by_steps_on_a_fixed_scale() -> None:
    load = _bands(np.ones((6, 8)), np.arange(6, dtype=np.int64) * 10)
    (heat,) = load_over_time(load, Window(), layer=1, unit="x mean").data
    assert heat.z.shape == (8, 6)
    assert (heat.zmin, heat.zmax) == (0, 2)


def test_a_load_map_is_relative_to_each_columns_mean() -> None:
    tokens = _bands(np.array([[2.0, 6.0], [0.0, 0.0]]), np.array([0, 1], np.int64))
    (heat,) = load_over_time(tokens, Window(), layer=0, unit="x mean").data
    np.testing.assert_array_equal(heat.z, [[0.5, 0.0], [1.5, 0.0]])


def test_samples_are_drawn_over_their_noise_level_with_a_symbol_per_modality() -> None:
    loss_PMB, sigma_PMB = np.ones((5, 2, 4), np.float32), np.full((5, 2, 4), 0.5, np.float32)
    video, audio = noise_figure(loss_PMB, sigma_PMB, Window(is_log=True), unit="mse").data
    assert (video.name, audio.name) == ("video", "audio")
    assert video.marker.symbol != audio.marker.symbol
    assert len(video.x) == 20


def test_a_load_map_at_a_step_is_layers_by_experts() -> None:
    (heat,) = load_at_step(np.ones((3, 8), np.float32), unit="x mean").data
    assert heat.z.shape == (3, 8)


def test_who_goes_where_is_blank_without_tokens_and_has_named_rows() -> None:
    share_VE = np.array([[0.75, 0.25, 0, 0], [0, 0, 0, 0]], np.float32)
    figure = who_goes_where(share_VE, ["video", "audio"])
    (heat,) = figure.data
    np.testing.assert_array_equal(heat.z, [[0.75, 0.25, 0, 0], [np.nan] * 4])
    assert figure.layout.yaxis.ticktext == ("video", "audio")
    assert heat.customdata[1].tolist() == ["audio"] * 4


def test_the_diagonal_of_experts_that_work_together_is_blank() -> None:
    share_EE = np.array([[1, 0.5], [0.25, 1]], np.float32)
    (heat,) = working_together(share_EE).data
    np.testing.assert_array_equal(heat.z, [[np.nan, 0.5], [0.25, np.nan]])


def test_a_figure_of_a_whole_run_stays_small() -> None:
    # 3 traces x 401 points x (8 + 4) bytes as base64 is about 19 kB
    values = np.random.default_rng(0).normal(size=200_000)
    assert len(_draw(_bands(values, width=512)).to_json()) < 30_000
