"""The commands around studies: `moescope study ...`."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..platform.errors import MoescopeError
from ..platform.shell import Home, Json, StoreUrl, asked_settings, opened_store
from ..platform.terminal import console_for, say, say_json, say_rows

if TYPE_CHECKING:
    from ..platform.records import StudyState
    from ..platform.store import Store
    from .laws.law import Law
    from .plan import Plan

StudyFile = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study.yaml, or the name of a named study.")
]
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="A study's name.")]
DataFolder = Annotated[
    Path | None, typer.Option("--data", help="Folder of clips, in place of the study's.")
]
TRIAL_STATES = ("waiting", "running", "done", "failed")

study_app = typer.Typer(
    help="Studies: many runs that answer a question, and their laws.", no_args_is_help=True
)


@study_app.command()
def plan(
    study: StudyFile,
    data: DataFolder = None,
    has_calibration: Annotated[
        bool,
        typer.Option(
            "--calibration/--no-calibration",
            help="Train the smallest and the largest model for a few steps, to foretell hours.",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Say what a study would run and cost; nothing is started or written. Exit code 2 where that is
    over its limit."""
    made, rate = _planned(study, data, has_calibration)
    if as_json:
        say_json(_told_plan(made, rate))
    else:
        _say_plan(made)
    made.refuse_over_limit()


def _planned(
    study: str, data: Path | None, has_calibration: bool | None
) -> "tuple[Plan, dict[int, float]]":
    """has_calibration: None where only hours that the study speaks of ask for one."""
    from ..platform.frozen import changed
    from .plan import plan as planned
    from .points import shapes
    from .spec import read_spec

    spec = read_spec(study)
    if data is not None:
        spec = changed(spec, {"data": str(data.expanduser().absolute())})
    rate: dict[int, float] = {}
    if has_calibration is None:
        has_calibration = spec.budget.unit == "hours" or spec.limit.hours > 0
    if spec.data and has_calibration:
        from .calibration import calibrate

        with console_for(sys.stderr).status("calibrating"):
            rate = calibrate(config for _, config in shapes(spec))
    return planned(spec, rate), rate


@study_app.command()
def run(
    study: StudyFile,
    data: DataFolder = None,
    num_slots: Annotated[
        int, typer.Option("--slots", min=1, max=256, help="Trials at once; cores are shared out.")
    ] = 1,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Run a study's trials here, until none is left or Ctrl-C. Called again it goes on: what is
    done stays done, a changed study adds trials or retires them. Several may run at once."""
    from .run import run_study

    made, _ = _planned(study, data, has_calibration=None)
    made.refuse_over_limit()
    settings = asked_settings(home, store)
    say_line = (lambda line: None) if as_json else say
    with opened_store(settings) as open_store:
        run_study(open_store, settings, made, num_slots, say_line)
        found = trial_rows(open_store, made.spec.name)
    _say_trials(found, as_json)
    if any(row["state"] != "done" for row in found):
        raise typer.Exit(1)


@study_app.command()
def status(
    study: Annotated[str, typer.Argument(metavar="NAME", help="A study's name; else all.")] = "",
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Say how a study's trials stand."""
    from . import trials

    with opened_store(asked_settings(home, store)) as open_store:
        if study:
            trials.study(open_store, study)
            _say_trials(trial_rows(open_store, study), as_json)
            return
        rows = []
        for one in trials.studies(open_store):
            states = Counter[str](trial.state for trial in trials.trials(open_store, one.name))
            counts = {state: states[state] for state in TRIAL_STATES}
            rows.append({"study": one.name, "state": one.state, **counts})
    if as_json:
        say_json(rows)
    else:
        say_rows(rows, "no studies yet: `moescope study run STUDY` starts one")


def _state_command(name: str, state: "StudyState", about: str) -> None:
    def command(
        study: StudyName,
        home: Home = None,
        store: StoreUrl = None,
    ) -> None:
        from . import trials

        with opened_store(asked_settings(home, store)) as open_store:
            trials.study(open_store, study)
            trials.set_state(open_store, study, state)
        say(f"study {study} is {state}")

    study_app.command(name, help=about)(command)


_state_command("pause", "paused", "Start no further trial; those that run go on.")
_state_command("resume", "running", "Let a paused or cancelled study's trials run again.")
_state_command("cancel", "cancelled", "Start no further trial; those that run save and end.")


@study_app.command()
def retry(
    study: StudyName,
    trial: Annotated[str, typer.Option("--trial", help="Label or key of one; else all.")] = "",
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Let failed trials be tried anew, from where they were; what is done stays done."""
    from . import trials

    with opened_store(asked_settings(home, store)) as open_store:
        trials.study(open_store, study)
        number = trials.retry(open_store, study, trial)
    say(f"{number} trials wait again")


def trial_rows(store: "Store", study: str) -> list[dict[str, Any]]:
    """Returns a study's trials as plain values, in the order of its plan."""
    from . import trials

    return [
        {
            "key": trial.key,
            "label": trial.label,
            "state": trial.state,
            "attempts": trial.num_attempts,
            "run_id": trial.run_id,
            "coordinates": trial.coordinates,
            "params": trial.cost["active_params"],
            "total_params": trial.cost["total_params"],
            "flops": trial.cost["flops"],
            **{key: trial.result.get(key) for key in ("loss", "tokens", "verdict", "reason")},
        }
        for trial in trials.trials(store, study)
    ]


def _say_trials(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        say_json(rows)
        return
    say_rows(
        [
            {
                "trial": row["label"],
                "state": row["state"],
                "attempts": row["attempts"],
                "loss": "" if row["loss"] is None else f"{row['loss']:.4f}",
                "verdict": row["verdict"] or row["reason"] or "",
                "run": row["run_id"],
            }
            for row in rows
        ],
        "no trials",
    )


def _told_plan(made: "Plan", rate: dict[int, float]) -> dict[str, Any]:
    return {
        "study": made.spec.name,
        "kind": made.spec.kind,
        "flops_per_s": rate,
        "totals": made.totals._asdict(),
        "limit": made.spec.limit.model_dump(),
        "trials": [
            {
                "key": trial.key,
                "label": trial.label,
                "coordinates": trial.coordinates,
                "steps": trial.config.steps,
                "batch": trial.config.data.batch,
                "learning_rate": trial.config.optim.learning_rate,
                "hours": trial.hours,
                "trunk": trial.trunk,
                "branch_at": trial.branch_at,
                **trial.cost._asdict(),
            }
            for trial in made.trials
        ],
    }


def _say_plan(made: "Plan") -> None:
    if made.spec.question:
        say(made.spec.question)
    say_rows(
        [
            {
                "trial": trial.label,
                "active": f"{trial.cost.active_params:.3g}",
                "total": f"{trial.cost.total_params:.3g}",
                "steps": trial.config.steps
                if not trial.trunk
                else f"{trial.branch_at}+{trial.config.steps - trial.branch_at}",
                "tokens": f"{trial.cost.tokens:.3g}",
                "rate": f"{trial.config.optim.learning_rate:.3g}",
                "FLOPs": f"{trial.cost.flops:.3g}",
                "EP bytes": f"{trial.cost.expert_bytes:.3g}",
                "HP bytes": f"{trial.cost.head_bytes:.3g}",
                "hours": "?" if trial.hours is None else f"{trial.hours:.3g}",
                "disk GiB": f"{trial.cost.disk_bytes / 2**30:.3g}",
            }
            for trial in made.trials
        ],
        "no trials",
    )
    totals, limit = made.totals, made.spec.limit
    hours = "hours not calibrated" if totals.hours is None else f"{totals.hours:.3g} hours"
    say(
        f"{totals.num_trials} trials: {totals.flops:.3g} FLOPs, {hours}, {totals.disk_gib:.3g} GiB "
        "of checkpoints"
    )
    most = [
        f"{value:.3g} {name}"
        for name, value in (
            ("FLOPs", limit.flops),
            ("hours", limit.hours),
            ("GiB", limit.disk_gib),
        )
        if value
    ]
    say(f"limit: {', '.join(most) or 'none'}")


@study_app.command()
def fit(
    csv: Annotated[
        Path, typer.Option("--csv", metavar="FILE", help="Table of runs, one row each.")
    ],
    form: Annotated[
        list[str] | None,
        typer.Option("--form", help="Form of the law; several are compared. [default: chinchilla]"),
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
    as_json: Json = False,
) -> None:
    """Fit a scaling law to a table of runs, say how sure it is, and whether it may be asked beyond
    them. The table has loss, params, tokens, and what else the form reads."""
    from .laws.law import fit as fit_law

    frame = _read(csv, column or [])
    names = form or ["chinchilla"]
    with console_for(sys.stderr).status("fitting"):
        laws = [fit_law(frame, name, num_bootstraps=num_bootstraps, seed=seed) for name in names]
        laws.sort(key=_held_out_error)
        told = [_told(law, flops) for law in laws]
    if as_json:
        say_json(told if form and len(form) > 1 else told[0])
        return
    for law, values in zip(laws, told, strict=True):
        _say(law, values)


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


def _told(law: "Law", flops: float | None) -> dict[str, Any]:
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


def _say(law: "Law", told: dict[str, Any]) -> None:
    say(f"{told['form']}: {told['formula']}  ({told['source']})")
    say_rows(
        [
            {
                "parameter": name,
                "value": f"{value:.5g}",
                "95% from": f"{told['intervals'][name][0]:.5g}",
                "to": f"{told['intervals'][name][1]:.5g}",
            }
            for name, value in law.params.items()
        ],
        "",
    )
    seeds = "" if law.seed_noise is None else f", {law.seed_noise:.2%} between seeds"
    say(f"{told['num_runs']} runs lie {law.noise:.2%} around it{seeds}")
    if law.held_out is not None:
        say(
            f"{len(law.held_out.rows)} of the largest runs, foretold by a law of the others: "
            f"{law.held_out.mean_error:.2%} off"
        )
    if law.diagnostics.outliers:
        say(f"outliers, which count little: rows {', '.join(map(str, law.diagnostics.outliers))}")
    if told["optimum"] is not None:
        best = told["optimum"]
        (n_low, n_high), (d_low, d_high) = best["params_interval"], best["tokens_interval"]
        (l_low, l_high), (f_low, f_high) = best["loss_interval"], best["flat_params"]
        say(f"at {best['flops']:.3g} FLOPs the best size is")
        say(f"  {best['params']:.3g} parameters (95%: {n_low:.3g} to {n_high:.3g})")
        say(f"  {best['tokens']:.3g} tokens (95%: {d_low:.3g} to {d_high:.3g})")
        say(f"  loss {best['loss']:.4f} (95%: {l_low:.4f} to {l_high:.4f})")
        say(f"  as good, within 0.25%: {f_low:.3g} to {f_high:.3g} parameters")
    if law.verdict.can_extrapolate:
        say("it may be asked beyond its runs")
    else:
        say("DO NOT EXTRAPOLATE: " + "; ".join(law.verdict.reasons))
