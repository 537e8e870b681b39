"""The chart of an incident: what the alert is about, as recorded and in each replay."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from ..platform import palette
from . import theme
from .words import in_figure

_HEIGHT = 340
_CLIP_SPREADS = 30.0
"""Farther away everything looks the same, and the rest would be a flat line."""
SHORT_NAMES: Mapping[str, str] = {
    "again": "replay, the same again",
    "other_data": "replay, other batches",
    "configured_rate": "replay, configured rate",
    "fp32": "replay in fp32",
    "judged": "the batches, untrained",
    "at_alarm": "on from the alarm, good batches",
    "at_alarm_fp32": "the same in fp32",
}


def incident_figure(
    course: Mapping[str, Mapping[str, Sequence[Any]]], onset: int, alarm: int
) -> go.Figure:
    """Draws the score of the record and of its replays over steps, with onset and alarm.

    course: {"record" or an arm's name: {"steps", "score"}}; a score is None where not measured.
    """
    figure = go.Figure()
    figure.add_vrect(
        x0=onset, x1=max(alarm, onset + 0.5), line_width=0, layer="below",
        fillcolor=palette.faded(palette.AMBER, 0.18),
    )  # fmt: skip
    replays = [name for name in course if name != "record"]
    for index, name in enumerate(replays):
        colour = palette.SERIES[(index + 1) % len(palette.SERIES)]
        dash = palette.DASHES[(index + 1) % len(palette.DASHES)]
        _add(figure, course[name], SHORT_NAMES.get(name, name), colour, dash, 1.6)
    if "record" in course:
        _add(figure, course["record"], "as it was recorded", palette.BLUE, "solid", 2.6)
    theme.laid_out(figure, height=_HEIGHT, unit="spreads")
    for step, word, anchor in ((onset, "onset", "right"), (alarm, "alarm", "left")):
        figure.add_vline(x=step, line={"color": palette.GREY, "dash": "dot", "width": 1})
        figure.add_annotation(
            x=step, y=1, yref="y domain", text=word, showarrow=False, xanchor=anchor,
            yanchor="top", font={"size": 11},
        )  # fmt: skip
    return figure


def _add(
    figure: go.Figure,
    line: Mapping[str, Sequence[Any]],
    name: str,
    colour: str,
    dash: str,
    width: float,
) -> None:
    known = [
        (step, max(-_CLIP_SPREADS, min(_CLIP_SPREADS, score)))
        for step, score in zip(line["steps"], line["score"], strict=True)
        if score is not None
    ]
    if not known:
        return
    figure.add_scatter(
        x=[step for step, _ in known],
        y=[score for _, score in known],
        mode="lines" if len(known) > 1 else "markers",
        line={"color": colour, "dash": dash, "width": width},
        name=in_figure(name),
        hovertemplate="%{y:.1f}",
    )
