"""The commands around studies: `moescope study ...`."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..platform.shell import Home, Json, StoreUrl, asked_settings, opened_store, whoever
from ..platform.terminal import say, say_json, say_rows
from .fit_shell import fit
from .options import DataFolder, LauncherName, Slots, StudyFile, StudyName, asked_spec, kept_rate
from .report_shell import report, say_report
from .schedule_shell import schedule, schedules, unschedule

if TYPE_CHECKING:
    from ..platform.records import StudyState
    from ..platform.store import Store
    from .plan import Plan

TRIAL_STATES = ("waiting", "running", "done", "failed")

study_app = typer.Typer(
    help="Studies: many runs that answer a question, and their laws.", no_args_is_help=True
)


@study_app.command()
def plan(
    study: StudyFile,
    data: DataFolder = None,
    has_calibration: Annotated[
        bool | None,
        typer.Option(
            "--calibration/--no-calibration",
            help="Train the smallest and the largest model for a few steps, to foretell hours; "
            "left out: only where this machine has not done so before.",
        ),
    ] = None,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Say what a study would run and cost; nothing is started, and only the calibration is kept.
    Exit code 2 where that is over its limit."""
    from .plan import plan as planned

    spec = asked_spec(study, data)
    rate: dict[int, float] = {}
    if spec.data and has_calibration is not False:
        with opened_store(asked_settings(home, store)) as open_store:
            rate = kept_rate(open_store, spec, is_anew=has_calibration is True)
    made = planned(spec, rate)
    if as_json:
        say_json(_told_plan(made, rate))
    else:
        _say_plan(made)
    made.refuse_over_limit()


@study_app.command()
def run(
    study: StudyFile,
    data: DataFolder = None,
    slots: Slots = None,
    launcher: LauncherName = None,
    is_served: Annotated[
        bool,
        typer.Option("--serve", help="Leave it to the service, `moescope up`, and return."),
    ] = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Run a study's trials until none is left or Ctrl-C, then write its report. Called again it
    goes on: what is done stays done, a changed study adds trials or retires them. Several may run
    at once."""
    from .plan import plan as planned
    from .run import run_study, start_study

    spec = asked_spec(study, data, {"slots": slots, "launcher": launcher})
    settings = asked_settings(home, store)
    say_line = (lambda line: None) if as_json else say
    log = settings.home_path / "studies" / spec.name / "workers.log" if as_json else None
    with opened_store(settings) as open_store:
        made = planned(spec, kept_rate(open_store, spec) if spec.needs_hours else {})
        made.refuse_over_limit()
        if is_served:
            new, gone = start_study(open_store, made, is_served=True)
            say_line(
                f"study {spec.name}: {len(made.trials)} trials, {new} new, {gone} retired; "
                "`moescope up` sees to them"
            )
        else:
            run_study(open_store, settings, made, say_line, log=log)
        found = trial_rows(open_store, spec.name)
        if not is_served and any(row["state"] == "done" for row in found):
            say_report(open_store, settings, spec.name, say_line)
    if is_served and not as_json:
        return
    _say_trials(found, as_json)
    if not is_served and any(row["state"] != "done" for row in found):
        raise typer.Exit(1)


@study_app.command(hidden=True)
def work(
    study: StudyName,
    number: Annotated[int, typer.Option("--slot")],
    cores: Annotated[str, typer.Option("--cores")] = "",
    gpus: Annotated[str | None, typer.Option("--gpus")] = None,
    are_cores_own: Annotated[bool, typer.Option("--own-cores")] = False,
    memory_gib: Annotated[float, typer.Option("--memory-gib")] = 0.0,
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Work in a slot of this machine: what a launcher starts."""
    from .launchers.process import Place
    from .work import work_in_slot

    place = Place(
        tuple(int(core) for core in cores.split(",") if core),
        None if gpus is None else tuple(name for name in gpus.split(",") if name),
        memory_gib,
    )
    settings = asked_settings(home, store)
    with opened_store(settings) as open_store:
        work_in_slot(open_store, settings, study, number, place, say, are_cores_own=are_cores_own)


@study_app.command()
def status(
    study: Annotated[str, typer.Argument(metavar="NAME", help="A study's name; else all.")] = "",
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Say how a study's trials stand."""
    from ..platform import trials

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
        from ..platform import trials

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
    trial: Annotated[
        str, typer.Option("--trial", help="Label or key of one, done or not; else all failed.")
    ] = "",
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Let failed trials be tried anew, from where they were; what is done stays done."""
    from ..platform import trials

    with opened_store(asked_settings(home, store)) as open_store:
        trials.study(open_store, study)
        number = trials.retry(open_store, study, trial)
    say(f"{number} trials wait again")


@study_app.command()
def skip(
    study: StudyName,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Its label or key.")],
    is_undone: Annotated[bool, typer.Option("--undo", help="Bring it back.")] = False,
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Leave out a trial that waits or has failed, with those that branch off it."""
    from ..platform import skipped_trials, trials

    with opened_store(asked_settings(home, store)) as open_store:
        trials.study(open_store, study)
        find = skipped_trials.skipped if is_undone else trials.trials
        keys = [one.key for one in find(open_store, study) if trial in (one.label, one.key)]
        if is_undone:
            number = sum(skipped_trials.unskip(open_store, study, key) for key in keys)
            say(f"{number} trials are asked for again")
            return
        number = sum(skipped_trials.skip(open_store, study, key, whoever()) for key in keys)
    say(f"{number} trials are left out")


def trial_rows(store: "Store", study: str) -> list[dict[str, Any]]:
    """Returns a study's trials as plain values, in the order of its plan."""
    from ..platform import trials

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


for command in (fit, report, schedule, schedules, unschedule):
    study_app.command()(command)
