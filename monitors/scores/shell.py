"""`moescope score-detectors`: what the loss detectors find on recorded curves, and how late."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...platform.errors import MoescopeError
from ...platform.shell import Json
from ...platform.terminal import console_for, say, say_json, say_rows

if TYPE_CHECKING:
    from .report import Report


def score_detectors(
    curves: Annotated[
        list[Path],
        typer.Argument(
            metavar="CURVES",
            help="CSV files of healthy runs with step, train_loss and perhaps grad_norm, or "
            "folders of them.",
        ),
    ],
    spikes: Annotated[
        list[Path] | None,
        typer.Option(
            "--spikes",
            metavar="FILE",
            help="Recorded spikes: CSV with step and loss, and event where there are several; or a "
            "folder of them.",
        ),
    ] = None,
    part: Annotated[
        Literal["held-out", "tuning", "all"],
        typer.Option("--part", help="Curves to score; thresholds were chosen on those for tuning."),
    ] = "held-out",
    num_places: Annotated[
        int, typer.Option("--places", min=1, max=10_000, help="Places to plant each shape at.")
    ] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the places.")] = 0,
    as_json: Json = False,
) -> None:
    """Score the loss detectors, and those of other systems, on recorded curves: false events on
    healthy ones, and how often and how late planted spikes, drifts and shifts are found."""
    from .curves import curves_of, read_curves
    from .recorded import read_recorded
    from .report import make_report

    if not curves:
        raise MoescopeError("name a CSV file of a healthy run, or a folder of them")
    chosen = curves_of(read_curves(curves), part)
    events = read_recorded(spikes or [])
    with console_for(sys.stderr).status("scoring"):
        report = make_report(chosen, events, part, num_places=num_places, seed=seed)
    if as_json:
        say_json(report)
    else:
        say_report(report)


def say_report(report: "Report") -> None:
    """Prints the tables of a report."""
    from .report import TOO_SHORT_STEPS

    for title, rows in report.tables():
        if not rows:
            continue
        say(f"\n{title}")
        say_rows(rows, "nothing to show")
    if not report.detections:
        say(
            f"\nNothing was planted: no curve has more than {TOO_SHORT_STEPS} steps, which it "
            "takes to settle and to hold the longest shape."
        )
