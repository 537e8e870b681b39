"""The `moescope` command. Each command loads what it needs when it is called: `--help` is quick.

A mistake of the user is one line on stderr and exit code 2; a command that did not reach its aim
exits with 1.
"""

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .kernels.host_memory import use_huge_pages
from .monitors.scores.shell import score_detectors
from .monitors.shell import rules_app
from .platform.errors import MoescopeError
from .platform.history.shell_export import export
from .platform.history.shell_import import import_app
from .platform.shell import (
    Home,
    Json,
    StoreUrl,
    alerts_app,
    asked_settings,
    opened_store,
    rollback,
    runs_app,
)
from .platform.shell_db import db_app
from .platform.terminal import one_line, say, say_json, say_rows
from .platform.threads import wait_patiently
from .studies.shell import study_app
from .trainer.evaluation.shell import evaluate
from .trainer.faults.shell import make_faults
from .trainer.incident_shell import incident
from .trainer.shell import data_app, params, sample, upcycle

EXIT_CODES = {"finished": 0, "stopped": 130, "halted": 3}
"""What `train` exits with: done, stopped by a person, halted by the policy; 1 is a crash."""


class OneLineErrors(TyperGroup):
    """A group of commands whose faults are told on one line, usage errors included."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except MoescopeError as error:
            _fail(one_line(error), 2)
        except typer.TyperException as error:
            _fail(f"{one_line(error.format_message())} (see moescope --help)", error.exit_code)
        except typer.Abort:
            _fail("given up", 1)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str, code: int) -> None:
    typer.echo(f"moescope: {line}", err=True)
    sys.exit(code)


app = typer.Typer(
    cls=OneLineErrors,
    help="Trains Mixture-of-Experts video diffusion models, watches them, brings them back.",
    rich_markup_mode=None,
    # a pretty traceback prints local variables, and those may hold a database password
    pretty_exceptions_enable=False,
)
for group, name in (
    (runs_app, "runs"),
    (alerts_app, "alerts"),
    (rules_app, "rules"),
    (data_app, "data"),
    (study_app, "study"),
    (db_app, "db"),
    (import_app, "import"),
):
    app.add_typer(group, name=name)


@app.callback(invoke_without_command=True)
def door(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from . import __version__

        say(f"moescope {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())


@app.command()
def demo(
    headless: Annotated[
        bool,
        typer.Option("--headless", help="Stop at the end; exit 0 only if every stage happened."),
    ] = False,
    home: Home = None,
) -> None:
    """Train on made clips, meet poisoned ones, alert, roll back and recover, in a browser too."""
    wait_patiently()
    from .trainer.demo import run_demo

    raise typer.Exit(run_demo(asked_settings(home), headless))


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe, such as tiny.")
    ] = "",
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of clips; the same as data.folder.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Optimizer steps; the same as steps.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="on, advisory or off; the same as policy.mode."),
    ] = None,
    project: Annotated[str | None, typer.Option("--project", help="Groups runs.")] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the run; made up if left out.")] = "",
    resume: Annotated[
        str, typer.Option("--resume", metavar="RUN", help="Go on with a run that has ended.")
    ] = "",
    init_from: Annotated[
        str,
        typer.Option(
            "--init-from",
            metavar="RUN",
            help="Start with another run's weights, and without RECIPE with its configuration.",
        ),
    ] = "",
    branch_from: Annotated[
        str,
        typer.Option(
            "--branch-from",
            metavar="RUN",
            help="Go on from another run's state as a new run, with other keys: another decay.",
        ),
    ] = "",
    branch_at: Annotated[
        int | None,
        typer.Option(
            "--at", metavar="STEP", help="Checkpoint that --branch-from takes; else the newest."
        ),
    ] = None,
    is_supervised: Annotated[
        bool,
        typer.Option("--supervise", help="Restart a crashed trainer, a bounded number of times."),
    ] = False,
    run_id: Annotated[str, typer.Option("--run-id", hidden=True)] = "",
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Train a recipe on a folder of clips, or go on with a run."""
    from .trainer.asked import asked_changes, new_config, resumed_config

    settings = asked_settings(home, store)
    folder = None if data is None else str(data)
    changes = asked_changes(
        assignments or (),
        {"data.folder": folder, "steps": steps, "policy.mode": mode, "project": project},
    )
    if resume and (name or init_from or branch_from):
        given = "--name" if name else "--init-from" if init_from else "--branch-from"
        raise MoescopeError(f"{given} does not go with --resume, which goes on with a run as it is")
    if branch_from and (recipe or init_from):
        given = "a recipe" if recipe else "--init-from"
        raise MoescopeError(
            f"{given} does not go with --branch-from, which takes all of the run: change keys with "
            "--set"
        )
    if branch_at is not None and not branch_from:
        raise MoescopeError("--at names a checkpoint of --branch-from, which was not given")
    if resume:
        with opened_store(settings) as open_store:
            run = open_store.find_run(resume)
        if recipe and recipe.replace("-", "_") != run.config.get("recipe"):
            raise MoescopeError(
                f"run {run.name} was made by recipe {run.config.get('recipe')}, not {recipe}: "
                "leave the recipe out, and change keys with --set"
            )
        config = resumed_config(run.config, changes, run.name)
    elif recipe:
        config = new_config(recipe, changes)
    elif init_from or branch_from:
        with opened_store(settings) as open_store:
            run = open_store.find_run(init_from or branch_from)
        config = resumed_config(run.config, changes, run.name)
    else:
        raise MoescopeError("no recipe given: name one, as in `moescope train tiny --data FOLDER`")
    if is_supervised:
        raise typer.Exit(_supervised(run.id if resume else "", home, store))
    wait_patiently()
    use_huge_pages()
    from .trainer.run import train as train_run

    result = train_run(
        config,
        settings=settings,
        name=name,
        run_id=run_id,
        resume=resume,
        init_from=init_from,
        branch_from=branch_from,
        branch_at=branch_at,
        progress=not as_json,
    )
    if as_json:
        say_json(result)
    raise typer.Exit(EXIT_CODES.get(result.status, 1))


def _supervised(resumed_id: str, home: Path | None, store: str | None) -> int:
    """Runs this command without --supervise as a process; resumes its run when it crashes."""
    from .platform.claims import new_run_id
    from .trainer.supervise import supervise

    trainer = [sys.executable, "-m", "moescope.trainer"]
    words = [word for word in sys.argv[2:] if word != "--supervise"]
    place = ["--home", str(home)] if home else []
    place += ["--store", store] if store else []
    run_id = resumed_id or new_run_id()
    start = [*trainer, *words, *([] if resumed_id else ["--run-id", run_id])]
    return supervise(start, [*trainer, "--resume", run_id, *place])


@app.command()
def up(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1 by default.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port of the dashboard; 0: any.")
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option("--mlflow-port", min=0, max=65535, help="Port of MLflow; 0: any.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            min=0,
            max=65535,
            help="Port that Prometheus may scrape, with the token; 0: any. Else there is none.",
        ),
    ] = None,
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Serve the dashboard and MLflow, watch for silent runs, deliver alerts, and see to schedules
    and studies, until Ctrl-C."""
    from .platform.service import ServiceAddresses, serve
    from .studies.service_ticks import StudyTicks

    settings = asked_settings(home, store)
    if host is not None:
        settings = settings.model_copy(update={"host": host})

    def ready(addresses: ServiceAddresses) -> None:
        say(f"dashboard {addresses.dashboard_url}\nviewers   {addresses.viewer_url}")
        kept_here = " (this machine only: it asks nobody who they are; see MOESCOPE_MLFLOW_AUTH)"
        say(f"mlflow    {addresses.mlflow_url}{kept_here if addresses.is_mlflow_kept_here else ''}")
        if addresses.metrics_url:
            say(f"metrics   {addresses.metrics_url} (bearer token: the viewers' or the operators')")

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve(
        settings,
        settings.store_url,
        port=settings.dashboard_port if port is None else port,
        mlflow_port=settings.mlflow_port if mlflow_port is None else mlflow_port,
        metrics_port=settings.metrics_port if metrics_port is None else metrics_port,
        ready=ready,
        stop=stop,
        leader_ticks=lambda open_store, holder: StudyTicks(settings, open_store, holder),
    )


for command in (
    rollback,
    export,
    incident,
    params,
    upcycle,
    sample,
    evaluate,
    score_detectors,
    make_faults,
):
    app.command()(command)


@app.command()
def doctor(home: Home = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Say what is here and what is missing; each line says what to do."""
    from .platform.doctor import examine

    findings = examine(asked_settings(home, store))
    if as_json:
        say_json(findings)
    else:
        say_rows([vars(finding) for finding in findings], "nothing to examine")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
