"""A figure is made once for all who look at it."""

import plotly.graph_objects as go

from moescope.dashboard.browser import drawn as module
from moescope.dashboard.browser.drawn import KeptFigures, drawn


def _figure(y: float) -> go.Figure:
    return go.Figure(go.Scatter(x=[0], y=[y]), layout={"height": 300})


def test_what_was_drawn_is_not_built_again() -> None:
    kept, built = KeptFigures(), []

    def build() -> go.Figure:
        built.append(1)
        return _figure(1.0)

    assert kept.of(("loss", 7), build) is kept.of(("loss", 7), build)
    assert len(built) == 1
    kept.of(("loss", 8), build)
    assert len(built) == 2


def test_what_was_not_looked_at_for_long_is_forgotten() -> None:
    kept, built = KeptFigures(), []

    def build() -> go.Figure:
        built.append(1)
        return _figure(1.0)

    for number in range(module.MOST_KEPT + 1):
        kept.of(number, build)
    kept.of(0, build)
    assert len(built) == module.MOST_KEPT + 2


def test_another_figure_has_another_version() -> None:
    one, same, other = drawn(_figure(1.0)), drawn(_figure(1.0)), drawn(_figure(2.0))
    assert one == same
    assert one.version != other.version
    assert one.height == 300
