"""`moescope study report` and `moescope study fit NAME`: what a study found, in a shell."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..platform.errors import MoescopeError
from ..platform.shell import Home, Json, StoreUrl, asked_settings, opened_store
from ..platform.terminal import console_for, say, say_json, say_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..platform.settings import Settings
    from ..platform.store import Store
    from .laws.law import Law


def report(
    study: Annotated[str, typer.Argument(metavar="NAME", help="A study's name.")],
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Write a study's report, of what it has found so far: a page, and its numbers as JSON and
    parquet. Called again it takes the place of the one before."""
    from .report.write import FILES, make_report

    settings = asked_settings(home, store)
    lines: list[str] = []
    with (
        opened_store(settings) as open_store,
        console_for(sys.stderr).status("making the report"),
    ):
        made = make_report(open_store, settings, study, time.time(), say=lines.append)
    if as_json:
        say_json({**made.content["numbers"], "folder": made.folder, "files": FILES})
        return
    say(made.content["numbers"]["headline"])
    for line in lines:
        say(line)
    for name in FILES:
        say(f"{made.folder}/{name}")


def say_report(
    store: "Store", settings: "Settings", study: str, say_line: "Callable[[str], None]"
) -> None:
    """Makes a study's report at its end, and says what it says and where it is."""
    from .report.write import FILES, make_report

    made = make_report(store, settings, study, time.time(), say=say_line)
    say_line(made.content["numbers"]["headline"])
    say_line(f"report: {made.folder}/{FILES[0]}")


def fit_study(
    store: "Store", name: str, forms: Sequence[str], *, num_bootstraps: int, seed: int
) -> "list[Law]":
    """Fits laws to what a study's trials came to, from the lowest held-out error on; without forms
    the first that its columns allow. Raises MoescopeError where the study is not there, or its
    trials do not carry a form."""
    from ..platform import trials
    from .report.law_answers import fit_of_study
    from .report.table import counted, trial_table

    trials.study(store, name)
    rows = counted(trial_table(trials.trials(store, name)))
    if rows.empty:
        raise MoescopeError(
            f"no trial of study {name} counts yet: `moescope study status {name}` shows them"
        )
    return fit_of_study(rows, forms, num_bootstraps=num_bootstraps, seed=seed)


def told_law(law: "Law", flops: float | None) -> dict[str, Any]:
    """Returns all that is known of a law, as plain values."""
    d = law.diagnostics
    return {
        "form": law.form.name,
        "formula": law.form.formula,
        "source": law.form.source,
        "num_runs": len(law.columns["loss"]),
        "params": law.params,
        "intervals": law.parameter_intervals(),
        "noise": law.noise,
        "seed_noise": law.seed_noise,
        "held_out_error": None if law.held_out is None else law.held_out.mean_error,
        "held_out_rows": [] if law.held_out is None else list(law.held_out.rows),
        "diagnostics": {**d._asdict(), "warnings": list(d.warnings)},
        "can_extrapolate": law.verdict.can_extrapolate,
        "reasons": list(law.verdict.reasons),
        "num_bootstraps": law.num_bootstraps,
        "optimum": None if flops is None else law.optimal(flops)._asdict(),
    }


def say_law(told: dict[str, Any]) -> None:
    """Prints what `told_law` tells, for a person."""
    say(f"{told['form']}: {told['formula']}  ({told['source']})")
    say_rows(
        [
            {
                "parameter": name,
                "value": f"{value:.5g}",
                "95% from": f"{told['intervals'][name][0]:.5g}",
                "to": f"{told['intervals'][name][1]:.5g}",
            }
            for name, value in told["params"].items()
        ],
        "",
    )
    seeds = "" if told["seed_noise"] is None else f", {told['seed_noise']:.2%} between seeds"
    say(f"{told['num_runs']} runs lie {told['noise']:.2%} around it{seeds}")
    if told["held_out_error"] is not None:
        say(
            f"{len(told['held_out_rows'])} of the largest runs, foretold by a law of the others: "
            f"{told['held_out_error']:.2%} off"
        )
    outliers = told["diagnostics"]["outliers"]
    if outliers:
        say(f"outliers, which count little: rows {', '.join(map(str, outliers))}")
    if told["optimum"] is not None:
        best = told["optimum"]
        (n_low, n_high), (d_low, d_high) = best["params_interval"], best["tokens_interval"]
        (l_low, l_high), (f_low, f_high) = best["loss_interval"], best["flat_params"]
        say(f"at {best['flops']:.3g} FLOPs the best size is")
        say(f"  {best['params']:.3g} parameters (95%: {n_low:.3g} to {n_high:.3g})")
        say(f"  {best['tokens']:.3g} tokens (95%: {d_low:.3g} to {d_high:.3g})")
        say(f"  loss {best['loss']:.4f} (95%: {l_low:.4f} to {l_high:.4f})")
        say(f"  as good, within 0.25%: {f_low:.3g} to {f_high:.3g} parameters")
    if told["can_extrapolate"]:
        say("it may be asked beyond its runs")
    else:
        say("DO NOT EXTRAPOLATE: " + "; ".join(told["reasons"]))


def say_comparison(all_told: Sequence[dict[str, Any]]) -> None:
    """Prints several laws side by side, by what they foretell; nothing for a single one."""
    if len(all_told) < 2:
        return
    say_rows(
        [
            {
                "form": told["form"],
                "held-out error": "-"
                if told["held_out_error"] is None
                else f"{told['held_out_error']:.2%}",
                "noise": f"{told['noise']:.2%}",
                "beyond the runs": "may be asked" if told["can_extrapolate"] else "refused",
            }
            for told in all_told
        ],
        "",
    )
