"""The commands about what the store holds: runs, alerts, rollback; and the shared options."""

import getpass
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .alert_kinds import is_explained_away
from .errors import MoescopeError
from .records import FOREVER_S
from .terminal import ago, one_line, say, say_json, say_rows

if TYPE_CHECKING:
    from .records import AlertState, Command, Run
    from .settings import Settings
    from .store import Store

MOST_SILENCE_S = 366 * 86400.0
SILENT_AFTER_S = 30.0
"""A running run whose heartbeat is older than this is shown as silent."""


Home = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of the store and the runs, instead of MOESCOPE_HOME."),
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", help="Address of the store, instead of MOESCOPE_STORE."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of a table.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Name, id, or beginning of the id of a run.")
]


def command_group(help: str) -> typer.Typer:
    return typer.Typer(help=help, rich_markup_mode=None, no_args_is_help=False)


runs_app = command_group("List the runs; note, tag, archive or delete one.")
alerts_app = command_group("List the alerts; acknowledge, silence or resolve one.")


WithArchived = Annotated[bool, typer.Option("--all", help="Archived runs too.")]


@runs_app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    with_archived: WithArchived = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """List the runs, newest first; sub-commands change one."""
    if context.invoked_subcommand is None:
        list_runs(with_archived, home, store, as_json)
    else:
        refuse_early_options(context)


@runs_app.command("list")
def list_runs(
    with_archived: WithArchived = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """List the runs, newest first."""
    with opened_store(asked_settings(home, store)) as open_store:
        found = open_store.runs(include_archived=with_archived)
    if as_json:
        say_json(found)
        return
    now_s = time.time()
    say_rows(
        [_run_row(run, now_s) for run in found], "no runs yet: moescope train tiny --data FOLDER"
    )


@runs_app.command("note")
def note_run(
    run: RunName,
    text: Annotated[str, typer.Argument(help="The note; an empty one takes it away.")],
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Write a note on a run."""
    with opened_store(asked_settings(home, store)) as open_store:
        found = open_store.find_run(run)
        open_store.update_run(found.id, note=text)
    say(f"{found.name}: noted")


@runs_app.command("tag")
def tag_run(
    run: RunName,
    tags: Annotated[list[str], typer.Argument(help="Tags to add, or to take away.")],
    is_removal: Annotated[bool, typer.Option("--remove", help="Take the tags away.")] = False,
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Add tags to a run, or take them away."""
    with opened_store(asked_settings(home, store)) as open_store:
        found = open_store.find_run(run)
        kept = tuple(tag for tag in found.tags if tag not in tags)
        new_tags = kept if is_removal else (*kept, *dict.fromkeys(tags))
        open_store.update_run(found.id, tags=new_tags)
    say(f"{found.name}: {' '.join(new_tags) or 'no tags'}")


@runs_app.command("archive")
def archive_run(
    run: RunName,
    is_undone: Annotated[bool, typer.Option("--undo", help="Bring it back.")] = False,
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Take a run out of the lists; nothing is lost."""
    with opened_store(asked_settings(home, store)) as open_store:
        found = open_store.find_run(run)
        open_store.update_run(found.id, is_archived=not is_undone)
    say(f"{found.name}: {'back in the lists' if is_undone else 'archived'}")


@runs_app.command("delete")
def delete_run(
    run: RunName,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Delete a run with its samples, alerts, checkpoints and files."""
    settings = asked_settings(home, store)
    with opened_store(settings) as open_store:
        found = open_store.find_run(run)
        # elsewhere a name means its newest run, but what is deleted cannot be had again
        namesakes = [known.id for known in open_store.runs(True) if known.name == run]
        if found.id != run and len(namesakes) > 1:
            raise MoescopeError(
                f"{len(namesakes)} runs are named {run} ({', '.join(namesakes)}): give an id"
            )
        if _is_alive(found, time.time()):
            raise MoescopeError(f"run {found.name} is running: stop it first, then delete it")
        if not is_sure:
            if not sys.stdin.isatty():
                raise MoescopeError(f"nobody can be asked here: add --yes to delete {found.name}")
            typer.confirm(f"Delete {found.name} ({found.id}) and all its files?", abort=True)
        open_store.delete_run(found.id)
    folder = Path(found.folder) if found.folder else settings.home_path / "runs" / found.id
    # a run of another machine names a folder that is none of ours
    if folder.is_dir() and folder.is_relative_to(settings.home_path / "runs"):
        shutil.rmtree(folder)
    say(f"{found.name}: deleted")


OfRun = Annotated[str, typer.Option("--run", metavar="RUN", help="Only this run's.")]
WithClosed = Annotated[
    bool, typer.Option("--all", help="Acknowledged, silenced and resolved ones too.")
]


@alerts_app.callback(invoke_without_command=True)
def alerts(
    context: typer.Context,
    run: OfRun = "",
    with_closed: WithClosed = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """List the open alerts; sub-commands change one."""
    if context.invoked_subcommand is None:
        list_alerts(run, with_closed, home, store, as_json)
    else:
        refuse_early_options(context)


@alerts_app.command("list")
def list_alerts(
    run: OfRun = "",
    with_closed: WithClosed = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """List the open alerts."""
    from .silences import silences

    with opened_store(asked_settings(home, store)) as open_store:
        run_id = open_store.find_run(run).id if run else None
        now_s = time.time()
        open_store.end_silences(now_s)
        silent = [s for s in silences(open_store, now_s) if run_id in (None, s.run_id)]
        found = open_store.alerts(run_id, None if with_closed else ["open"])
        failures = open_store.delivery_failures(run_id)
        names = {known.id: known.name for known in open_store.runs(include_archived=True)}
    if as_json:
        say_json(found)
        return
    rows = [
        {
            "alert": alert.id,
            "run": names.get(alert.run_id, alert.run_id),
            "severity": alert.severity,
            "rule": alert.rule,
            "state": "new baseline" if is_explained_away(alert) else alert.state,
            "onset": alert.onset_step,
            "alarm": alert.fired_step,
            "what": alert.message,
        }
        for alert in found
    ]
    say_rows(rows, "no alerts" if with_closed else "no open alerts")
    for silence in silent:
        run_name = names.get(silence.run_id, silence.run_id)
        say(f"{silence.rule} of {run_name} is silenced {_until(silence.until_s, now_s)}")
    for alert in found:
        if alert.id in failures:
            say(f"nobody was told of {alert.id}: {one_line(failures[alert.id])}")


AlertId = Annotated[str, typer.Argument(metavar="ALERT", help="Id of the alert.")]


@alerts_app.command("ack")
def acknowledge_alert(
    alert: AlertId,
    state: Annotated[
        str,
        typer.Option("--as", metavar="STATE", help="acknowledged, resolved, or open again."),
    ] = "acknowledged",
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Acknowledge an alert: somebody looks after it."""
    if state not in ("acknowledged", "resolved", "open"):
        raise MoescopeError(
            f"--as is {state}: expected acknowledged, resolved or open "
            "(`moescope alerts silence` silences for a while)"
        )
    with opened_store(asked_settings(home, store)) as open_store:
        found = open_store.alert(alert)
        wanted, now_s = cast("AlertState", state), time.time()
        if not open_store.set_alert_state(found.id, wanted, whoever(), now_s):
            raise MoescopeError(f"{found.id} is resolved already (--as open opens it again)")
    say(f"{found.id}: {state}")


@alerts_app.command("silence")
def silence_alert(
    alert: AlertId,
    span: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", help="How long, as 30m, 2h or 1d, or ever; else 1 hour."
        ),
    ] = None,
    is_ended: Annotated[
        bool,
        typer.Option("--end", help="End the silence of its rule and run, also where it healed."),
    ] = False,
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Send nothing of an alert and of further ones of its rule and run, for a while or until you
    end it; what still holds then calls again."""
    from .silences import end_silence, silences

    if is_ended and span is not None:
        raise MoescopeError(f"--end ends a silence now, --for {span} begins one: give one of them")
    span_s = None if span == "ever" else _seconds("1h" if span is None else span)
    now_s = time.time()
    with opened_store(asked_settings(home, store)) as open_store:
        found = open_store.alert(alert)
        if is_ended:
            was_silenced = end_silence(open_store, found.run_id, found.rule, whoever(), now_s)
            say(f"{found.rule}: {'not silenced any more' if was_silenced else 'was not silenced'}")
            return
        until_s = FOREVER_S if span_s is None else now_s + span_s
        if not open_store.set_alert_state(found.id, "silenced", whoever(), now_s, until_s):
            raise MoescopeError(f"{found.id} is resolved: there is nothing to silence")
        # another alert of its rule may be silenced for longer, and that holds for this one too
        of_kind = [s for s in silences(open_store, now_s) if s.run_id == found.run_id]
        until_s = next((s.until_s for s in of_kind if s.rule == found.rule), until_s)
    say(f"{found.id}: silenced {_until(until_s, now_s)}")


@alerts_app.command("test-channel")
def try_channel(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(metavar="ADDRESS", help="apprise addresses; else MOESCOPE_NOTIFY."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Send a message to each address that alerts go to, and say what came of it."""
    from .delivery import Deliverer

    settings = asked_settings(home)
    deliverer = Deliverer(addresses or settings.notify.split())
    if not deliverer:
        raise MoescopeError("no address to try: give one, or set MOESCOPE_NOTIFY")
    tried = deliverer.send_text("moescope: a test", "Alerts of your runs arrive here.")
    if as_json:
        say_json(tried)
    else:
        for one in tried:
            say(f"{one.channel}: {one.failure or 'sent'}")
    if any(one.failure for one in tried):
        raise typer.Exit(1)


def _until(until_s: float, now_s: float) -> str:
    return "until somebody ends it" if until_s >= FOREVER_S else f"for {ago(now_s, until_s)}"


def _seconds(span: str) -> float:
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number, unit = span[:-1], span[-1:]
    # a raised 2 is a digit too, but no number
    is_number = number.isascii() and number.replace(".", "", 1).isdigit()
    if unit not in units or not is_number or not float(number):
        raise MoescopeError(
            f"--for is {span}: expected a number and s, m, h or d, as 30m or 2h, or ever"
        )
    return min(float(number) * units[unit], MOST_SILENCE_S)


def rollback(
    run: RunName,
    to_step: Annotated[
        int | None,
        typer.Option(
            "--to", metavar="STEP", min=0, help="Step to go back to; else the newest good one."
        ),
    ] = None,
    is_waiting: Annotated[bool, typer.Option("--wait", help="Wait for the run's answer.")] = False,
    wait_s: Annotated[
        float, typer.Option("--wait-s", min=0, help="How long to wait at most.")
    ] = 120.0,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Ask a running run to go back to a checkpoint; it answers at its next step."""
    from .claims import how_to_go_on
    from .commands import ask

    now_s = time.time()
    with opened_store(asked_settings(home, store)) as open_store:
        found = open_store.find_run(run)
        if found.status != "running":
            raise MoescopeError(
                f"run {found.name} is {found.status}, and only a running one takes commands; "
                f"{how_to_go_on(found)}"
            )
        args = {} if to_step is None else {"to_step": to_step}
        command = ask(open_store, found.id, "rollback", args, whoever(), now_s)
        if not _is_alive(found, now_s):
            silence = ago(found.heartbeat_s, now_s)
            typer.echo(f"{found.name} has given no sign of life for {silence}", err=True)
        if is_waiting:
            command = _answered(open_store, command, now_s + wait_s)
    if as_json:
        say_json(command)
    else:
        answer = f": {command.answer}" if command.answer else ""
        say(f"{found.name}: rollback {command.state}{answer}")
    if is_waiting and command.state != "done":
        raise typer.Exit(1)


def refuse_early_options(context: typer.Context) -> None:
    # `runs --home X note R text` would note in another store than the one that was meant
    if any(value for value in context.params.values()):
        name = context.invoked_subcommand
        raise MoescopeError(f"options of `{name}` go behind it: {context.info_name} {name} ... ")


def whoever() -> str:
    """The name of whoever asks; `somebody` in a container whose user has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def asked_settings(home: Path | None, store: str | None = None) -> "Settings":
    """Reads the settings, command line first. Raises MoescopeError naming a wrong variable."""
    from pydantic import ValidationError

    from .settings import Settings, with_home

    try:
        settings = with_home(Settings(), home)
    except ValidationError as error:
        first = error.errors()[0]
        variable = "MOESCOPE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise MoescopeError(f"{variable} is {first['input']!r}: {first['msg']}") from None
    return settings.model_copy(update={"store": store}) if store else settings


@contextmanager
def opened_store(settings: "Settings") -> Iterator["Store"]:
    """Opens the store for the length of a `with` block."""
    from .store import open_store

    if not settings.store:
        settings.make_home()
    store = open_store(settings.store_url)
    try:
        yield store
    finally:
        store.close()


def _is_alive(run: "Run", now_s: float) -> bool:
    return run.status == "running" and now_s - run.heartbeat_s < SILENT_AFTER_S


def _run_row(run: "Run", now_s: float) -> dict[str, Any]:
    from .records import DamagedConfig

    is_silent = run.status == "running" and not _is_alive(run, now_s)
    is_damaged = isinstance(run.config, DamagedConfig)
    return {
        "run": run.name,
        "id": run.id,
        "status": f"silent for {ago(run.heartbeat_s, now_s)}" if is_silent else run.status,
        "mode": run.mode,
        "recipe": "damaged" if is_damaged else run.config.get("recipe", ""),
        "age": ago(run.created_s, now_s),
        "project": run.project,
        "tags": " ".join(run.tags),
        "note": run.note,
    }


def _answered(store: "Store", command: "Command", until_s: float) -> "Command":
    """Reads the command until the run has done or refused it, or time is up."""
    from .commands import commands

    while command.state not in ("done", "refused") and time.time() < until_s:
        time.sleep(0.2)
        command = next(c for c in commands(store, command.run_id) if c.id == command.id)
    return command
