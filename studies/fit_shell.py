"""`moescope study fit`: a law of a study's trials, or of any table of runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..platform.errors import MoescopeError
from ..platform.shell import Home, Json, StoreUrl, asked_settings, opened_store
from ..platform.terminal import console_for, say_json
from .report_shell import fit_study, say_comparison, say_law, told_law

if TYPE_CHECKING:
    from .laws.law import Law


def fit(
    study: Annotated[
        str, typer.Argument(metavar="NAME", help="A study's name; or give --csv.")
    ] = "",
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Table of runs, one row each.")
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--form",
            help="Form of the law; several are compared. [default: chinchilla, or the first that "
            "a study's trials carry]",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="NAME=HEADER", help="What a column is called in the file."
        ),
    ] = None,
    flops: Annotated[
        float | None, typer.Option("--flops", help="Recommend the size for this budget.")
    ] = None,
    num_bootstraps: Annotated[
        int, typer.Option("--bootstraps", min=20, help="Fits of resampled runs, for intervals.")
    ] = 400,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of starts and resampling.")] = 0,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Fit a scaling law to a study's trials or to a table of runs, say how sure it is, and whether
    it may be asked beyond them. A table has loss, params, tokens, and what else the form reads."""
    if bool(study) == (csv is not None):
        raise MoescopeError("name a study, or give a table with --csv: one of them")
    if study and column:
        raise MoescopeError("--column goes with --csv: a study's columns have their names")
    laws: list[Law]
    with console_for(sys.stderr).status("fitting"):
        if csv is not None:
            from .laws.law import fit as fit_law

            frame = _read(csv, column or [])
            laws = [
                fit_law(frame, name, num_bootstraps=num_bootstraps, seed=seed)
                for name in form or ["chinchilla"]
            ]
            laws.sort(key=_held_out_error)
        else:
            with opened_store(asked_settings(home, store)) as open_store:
                laws = fit_study(
                    open_store, study, form or [], num_bootstraps=num_bootstraps, seed=seed
                )
        told = [told_law(law, flops) for law in laws]
    if as_json:
        say_json(told if form and len(form) > 1 else told[0])
        return
    for values in told:
        say_law(values)
    say_comparison(told)


def _read(path: Path, renamed: list[str]) -> Any:
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except OSError as error:
        raise MoescopeError(f"--csv {path} cannot be read: {error.strerror}") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise MoescopeError(f"--csv {path} is no table: {str(error).splitlines()[0]}") from None
    for entry in renamed:
        name, equals, header = entry.partition("=")
        if not equals or header not in frame:
            raise MoescopeError(
                f"--column {entry} must be NAME=HEADER with a header of the file: "
                f"{', '.join(map(str, frame.columns[:12]))}"
            )
        frame[name] = frame[header]
    return frame


def _held_out_error(law: "Law") -> float:
    return law.held_out.mean_error if law.held_out is not None else float("inf")
