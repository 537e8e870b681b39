"""The command that writes a run's history into a file: `moescope export RUN`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import MoescopeError, did_you_mean
from ..shell import Home, Json, RunName, StoreUrl, asked_settings, opened_store
from ..terminal import say, say_json


def export(
    run: RunName,
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="parquet, csv or jsonl.")
    ] = "parquet",
    out: Annotated[
        str,
        typer.Option(
            "--out", metavar="FILE", help="File to write; else RUN.FORMAT here. -: stdout."
        ),
    ] = "",
    is_replacing: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there already.")
    ] = False,
    signals: Annotated[
        list[str] | None,
        typer.Option(
            "--signals",
            metavar="NAME",
            help="Only these: names or patterns as 'loss/*', with commas between; repeatable.",
        ),
    ] = None,
    from_step: Annotated[
        int | None, typer.Option("--from", metavar="STEP", min=0, help="First step; else all.")
    ] = None,
    to_step: Annotated[
        int | None, typer.Option("--to", metavar="STEP", min=0, help="Last step, included.")
    ] = None,
    is_living_only: Annotated[
        bool,
        typer.Option("--living", help="Without the branches that a rollback left behind."),
    ] = False,
    thin_to: Annotated[
        int | None,
        typer.Option(
            "--thin",
            metavar="N",
            min=2,
            help="At most N points a signal, spikes kept; the file is marked as thinned.",
        ),
    ] = None,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Write a run's whole history into a file: every point of every signal, abandoned branches
    too, marked as such."""
    from .export_files import FORMATS, STDOUT, write_export
    from .exporting import Wanted, prepared

    if format not in FORMATS:
        raise MoescopeError(
            f"--format is {format}: expected parquet, csv or jsonl{did_you_mean(format, FORMATS)}"
        )
    if out == STDOUT and as_json:
        raise MoescopeError("--json and --out - both want stdout: give one of them")
    patterns = tuple(word for given in signals or () for word in given.split(",") if word)
    wanted = Wanted(patterns, from_step, to_step, is_living_only, thin_to)
    with opened_store(asked_settings(home, store)) as open_store:
        export = prepared(open_store, open_store.find_run(run), wanted)
        # a run's name is a person's own text, which may hold a slash
        name = export.run.name.replace("/", "_").lstrip(".") or export.run.id
        file = None if out == STDOUT else Path(out or f"{name}.{format}")
        written = write_export(export, format, file, is_replacing=is_replacing)
    if as_json:
        say_json(written)
    elif out != STDOUT:
        thinned = f", thinned to {thin_to} points a signal" if thin_to else ""
        say(
            f"{written.file}: {written.num_points:,} points of {written.num_signals} signals of "
            f"{export.run.name}{thinned}"
        )
