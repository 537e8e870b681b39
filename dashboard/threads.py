"""Pure: parallel coordinates: each run a thread through its settings to what it came to."""

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..platform import palette
from . import theme
from .configurations import ABSENT
from .settings_of_runs import numbers_of, text_of, wants_log
from .words import in_figure, number

_MOST_WORDS = 12
"""Values that are all named on an axis."""


def threads_figure(
    settings: Mapping[str, Sequence[Any]], results: Sequence[float], *, result: str
) -> go.Figure:
    """Draws runs as threads: an axis for each setting, the last one for the result, which colours
    them too. settings: {key: its value in each run, None where it has none}. Ranges can be dragged
    along an axis to pick threads.
    """
    values = np.asarray(results, float)
    figure = go.Figure(
        go.Parcoords(
            dimensions=[
                *(_axis(name, of_run) for name, of_run in settings.items()),
                {"label": in_figure(result, 24), "values": values},
            ],
            line={
                "color": values,
                # readable on light and on dark; its numbers are on the last axis
                "colorscale": [
                    [i / (len(palette.RAMP) - 1), colour] for i, colour in enumerate(palette.RAMP)
                ],
            },
            labelangle=0,
        )
    )
    theme.laid_out(figure, height=380, unit="1")
    return figure.update_layout(margin={"l": 56, "r": 48, "t": 60, "b": 24})


def _axis(name: str, values: Sequence[Any]) -> dict[str, Any]:
    label = in_figure(name.rpartition(".")[2], 24)
    numbers = numbers_of(values)
    if numbers is None:
        return {"label": label, **_of_words(values)}
    found = np.asarray(numbers)
    if wants_log(numbers):
        return {"label": f"{label} (log)", **_of_powers(np.log10(found))}
    return {"label": label, "values": found}


def _of_words(values: Sequence[Any]) -> dict[str, Any]:
    texts = [ABSENT if value is None else text_of(value) for value in values]
    words = sorted(set(texts))
    shown = range(0, len(words), ceil(len(words) / _MOST_WORDS))
    return {
        "values": [words.index(text) for text in texts],
        "range": [-0.5, len(words) - 0.5],
        "tickvals": list(shown),
        "ticktext": [in_figure(words[i], 24) for i in shown],
    }


def _of_powers(logs: NDArray[np.float64]) -> dict[str, Any]:
    low, high = float(logs.min()), float(logs.max())
    powers = list(range(floor(low), ceil(high) + 1))
    ticks = [low, *(float(p) for p in powers if low < p < high), high]
    return {
        "values": logs,
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [number(10.0**tick, 3) for tick in ticks],
    }
