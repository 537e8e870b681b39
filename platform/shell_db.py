"""The commands about the store as a whole: `moescope db ...`."""

from pathlib import Path
from typing import Annotated

import typer

from .errors import MoescopeError, did_you_mean
from .shell import Home, Json, StoreUrl, asked_settings, command_group, opened_store
from .terminal import say, say_json

db_app = command_group(
    "Upgrade, check, vacuum, compact, retain, back up or export the store; the dashboard's rights."
)


@db_app.command("upgrade")
def upgrade(home: Home = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Bring the store to this program's version."""
    from .migrate import upgrade_store

    before, after = upgrade_store(asked_settings(home, store).store_url)
    if as_json:
        say_json({"from": before, "to": after})
    else:
        say(f"store is at {after}" if before == after else f"store went from {before} to {after}")


@db_app.command("check")
def check(home: Home = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Read all of the store and say whether it is sound; exit 1 with what to do where it is not."""
    from .store_check import check_store, told

    report = check_store(asked_settings(home, store).store_url)
    if as_json:
        say_json(report)
    else:
        for line in told(report):
            say(line)
    if report.faults:
        raise typer.Exit(1)


@db_app.command("vacuum")
def vacuum(
    is_full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Rewrite the store whole: takes its size in free disk, and writers wait.",
        ),
    ] = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Give the disk of deleted rows back while others go on writing."""
    from .upkeep import vacuum_store

    done = vacuum_store(asked_settings(home, store).store_url, is_full=is_full)
    if as_json:
        say_json(done)
    else:
        before, after = done.bytes_before / 2**20, done.bytes_after / 2**20
        say(f"{done.store}: {before:.1f} MiB before, {after:.1f} MiB now")


@db_app.command("compact")
def compact_all(home: Home = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Pack the samples of closed windows of steps; the service does it by itself."""
    from .compacted.housekeeping import compact_store

    with opened_store(asked_settings(home, store)) as open_store:
        num_windows = compact_store(open_store)
    if as_json:
        say_json({"windows": num_windows})
    else:
        say(f"{num_windows} windows of 1,024 steps packed (`moescope db vacuum` gives disk back)")


@db_app.command("retain")
def retain_some(
    days: Annotated[
        float | None, typer.Option("--days", help="Forget vectors of steps older than this.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option("--runs", help="The newest runs that keep all of them.")
    ] = None,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Forget vectors by rule: with both limits, what is past both. Scalars, roll-ups and all
    steps within 256 of an alert stay for good."""
    import time

    from .compacted.housekeeping import compact_store
    from .compacted.retention import Rule, retain

    rule = Rule(days, runs)
    with opened_store(asked_settings(home, store)) as open_store:
        compact_store(open_store)
        done = retain(open_store, rule, time.time())
        open_store.database.give_back_disk()
    if as_json:
        say_json(done)
    else:
        say(f"{done.num_chunks} chunks of vectors forgotten, {done.num_bytes / 2**20:.1f} MiB")


@db_app.command("backup")
def backup(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")],
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Write a copy of the store while it is in use."""
    from .backup import backup_store

    backup_store(asked_settings(home, store).store_url, to)
    say(f"store copied to {to}")


@db_app.command("export")
def export_all(
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make.")],
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="parquet, csv or jsonl.")
    ] = "parquet",
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Write the whole store into a folder that other programs read: every run's history, and a
    table each of runs, segments, events, alerts, checkpoints, commands and studies."""
    from .history.export_files import FORMATS
    from .history.whole_store import export_store

    if format not in FORMATS:
        raise MoescopeError(
            f"--format is {format}: expected parquet, csv or jsonl{did_you_mean(format, FORMATS)}"
        )
    with opened_store(asked_settings(home, store)) as open_store:
        done = export_store(open_store, to, format)
    if as_json:
        say_json(done)
    else:
        kept = f", {done.num_kept} of them from before" if done.num_kept else ""
        say(
            f"{done.folder}: {done.num_runs} runs{kept}, {done.num_points:,} points, "
            f"{done.num_rows:,} rows of {done.num_tables} tables"
        )


@db_app.command("grant-dashboard")
def grant_rights(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Role of the dashboard's process.")],
    is_shown: Annotated[
        bool, typer.Option("--print", help="Print the statements, and execute none.")
    ] = False,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Give a role of PostgreSQL what the dashboard needs and no more: to read all, and to write
    commands, states of alerts and studies, rules and notes. The store's user must own the tables.
    `moescope up` does it by itself for the role that MOESCOPE_DASHBOARD_STORE names."""
    from .dashboard_role import grant_dashboard, grants_in_words

    url = asked_settings(home, store).store_url
    statements = grants_in_words(url, role) if is_shown else grant_dashboard(url, role)
    if as_json:
        say_json({"role": role, "is_granted": not is_shown, "statements": statements})
    elif is_shown:
        for statement in statements:
            say(f"{statement};")
    else:
        say(f"role {role} may read the store, and write what the dashboard asks for")
