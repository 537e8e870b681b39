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

from .platform.errors import MoescopeError
from .platform.shell import (
    Home,
    Json,
    RunName,
    StoreUrl,
    alerts_app,
    asked_settings,
    command_group,
    db_app,
    opened_store,
    rollback,
    runs_app,
)
from .platform.terminal import console_for, one_line, say, say_json, say_rows
from .platform.threads import wait_patiently

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
data_app = command_group("Write clips to try things with, or check a folder of clips.")
for group, name in ((runs_app, "runs"), (alerts_app, "alerts"), (data_app, "data"), (db_app, "db")):
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
    if resume and (name or init_from):
        given = "--name" if name else "--init-from"
        raise MoescopeError(f"{given} does not go with --resume, which goes on with a run as it is")
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
    elif init_from:
        with opened_store(settings) as open_store:
            run = open_store.find_run(init_from)
        config = resumed_config(run.config, changes, run.name)
    else:
        raise MoescopeError("no recipe given: name one, as in `moescope train tiny --data FOLDER`")
    if is_supervised:
        raise typer.Exit(_supervised(run.id if resume else "", home, store))
    wait_patiently()
    from .trainer.run import train as train_run

    result = train_run(
        config,
        settings=settings,
        name=name,
        run_id=run_id,
        resume=resume,
        init_from=init_from,
        progress=not as_json,
    )
    if as_json:
        say_json(result)
    raise typer.Exit(EXIT_CODES.get(result.status, 1))


def _supervised(resumed_id: str, home: Path | None, store: str | None) -> int:
    """Runs this command without --supervise as a process; resumes its run when it crashes."""
    from .trainer.open_run import new_run_id
    from .trainer.supervise import supervise

    trainer = [sys.executable, "-m", "moescope.trainer"]
    words = [word for word in sys.argv[2:] if word != "--supervise"]
    place = ["--home", str(home)] if home else []
    place += ["--store", store] if store else []
    run_id = resumed_id or new_run_id()
    start = [*trainer, *words, *([] if resumed_id else ["--run-id", run_id])]
    return supervise(start, [*trainer, "--resume", run_id, *place])


@app.command()
def params(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe, such as dsmoe-s-e16.")
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how many parameters a recipe has, and how many work on a token."""
    from .trainer.asked import asked_changes
    from .trainer.counts import count_parameters
    from .trainer.recipes import recipe as named

    count = count_parameters(named(recipe, asked_changes(assignments or ())))
    if as_json:
        say_json(count._asdict())
        return
    rows = {"active": count.active, "total": count.total} | count.parts
    say_rows(
        [
            {
                "part": part.replace("_", " "),
                "parameters": f"{number:,}",
                "Mi": f"{number / 2**20:.2f}",
            }
            for part, number in rows.items()
        ],
        "",
    )


@app.command()
def upcycle(
    run: RunName,
    experts: Annotated[
        int, typer.Option("--experts", min=1, help="Routed experts of each MoE block.")
    ],
    chosen: Annotated[
        int, typer.Option("--chosen", min=1, help="Experts that each token is sent to.")
    ] = 2,
    every: Annotated[
        int | None,
        typer.Option("--every", min=1, help="Every how many blocks one is MoE; else as the run."),
    ] = None,
    shared: Annotated[
        int, typer.Option("--shared", min=0, help="Experts that see every token.")
    ] = 1,
    shared_from: Annotated[
        str,
        typer.Option("--shared-from", help="What the shared expert starts from: noise or dense."),
    ] = "noise",
    noise: Annotated[
        float | None,
        typer.Option("--noise", help="Standard deviation of that noise; 1e-4 by default."),
    ] = None,
    drop_share: Annotated[
        float,
        typer.Option("--drop-share", help="Share of each expert's hidden channels to draw anew."),
    ] = 0.0,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change another key; repeatable."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the new run.")] = "",
    is_trial: Annotated[
        bool, typer.Option("--verify", help="Compare with the dense run and write nothing.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="The same as seed; else as the run.")
    ] = None,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Make a run with experts out of one that was trained dense, answering alike at its start."""
    from .trainer.asked import asked_changes
    from .trainer.upcycle_plan import UpcyclePlan

    plan = UpcyclePlan(experts, chosen, shared, every, shared_from, noise, drop_share)
    changes = asked_changes(assignments or (), {"seed": seed})
    from .trainer.upcycle_run import in_words
    from .trainer.upcycle_run import upcycle as upcycle_run

    settings = asked_settings(home, store)
    found = upcycle_run(settings, run, plan, changes, name=name, is_trial=is_trial)
    if as_json:
        say_json(found)
    else:
        verdict = "as the dense run" if found.is_equal else "OTHERWISE than the dense run"
        say(f"{found.origin}, on {found.compared_on}")
        say(f"clones answer {verdict}: {in_words(found.comparison)}")
        say(f"{found.comparison.says}: the flow starts {found.comparison.start:.2g} from the dense")
        say(
            f"{found.total / 1e6:.2f} M parameters, {found.active / 1e6:.2f} M active "
            f"(dense: {found.dense_total / 1e6:.2f} M)"
        )
        if found.run_id:
            say(f"run {found.name} ({found.run_id}) is ready: moescope train --resume {found.name}")
    if not found.is_equal:
        raise typer.Exit(1)


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
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Serve the dashboard and MLflow, watch for silent runs and deliver alerts, until Ctrl-C."""
    from .platform.service import serve

    settings = asked_settings(home, store)
    if host is not None:
        settings = settings.model_copy(update={"host": host})
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve(
        settings,
        settings.store_url,
        port=settings.dashboard_port if port is None else port,
        mlflow_port=settings.mlflow_port if mlflow_port is None else mlflow_port,
        ready=lambda addresses: say(
            f"dashboard {addresses.dashboard_url}\nmlflow    {addresses.mlflow_url}"
        ),
        stop=stop,
    )


app.command()(rollback)


@data_app.command("make-clips")
def make_clips_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.")],
    num_clips: Annotated[int, typer.Option("--num-clips", min=1, help="How many clips.")] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Other seed, other clips.")] = 0,
    is_by_class: Annotated[
        bool, typer.Option("--by-class", help="Into a sub-folder for each shape: its class.")
    ] = False,
    are_pictures: Annotated[
        bool, typer.Option("--pictures", help="One picture of each clip, as png.")
    ] = False,
) -> None:
    """Write encoded clips: moving shapes, a tone tied to their motion, a caption that tells it."""
    from rich.progress import Progress

    from .trainer.data.make_clips import make_clips

    # where nobody watches it draws no bar, but would leave an empty line all the same
    console = console_for(sys.stderr)
    bar = Progress(console=console, transient=True)
    task = bar.add_task("writing clips", total=num_clips)

    def show(done: int, _: int) -> None:
        if console.is_interactive:
            bar.start()
            bar.update(task, completed=done)

    try:
        make_clips(
            folder,
            num_clips,
            seed,
            is_by_class=is_by_class,
            are_pictures=are_pictures,
            progress=show,
        )
    finally:
        if console.is_interactive:
            bar.stop()
    say(f"{num_clips} {'pictures' if are_pictures else 'clips'} in {folder}")


@data_app.command("check")
def check_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of clips.")],
    as_json: Json = False,
) -> None:
    """Say which files of a folder can be trained on, of how many classes, and which cannot."""
    from .trainer.data.clips import find_clips
    from .trainer.data.pictures import is_picture

    index = find_clips(folder)
    num_pictures = sum(is_picture(clip.path) for clip in index.clips)
    if as_json:
        say_json(
            {
                "folder": folder,
                "num_usable": len(index.clips),
                "duration_s": sum(clip.duration_s for clip in index.clips),
                "num_with_sound": sum(clip.has_sound for clip in index.clips),
                "num_with_caption": sum(bool(clip.caption) for clip in index.clips),
                "num_pictures": num_pictures,
                "num_classes": len(index.classes),
                "classes": dict(index.classes),
                "passed_over": [{"name": name, "why": why} for name, why in index.passed_over],
            }
        )
        return
    of_pictures = f"{num_pictures} of them pictures, " if num_pictures else ""
    classes = "class" if len(index.classes) == 1 else "classes"
    say(
        f"{len(index.clips)} usable clips, {of_pictures}"
        f"{sum(clip.duration_s for clip in index.clips):.0f} s, "
        f"{sum(clip.has_sound for clip in index.clips)} with sound, "
        f"{sum(bool(clip.caption) for clip in index.clips)} with a caption, "
        f"{len(index.classes)} {classes}"
    )
    say_rows(
        [{"passed over": name, "why": why} for name, why in index.passed_over],
        "all files are usable",
    )


@app.command()
def sample(
    run: RunName,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", help="What the clip shows; repeatable. Else captions of the data."
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME_OR_NUMBER",
            help="What the clip is of; repeatable. Else a few classes of the data.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Picture or clip whose first frame the clip starts from."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps from noise to clip.")] = 32,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise.")] = 0,
    offload: Annotated[
        bool,
        typer.Option(
            "--offload",
            help="Of experts by noise level, keep only the one at work on the GPU.",
        ),
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder to write into; else the run's samples.")
    ] = None,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Write clips that the run's model generates: mp4, or png where they have one frame."""
    from .trainer.sample_run import sample_run

    paths = sample_run(
        asked_settings(home, store),
        run,
        prompts or [],
        steps,
        seed,
        to,
        classes=classes or [],
        reference=reference,
        offload=offload,
        tell=lambda text: typer.echo(text, err=True),
    )
    if as_json:
        say_json(paths)
        return
    for path in paths:
        say(str(path))


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
