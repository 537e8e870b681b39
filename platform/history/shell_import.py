"""The commands that bring histories in: `moescope import jsonl|wandb-csv|tensorboard|mlflow`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..shell import Home, Json, StoreUrl, asked_settings, command_group, opened_store
from ..terminal import one_line, say, say_json

if TYPE_CHECKING:
    from ..store import Store
    from .intake import Brought
    from .points import Source

_MOST_LEFT = 12

import_app = command_group("Bring in histories of other trackers: as runs, with their curves.")

Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="Files to read.")]
Project = Annotated[str, typer.Option("--project", help="Groups the runs.")]
Name = Annotated[
    str, typer.Option("--name", help="Name of the run; all files are then one run, in their order.")
]
OneName = Annotated[str, typer.Option("--name", help="Name of the run, where it is only one.")]
As = Annotated[
    list[str] | None,
    typer.Option(
        "--as",
        metavar="NAME=SIGNAL",
        help="Take a name of the source as this signal, NAME=- leaves it out; repeatable.",
    ),
]
Runs = Annotated[
    list[str] | None,
    typer.Option("--run", metavar="RUN", help="Only these: names or patterns; repeatable."),
]
StepName = Annotated[str, typer.Option("--step", metavar="NAME", help="What the step is called.")]
TimeName = Annotated[str, typer.Option("--time", metavar="NAME", help="What the time is called.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Read all and say what it would be; write nothing.")
]
Moved = Annotated[
    bool, typer.Option("--moved", help="The source lies elsewhere than at the import before.")
]


@import_app.command("jsonl")
def import_jsonl(
    files: Files,
    name: Name = "",
    project: Project = "imported",
    told: As = None,
    step_name: StepName = "",
    time_name: TimeName = "",
    is_dry_run: DryRun = False,
    has_moved: Moved = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Import logs in JSON Lines, and what `moescope export --format jsonl` wrote; also .gz."""
    from .jsonl_source import jsonl_sources

    sources = jsonl_sources(files, project, name, step_name, time_name)
    _bring(sources, told, home, store, is_dry_run, has_moved, as_json)


@import_app.command("wandb-csv")
def import_wandb_csv(
    files: Files,
    runs: Runs = None,
    name: OneName = "",
    project: Project = "imported",
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", metavar="FILE", help="CSV of the table of runs: states, tags, configuration."
        ),
    ] = None,
    told: As = None,
    step_name: StepName = "",
    time_name: TimeName = "",
    is_dry_run: DryRun = False,
    has_moved: Moved = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Import CSV files of Weights & Biases: charts, with a column for each run, or histories."""
    from .wandb_csv_source import wandb_csv_sources

    sources = wandb_csv_sources(files, project, name, runs or (), table, step_name, time_name)
    _bring(sources, told, home, store, is_dry_run, has_moved, as_json)


@import_app.command("tensorboard")
def import_tensorboard(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Folders of event files, at any depth.")
    ],
    runs: Runs = None,
    name: OneName = "",
    project: Project = "imported",
    told: As = None,
    is_dry_run: DryRun = False,
    has_moved: Moved = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Import TensorBoard's event files: a run for each folder that holds some."""
    from .tensorboard_source import tensorboard_sources

    sources = tensorboard_sources(folders, project, name, runs or ())
    _bring(sources, told, home, store, is_dry_run, has_moved, as_json)


@import_app.command("mlflow")
def import_mlflow(
    address: Annotated[
        str,
        typer.Argument(
            metavar="URI",
            help="Of a server (http://...), a database (sqlite:///FILE), or a folder.",
        ),
    ],
    experiments: Annotated[
        list[str] | None,
        typer.Option(
            "--experiment", metavar="NAME", help="Only of these, names or patterns; repeatable."
        ),
    ] = None,
    runs: Runs = None,
    project: Annotated[
        str, typer.Option("--project", help="Groups the runs; else their experiment does.")
    ] = "",
    told: As = None,
    is_dry_run: DryRun = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Import runs of MLflow, with parameters, tags and state."""
    from .mlflow_source import mlflow_sources

    sources = mlflow_sources(address, project, experiments or (), runs or ())
    _bring(sources, told, home, store, is_dry_run, False, as_json)


def _bring(
    sources: "Sequence[Source]",
    told: Sequence[str] | None,
    home: Path | None,
    store: str | None,
    is_dry_run: bool,
    has_moved: bool,
    as_json: bool,
) -> None:
    """Imports the runs one by one, each in whole before the next, and says what became of each."""
    from .names import read_told

    read = read_told(told or ())
    with opened_store(asked_settings(home, store)) as open_store:
        brought = []
        for source in sources:
            brought.append(_one(open_store, source, read, is_dry_run, has_moved))
            if not as_json:
                _say(brought[-1], is_dry_run)
    if as_json:
        say_json(brought)


def _one(
    store: "Store", source: "Source", told: dict[str, str], is_dry_run: bool, has_moved: bool
) -> "Brought":
    from .intake import bring_in

    return bring_in(store, source, told, time.time(), is_dry_run=is_dry_run, has_moved=has_moved)


def _say(brought: "Brought", is_dry_run: bool) -> None:
    what = f"{brought.num_points:,} points, {brought.num_new:,} of them new"
    if brought.num_segments > 1:
        what += f", {brought.num_segments} segments"
    would = "would be " if is_dry_run else ""
    say(one_line(f"{brought.run}: {would}run {brought.run_id}, {what}"))
    width = max((len(signal) for signal in brought.signals.values()), default=0)
    for name, signal in sorted(brought.signals.items(), key=_catalogue_first):
        say(f"  {signal:<{width}}  from {one_line(name)}")
    for name, why in list(brought.left.items())[:_MOST_LEFT]:
        say(f"  left out: {one_line(name)} ({why})")
    if len(brought.left) > _MOST_LEFT:
        say(f"  left out: {len(brought.left) - _MOST_LEFT} more (--json lists all)")
    for note in brought.notes:
        say(f"  note: {one_line(note)}")


def _catalogue_first(item: tuple[str, str]) -> tuple[bool, str]:
    return item[1].startswith("user/"), item[1]
