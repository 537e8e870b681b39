"""A heading and a chart for signals of the catalogue, or a word that they were not measured."""

from collections.abc import Mapping

from ...platform.catalogue import signal_spec
from ..charts import (
    Levels,
    lines_figure,
    per_layer_figure,
    per_modality_figure,
    scalar_figure,
)
from ..reads import RunReader
from ..window import Window
from .panel import chart, heading, nothing_yet

NOT_YET = "Not measured in this run, or not yet."


def scalar(
    reader: RunReader, window: Window, title: str, signal: str, *, is_log: bool = False
) -> None:
    """Draws a scalar with its band and its abandoned branches. is_log: even where none is asked."""
    heading(title, signal)
    shown = window.logarithmic() if is_log else window
    series = reader.branches(signal, shown)
    if series is None:
        nothing_yet(NOT_YET)
        return
    unit = signal_spec(signal).unit
    chart(
        lambda: scalar_figure(series, shown, name=title.lower(), unit=unit),
        shown,
        f"chart_{signal}",
        f"{title} over the steps.",
        (title, series.version),
    )


def lines(
    reader: RunReader,
    window: Window,
    title: str,
    signals: Mapping[str, str],
    *,
    is_linear: bool = False,
    is_peak: bool = False,
    levels: Levels = (),
) -> None:
    """Draws several scalars of one unit: {name of the line: signal}; the first heads the chart."""
    first = next(iter(signals.values()))
    heading(title, first)
    shown = window.linear() if is_linear else window
    found = {name: reader.branches(signal, shown) for name, signal in signals.items()}
    drawn = {name: series for name, series in found.items() if series is not None}
    if not drawn:
        nothing_yet(NOT_YET)
        return
    unit = signal_spec(first).unit
    chart(
        lambda: lines_figure(drawn, shown, unit=unit, levels=levels, is_peak=is_peak),
        shown,
        f"chart_{title}",
        f"{title}: {', '.join(drawn)} over the steps.",
        tuple((name, series.version) for name, series in drawn.items()),
    )


def per_layer(
    reader: RunReader,
    window: Window,
    title: str,
    signal: str,
    layer: str,
    levels: Levels = (),
) -> None:
    """Draws a signal of one dimension, called `layer` in the legend, with named levels."""
    heading(title, signal)
    series = reader.branches(signal, window)
    if series is None:
        nothing_yet(NOT_YET)
        return
    unit = signal_spec(signal).unit
    chart(
        lambda: per_layer_figure(series, window, layer=layer, unit=unit, levels=levels),
        window,
        f"chart_{signal}",
        f"{title}: a line per {layer} over the steps.",
        series.version,
    )


def statistic(
    reader: RunReader,
    window: Window,
    title: str,
    signal: str,
    *,
    levels: Levels = (),
    is_log: bool = False,
) -> None:
    """Draws a scalar, or a signal of blocks or MoE layers, with modalities or without.

    is_log: even where none is asked.
    """
    spec = signal_spec(signal)
    shown = window.logarithmic() if is_log else window
    if spec.is_scalar:
        lines(reader, shown, title, {title.lower(): signal}, levels=levels)
        return
    layer = "block" if spec.dimensions[0] == "layer" else "MoE layer"
    if len(spec.dimensions) == 1:
        per_layer(reader, shown, title, signal, layer, levels)
        return
    heading(title, signal)
    series = reader.branches(signal, shown)
    if series is None:
        nothing_yet(NOT_YET)
        return
    num_layers = reader.num_rows(signal)
    chart(
        lambda: per_modality_figure(
            series, shown, num_layers=num_layers, layer=layer, unit=spec.unit, levels=levels
        ),
        shown,
        f"chart_{signal}",
        f"{title}: a line per {layer} and modality over the steps.",
        series.version,
    )
