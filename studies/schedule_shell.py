"""`moescope study schedule`, `schedules`, `unschedule`: studies on a clock."""

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ..platform.errors import MoescopeError
from ..platform.shell import Home, Json, StoreUrl, asked_settings, opened_store
from ..platform.terminal import say, say_json, say_rows
from .options import DataFolder, LauncherName, Slots, StudyFile, asked_spec, kept_rate

if TYPE_CHECKING:
    from ..platform.records import Schedule, ScheduleKind

ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="A schedule's name.")]


def schedule(
    study: StudyFile,
    cron: Annotated[str, typer.Option("--cron", help='Five fields, as "0 22 * * mon-fri".')] = "",
    every: Annotated[str, typer.Option("--every", help="90s, 30m, 6h or 2d.")] = "",
    at: Annotated[str, typer.Option("--at", help="Once, as 2026-12-24T18:00.")] = "",
    zone: Annotated[
        str,
        typer.Option("--zone", help="Time zone, as Europe/Berlin; this machine's if left out."),
    ] = "",
    name: Annotated[
        str, typer.Option("--name", help="The schedule's; the study's if left out.")
    ] = "",
    data: DataFolder = None,
    slots: Slots = None,
    launcher: LauncherName = None,
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Ask for a study's trials by the clock; a service, `moescope up`, sees to them. What is done
    stays done, what had failed is tried anew, new data gives new trials. Moments that were missed
    are made up once."""
    from tzlocal import get_localzone_name

    from . import schedules
    from .plan import plan

    given: list[tuple[ScheduleKind, str]] = [
        (kind, when) for kind, when in _kinds(cron, every, at) if when
    ]
    if len(given) != 1:
        raise MoescopeError("give one of --cron, --every and --at")
    spec = asked_spec(study, data, {"slots": slots, "launcher": launcher})
    zone = zone or get_localzone_name()
    kind, when = given[0]
    now_s = time.time()
    with opened_store(asked_settings(home, store)) as open_store:
        # a plan that would be refused is refused now, and a calibration is made now
        made = plan(spec, kept_rate(open_store, spec) if spec.needs_hours else {})
        made.refuse_over_limit()
        if not spec.data:
            raise MoescopeError(
                f"study {spec.name} has no data: give a folder of clips with --data"
            )
        kept = schedules.made(
            name or spec.name, spec.model_dump(mode="json"), kind, when, zone, now_s
        )
        schedules.keep(open_store, kept)
    next_s = schedules.next_due(kept, now_s)
    say(f"schedule {kept.name}: {len(made.trials)} trials, first {_shown(next_s, zone)}")


def schedules(home: Home = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """List schedules: when each comes due next, and what came of the last time."""
    from ..platform.firings import schedules as all_schedules
    from . import schedules as kept

    now_s = time.time()
    rows = []
    with opened_store(asked_settings(home, store)) as open_store:
        for one in all_schedules(open_store):
            fired = kept.firings(open_store, one.name, most=1)
            rows.append(
                {
                    "schedule": one.name,
                    "study": one.spec["name"],
                    "when": f"{one.kind} {one.when}",
                    "next": "paused" if one.is_paused else _next(one, now_s),
                    "fired": kept.num_firings(open_store, one.name),
                    "last": _shown(fired[0].due_s, one.zone) if fired else "",
                    "outcome": fired[0].outcome if fired else "",
                }
            )
    if as_json:
        say_json(rows)
    else:
        say_rows(rows, "no schedules yet: `moescope study schedule STUDY` makes one")


def unschedule(
    name: ScheduleName,
    pause: Annotated[bool, typer.Option("--pause", help="Keep it, but let it rest.")] = False,
    go_on: Annotated[bool, typer.Option("--resume", help="Let one that rests go on.")] = False,
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Take a schedule away, or let it rest; its study's trials stay."""
    from . import schedules as kept

    if pause and go_on:
        raise MoescopeError("--pause and --resume contradict each other: give one of them")
    with opened_store(asked_settings(home, store)) as open_store:
        if pause or go_on:
            kept.set_paused(open_store, name, is_paused=pause)
        else:
            kept.remove(open_store, name)
    say(f"schedule {name} {'rests' if pause else 'goes on' if go_on else 'is gone'}")


def _kinds(cron: str, every: str, at: str) -> "list[tuple[ScheduleKind, str]]":
    return [("cron", cron), ("interval", every), ("once", at)]


def _next(schedule: "Schedule", now_s: float) -> str:
    from .schedules import next_due

    due_s = next_due(schedule, now_s)
    return "" if due_s is None else _shown(due_s, schedule.zone)


def _shown(time_s: Any, zone: str) -> str:
    moment = datetime.fromtimestamp(float(time_s), ZoneInfo(zone))
    return f"{moment:%Y-%m-%d %H:%M:%S} {zone}"
