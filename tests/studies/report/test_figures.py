"""Figures are plain data that any plotly draws, on light and on dark."""

import json
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import pytest

from moescope.studies.report.answers import answers_of
from moescope.studies.report.figures import CAPTIONS, TITLES, as_plain, figures_of
from moescope.studies.report.look import in_figure, log_axis
from moescope.studies.report.stories import Story
from moescope.studies.report.table import trial_table

CHEAP = ("ablation", "sensitivity", "seeds", "grid")


def drawn(study: Any, stories: dict[str, Story] | None = None) -> dict[str, go.Figure]:
    frame = trial_table(study.rows)
    return figures_of(frame, answers_of(study.study, frame, stories or {}))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("ablation", ["ablations"]),
        ("sensitivity", ["loss_against_rate", "frontier"]),
        ("seeds", ["seeds"]),
        ("grid", ["grid", "effects"]),
    ],
)
def test_each_kind_has_its_figures(
    synthetic: Callable[..., Any], kind: str, names: list[str]
) -> None:
    assert list(drawn(synthetic(kind))) == names
    assert set(names) <= TITLES.keys() == CAPTIONS.keys()


@pytest.mark.parametrize("kind", CHEAP)
def test_a_figure_is_strict_json_without_colours_of_its_own(
    synthetic: Callable[..., Any], kind: str
) -> None:
    for figure in drawn(synthetic(kind)).values():
        plain = as_plain(figure)
        assert "bdata" not in json.dumps(plain, allow_nan=False)
        assert as_plain(go.Figure(plain)) == plain
        layout = plain["layout"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
        assert "color" not in layout["font"]
        assert not layout["template"].get("layout")
        # a heading of the page says it: it cannot lie on the legend
        assert "title" not in layout


def test_axes_have_titles(synthetic: Callable[..., Any]) -> None:
    figure = drawn(synthetic("sensitivity"))["loss_against_rate"]
    assert figure.layout.xaxis.title.text == "learning rate"
    assert figure.layout.yaxis.title.text == "loss (mse)"
    assert figure.layout.xaxis.type == "log"


def test_a_verdict_is_told_by_symbol_and_colour(synthetic: Callable[..., Any]) -> None:
    marks = [t.marker for t in drawn(synthetic("sensitivity"))["frontier"].data]
    assert len({mark.symbol for mark in marks}) == len({mark.color for mark in marks}) == 4


def test_what_diverged_stands_at_the_loss_that_it_began_with(synthetic: Callable[..., Any]) -> None:
    study = synthetic("sensitivity")
    stories = {row.key: Story(2.0, {}) for row in study.rows}
    figure = drawn(study, stories)["loss_against_rate"]
    (diverged,) = [trace for trace in figure.data if trace.name == "diverged"]
    assert set(diverged.y) == {2.0}


def test_levels_of_a_grid_are_in_the_order_of_their_numbers(synthetic: Callable[..., Any]) -> None:
    figure = drawn(synthetic("grid"))["grid"]
    assert list(figure.data[0].y) == ["4", "8", "16", "32"]
    assert list(figure.data[0].x) == ["96", "112", "128"]


def test_a_label_is_no_markup_in_a_figure() -> None:
    assert in_figure("<a href='x'>&") == "&lt;a href='x'&gt;&amp;"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((1e3, 1e6), ["1k", "10k", "100k", "1M"]),
        ((1e5, 8e5), ["100k", "200k", "500k"]),
        ((1.0, 1e12), ["1", "1k", "1M", "1B", "1T"]),
    ],
)
def test_a_log_axis_has_a_few_round_ticks(values: tuple[float, ...], texts: list[str]) -> None:
    assert log_axis(values, is_count=True)["ticktext"] == texts
