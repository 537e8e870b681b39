"""Which figures a study has, and figures as plain JSON."""

import json
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from .answers import Answers
from .figures_of_comparisons import ablation_bars, effects, grid_map, seed_strip
from .figures_of_laws import isoflop, loss_against_compute
from .figures_of_rates import before_the_loss, frontier_map, loss_against_rate
from .table import counted

TITLES = {
    "loss_against_compute": "Loss against compute",
    "isoflop": "Loss against size, by budget",
    "loss_against_rate": "Loss against learning rate",
    "ablations": "Each change beside the base",
    "seeds": "Each seed",
    "grid": "The grid",
    "effects": "What each level does, all else equal",
    "frontier": "Stability by learning rate and size",
    "before_the_loss": "What moved before the loss",
}
"""{name: heading}, in the order of the page."""
CAPTIONS = {
    "loss_against_compute": "Each dot a trial, coloured by its active parameters. The curve is the "
    "least loss that the law gives any of the sizes; where it may be asked beyond the trials it "
    "goes on, dashed; where it is refused it is dotted.",
    "isoflop": "Dots are trials of equal FLOPs, curves their parabolas in the log of the size, "
    "stars the best sizes with their 95% intervals. A budget without a star has none that counts.",
    "loss_against_rate": "Lines go through the mean over seeds. What diverged stands at the loss "
    "that it began with: it has lost all, and not more.",
    "ablations": "Bars go from the base's mean to the change's, whiskers are the 95% interval of "
    "the difference, rings single runs. The axis does not begin at 0.",
    "seeds": "The same configuration, begun with other weights and batches.",
    "grid": "Mean loss over seeds; the frame is the lowest.",
    "effects": "By least squares over all cells that count; effects of an axis add up to 0.",
    "frontier": "Each symbol is a trial. Trials of one place are moved aside a little.",
    "before_the_loss": "Signals left of the dashed line began to grow before the loss did. "
    "Trials by their numbers, as in the tables.",
}


def figures_of(frame: pd.DataFrame, answers: Answers) -> dict[str, go.Figure]:
    """Returns the figures that a study's answers give, by name, in the order of the page."""
    rows = counted(frame)
    found: dict[str, go.Figure | None] = {}
    if answers.laws is not None:
        found["loss_against_compute"] = loss_against_compute(rows, answers.laws)
    if answers.best_sizes is not None:
        found["isoflop"] = isoflop(rows, answers.best_sizes)
    if answers.sensitivities:
        found["loss_against_rate"] = loss_against_rate(answers.sensitivities)
    if answers.ablations is not None and answers.ablations.rows:
        found["ablations"] = ablation_bars(answers.ablations)
    if answers.seeds is not None:
        found["seeds"] = seed_strip(answers.seeds)
    if answers.grid is not None:
        found["grid"] = grid_map(answers.grid)
        found["effects"] = effects(answers.grid) if len(answers.grid.effects) > 1 else None
    if answers.frontier.edges:
        found["frontier"] = frontier_map(answers.frontier)
    if any(trial.loss_grew_at is not None and trial.grew_at for trial in answers.frontier.trials):
        found["before_the_loss"] = before_the_loss(answers.frontier)
    return {name: found[name] for name in TITLES if found.get(name) is not None}


def as_plain(figure: go.Figure) -> dict[str, Any]:
    """Returns a figure as nested plain values, which plotly.js and `go.Figure` both take; what is
    not finite is None."""
    plain: dict[str, Any] = json.loads(figure.to_json())
    return plain
