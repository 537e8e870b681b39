"""Pure: learning rates and verdicts in, plotly figures out."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from ...platform.palette import DASHES, GREY, SERIES
from .figures_of_laws import ACTIVE, LOSS
from .frontier import Frontier, Health, number_of, verdict_words
from .look import LINES, VERDICTS, empty_figure, in_figure, log_axis, value_axis, verdict_of
from .sensitivity import Sensitivity
from .words import loss_text, short

RATE = "learning rate"
_MOST_ROWS = 24


def loss_against_rate(found: Sequence[Sensitivity]) -> go.Figure:
    """Draws each size's loss by learning rate, with a marker for each run's verdict. What diverged
    stands at the loss that the run began with, as it counts in the sensitivity."""
    figure = empty_figure(RATE, LOSS)
    for index, one in enumerate(found):
        figure.add_scatter(
            x=[rate.rate for rate in one.rates],
            y=[rate.loss if math.isfinite(rate.loss) else None for rate in one.rates],
            mode="lines",
            line={
                "color": LINES[index % len(LINES)],
                "width": 2,
                "dash": DASHES[index % len(DASHES)],
            },
            name=in_figure(one.where),
            hovertemplate="%{x:.3g}: mean %{y:.4f}<extra></extra>",
        )
    for word, look in VERDICTS.items():
        x, y, text = [], [], []
        for one in found:
            for rate in one.rates:
                for loss, verdict in zip(rate.losses, rate.verdicts, strict=True):
                    if verdict_of(verdict_words(verdict, "done", 1)) != word:
                        continue
                    shown = one.start if word == "diverged" or not loss < one.start else loss
                    x.append(rate.rate)
                    y.append(shown if math.isfinite(shown) else None)
                    text.append(f"{in_figure(one.where)}: {loss_text(loss)}, {word}")
        if x:
            figure.add_scatter(
                x=x, y=y, mode="markers", name=word, text=text,
                marker={"symbol": look.symbol, "color": look.colour, "size": 9},
                hovertemplate="%{text}<br>rate %{x:.3g}<extra></extra>",
            )  # fmt: skip
    rates = [rate.rate for one in found for rate in one.rates]
    figure.update_xaxes(**value_axis(rates, is_count=False))
    return figure


def frontier_map(found: Frontier) -> go.Figure:
    """Draws every trial by learning rate and size; its symbol and colour say how it fared. Trials
    of one place stand beside each other."""
    figure = empty_figure(RATE, ACTIVE)
    seen: dict[tuple[float, float], int] = {}
    rates = [trial.learning_rate for trial in found.trials if trial.learning_rate > 0]
    # a fiftieth of the axis, which shows at any width
    aside = (max(rates, default=1.0) / min(rates, default=1.0)) ** 0.02
    placed: dict[str, list[tuple[float, Health]]] = {}
    for trial in found.trials:
        word = verdict_of(trial.verdict)
        if word not in VERDICTS or not trial.learning_rate > 0:
            continue
        # sizes are met within 1%: trials of one size share their place
        place = (trial.learning_rate, round(math.log(trial.params), 1))
        number = seen[place] = seen.get(place, -1) + 1
        # to the right, to the left, further to the right
        away = (-1) ** number * ((number + 1) // 2)
        placed.setdefault(word, []).append((trial.learning_rate * aside**away, trial))
    for word, look in VERDICTS.items():
        if word not in placed:
            continue
        figure.add_scatter(
            x=[x for x, _ in placed[word]],
            y=[trial.params for _, trial in placed[word]],
            mode="markers",
            name=word,
            marker={"symbol": look.symbol, "color": look.colour, "size": 11},
            text=[
                f"{in_figure(trial.label)}: {trial.verdict}"
                + (f" ({in_figure(trial.alerts)})" if trial.alerts else "")
                for _, trial in placed[word]
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    sizes = [trial.params for trial in found.trials]
    figure.update_xaxes(**value_axis(rates, is_count=False))
    figure.update_yaxes(**_axis_of_sizes(sizes))
    return figure


def before_the_loss(found: Frontier) -> go.Figure:
    """Draws, of each trial whose loss grew, how many steps earlier or later its other signals did;
    trials by their number."""
    figure = empty_figure("steps after the loss began to grow", "")
    trials = [trial for trial in found.trials if trial.loss_grew_at is not None][:_MOST_ROWS]
    names = [f"#{number_of(found, trial)}" for trial in trials]
    words = list(dict.fromkeys(word for trial in trials for word in trial.grew_at))
    symbols = ("circle", "square", "diamond", "triangle-up", "star", "cross")
    for index, word in enumerate(words):
        has = [i for i, trial in enumerate(trials) if word in trial.grew_at]
        figure.add_scatter(
            x=[trials[i].grew_at[word] - (trials[i].loss_grew_at or 0) for i in has],
            y=[names[i] for i in has],
            mode="markers",
            name=in_figure(word),
            marker={
                "size": 11,
                "symbol": symbols[index % len(symbols)],
                "color": SERIES[index % len(SERIES)],
            },
            text=[in_figure(trials[i].label) for i in has],
            hovertemplate="%{text}: %{x} steps<extra>" + in_figure(word) + "</extra>",
        )
    figure.add_vline(x=0, line={"color": GREY, "dash": "dash", "width": 1.5})
    figure.update_layout(height=140 + 34 * max(len(trials), 2))
    figure.update_yaxes(type="category", autorange="reversed", categoryarray=names)
    return figure


def _axis_of_sizes(sizes: list[float]) -> dict[str, object]:
    """Ticks at the sizes themselves; those within 5% are one."""
    own: list[float] = []
    for size in sorted(sizes):
        if not own or size > 1.05 * own[-1]:
            own.append(size)
    axis = log_axis(sizes, is_count=True)
    if 1 <= len(own) <= 8:
        axis |= {"tickvals": own, "ticktext": [short(size) for size in own]}
    if len(own) == 1:
        axis |= {"range": [math.log10(own[0] / 2), math.log10(own[0] * 2)]}
    return axis
