"""`moescope make-faults`: trainings with a planted fault each, and which alerts named it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...platform.shell import Home, Json, asked_settings
from ...platform.terminal import say, say_json, say_rows

if TYPE_CHECKING:
    from .faults import Fault
    from .make_runs import FaultRun


def make_faults(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FAULT]...", help="Which faults; left out: all."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Runs of each fault, with seeds from 0 on.")
    ] = 1,
    steps: Annotated[
        int, typer.Option(min=160, max=100_000, help="Steps of a run; the fault begins at 150.")
    ] = 360,
    ends_when_named: Annotated[
        bool,
        typer.Option("--end-when-named", help="End a run with the alert that names its fault."),
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train small runs with a planted fault each, and say which alerts named it and how late. Exit
    code 1 where one was not named in time, an alert was false, or a run was stopped, with which all
    ends."""
    from .make_runs import asked_faults, make_fault_run

    asked_faults(names or [])
    settings = asked_settings(home).model_copy(update={"mlflow": "off", "notify": ""})
    rows: list[dict[str, Any]] = []
    # a fault is planted once: each run has its own
    asked = ((seed, fault) for seed in range(seeds) for fault in asked_faults(names or []))
    for seed, fault in asked:
        with TemporaryDirectory() as folder:
            run = make_fault_run(
                fault,
                Path(folder),
                seed,
                settings,
                steps=steps,
                ends_when_named=ends_when_named,
                say=(lambda _: None) if as_json else say,
            )
        rows.append(told(fault, run))
        if run.is_stopped:
            break
    if as_json:
        say_json(rows)
    else:
        shown = ("fault", "seed", "verdict", "delay", "alerts")
        say_rows([{name: _words(row[name]) for name in shown} for row in rows], "no faults")
    if any(row["verdict"] in ("no", "late", "false alarm", "stopped") for row in rows):
        raise typer.Exit(1)


def told(fault: "Fault", run: "FaultRun") -> dict[str, Any]:
    """What is told of a run. verdict: named, late, no; for a fault that need not be seen: quiet,
    or seen; without any: quiet, or false alarm. Of a run that somebody stopped only what was raised
    until then; else: stopped."""
    delay = run.delay(fault.named_by)
    early = any(alert.fired_step < run.onset for alert in run.alerts)
    if fault.named_by:
        verdict = "no" if delay is None else "named" if delay <= fault.within_steps else "late"
    else:
        verdict = "seen" if run.alerts else "quiet"
    if early or (fault.name == "none" and run.alerts):
        verdict = "false alarm"
    if run.is_stopped and verdict in ("no", "quiet"):
        verdict = "stopped"
    return {
        "fault": fault.name,
        "about": fault.about,
        "seed": run.seed,
        "run_id": run.run_id,
        "verdict": verdict,
        "delay": delay,
        "within_steps": fault.within_steps,
        "steps": run.steps,
        "alerts": [
            f"{alert.rule} @ {alert.fired_step - run.onset}" for alert in reversed(run.alerts)
        ],
    }


def _words(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(value) if isinstance(value, list) else str(value)
