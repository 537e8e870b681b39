"""Schedules: when a study is asked for its trials. They lie in the store; the clock only ticks.

A tick asks which schedules have come due and sees to each in one transaction: that it fired, with
the moment it was due as a part of the row's key, and the trials. So two services that tick at once
do it once, and one that dies in the middle has not done it. However many moments were missed, the
last of them is made up, once.
"""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import Connection, delete, func, select, update

from ..platform import tables, trials
from ..platform.errors import MoescopeError, did_you_mean
from ..platform.firings import schedules
from ..platform.frozen import parsed
from ..platform.records import Firing, Schedule, ScheduleKind
from ..platform.store import Store
from ..platform.upserts import columns_of, insert_into
from ..platform.upserts import replace as upsert
from .calibration import calibrated
from .plan import Plan, plan
from .points import shapes
from .run import rows_of, study_of
from .spec import StudySpec

MOST_S = 3660 * 86400
"""Ten years."""
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
HORIZONS_S = (3600.0, 86400.0, 32 * 86400.0, 400 * 86400.0)
"""How far back the last moment that came due is looked for, the nearest first: a schedule of every
minute that slept for a year needs not be counted through."""

_schedule = tables.schedules.c
_firing = tables.firings.c


def keep(store: Store, schedule: Schedule) -> None:
    """Writes a schedule, in place of one of its name; what fired before stays known."""

    def work(connection: Connection) -> None:
        columns = columns_of(schedule)
        connection.execute(
            upsert(connection.dialect.name, tables.schedules, tuple(columns)), columns
        )

    store.database.write(work, is_durable=True)


def num_firings(store: Store, name: str) -> int:
    statement = select(func.count()).where(_firing.schedule == name)
    return int(store.database.read(lambda c: c.scalar(statement)) or 0)


def firings(store: Store, name: str, most: int = 100) -> list[Firing]:
    """What came of a schedule, newest first."""
    statement = select(tables.firings).where(_firing.schedule == name)
    statement = statement.order_by(_firing.due_s.desc()).limit(most)
    rows = store.database.read(lambda c: c.execute(statement).mappings().all())
    return [Firing(**row) for row in rows]


def remove(store: Store, name: str) -> None:
    """Raises MoescopeError, with near names, where there is none."""
    _known(store, name)
    statement = delete(tables.schedules).where(_schedule.name == name)
    store.database.write(lambda c: c.execute(statement), is_durable=True)


def set_paused(store: Store, name: str, *, is_paused: bool) -> None:
    """A paused schedule does not come due; what it misses is not made up."""
    _known(store, name)
    values: dict[str, Any] = {"is_paused": is_paused}
    if not is_paused:
        values["created_s"] = time.time()
    statement = update(tables.schedules).where(
        _schedule.name == name, _schedule.is_paused != is_paused
    )
    statement = statement.values(values)
    store.database.write(lambda c: c.execute(statement), is_durable=True)


def _known(store: Store, name: str) -> None:
    known = [one.name for one in schedules(store)]
    if name not in known:
        hint = did_you_mean(name, known)
        raise MoescopeError(f"unknown schedule {name}{hint} (moescope study schedules lists them)")


def made(
    name: str, spec: Mapping[str, Any], kind: ScheduleKind, when: str, zone: str, now_s: float
) -> Schedule:
    """Returns a schedule that has been checked. Raises MoescopeError where it would never fire."""
    schedule = Schedule(name, spec, kind, when, zone, now_s)
    if next_due(schedule, now_s) is None:
        raise MoescopeError(f"{kind} {when} ({zone}) never comes: give a moment that is to come")
    return schedule


def next_due(schedule: Schedule, after_s: float) -> float | None:
    """Returns the first moment after `after_s` at which it comes due; None where there is none."""
    return _next(_trigger(schedule), after_s)


def last_due(schedule: Schedule, since_s: float, now_s: float) -> float | None:
    """Returns the last moment after `since_s`, and not after `now_s`, at which it came due."""
    trigger = _trigger(schedule)
    for horizon_s in (*HORIZONS_S, now_s):
        begin_s = max(since_s, now_s - horizon_s)
        due_s = _next(trigger, begin_s)
        if due_s is not None and due_s <= now_s:
            while (later_s := _next(trigger, due_s)) is not None and later_s <= now_s:
                due_s = later_s
            return due_s
        if begin_s == since_s:
            return None
    return None


def _next(trigger: BaseTrigger, after_s: float) -> float | None:
    after = datetime.fromtimestamp(after_s, UTC)
    found = trigger.get_next_fire_time(None, after + timedelta(microseconds=1))
    # a trigger of one date tells it also when it is over
    return None if found is None or found.timestamp() <= after_s else float(found.timestamp())


def tick(store: Store, by: str, now_s: float) -> list[Firing]:
    """Sees to the schedules that have come due; returns what came of each that was seen to here.

    by: who ticks, for the record. A study that cannot be planned is an outcome too.
    """
    newest = select(_firing.schedule, func.max(_firing.due_s)).group_by(_firing.schedule)
    fired = dict(store.database.read(lambda c: [tuple(row) for row in c.execute(newest)]))
    done = []
    for schedule in schedules(store):
        if schedule.is_paused:
            continue
        since_s = max(schedule.created_s, fired.get(schedule.name, 0.0))
        due_s = last_due(schedule, since_s, now_s)
        if due_s is not None and (firing := _fire(store, schedule, due_s, by, now_s)) is not None:
            done.append(firing)
    return done


def _fire(store: Store, schedule: Schedule, due_s: float, by: str, now_s: float) -> Firing | None:
    """None where somebody else has seen to it."""
    try:
        wanted: Plan | None = _planned(store, schedule, now_s)
        failure = ""
    except MoescopeError as error:
        wanted, failure = None, str(error)

    def work(connection: Connection) -> Firing | None:
        firing = Firing(schedule.name, due_s, now_s, by, failure)
        statement = insert_into(connection.dialect.name, tables.firings).on_conflict_do_nothing()
        new = connection.scalar(statement.returning(_firing.schedule), columns_of(firing))
        if new is None:
            return None
        outcome = failure if wanted is None else _asked(connection, wanted, now_s)
        mine = (_firing.schedule == schedule.name, _firing.due_s == due_s)
        connection.execute(update(tables.firings).where(*mine).values(outcome=outcome))
        return Firing(schedule.name, due_s, now_s, by, outcome)

    return store.database.write(work, is_durable=True)


def _planned(store: Store, schedule: Schedule, now_s: float) -> Plan:
    spec: StudySpec = parsed(StudySpec, schedule.spec, f"schedule {schedule.name}")
    rate = {}
    if spec.needs_hours:
        shapes_of = (config for _, config in shapes(spec))
        rate = calibrated(store, shapes_of, now_s, may_measure=False)
    found = plan(spec, rate)
    found.refuse_over_limit()
    study_of(found, is_served=True, now_s=now_s)
    return found


def _asked(connection: Connection, wanted: Plan, now_s: float) -> str:
    """Asks for the trials; those that had failed are tried anew."""
    name = wanted.spec.name
    state = select(tables.studies.c.state).where(tables.studies.c.name == name)
    if (found := connection.scalar(state)) not in (None, "running"):
        return f"study {name} is {found}: nothing was asked for"
    study = study_of(wanted, is_served=True, now_s=now_s)
    new, gone = trials.ask_within(connection, study, rows_of(wanted))
    again = trials.retry_within(connection, name)
    return f"{len(wanted.trials)} trials, {new} new, {gone} retired, {again} tried anew"


def _trigger(schedule: Schedule) -> BaseTrigger:
    """Raises MoescopeError on words that are no time, and on an unknown zone."""
    try:
        zone = ZoneInfo(schedule.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise MoescopeError(
            f"unknown time zone {schedule.zone}: name one as Europe/Berlin or UTC"
        ) from None
    try:
        if schedule.kind == "cron":
            return CronTrigger(**_cron_fields(schedule.when), timezone=zone)
        if schedule.kind == "interval":
            begin = datetime.fromtimestamp(schedule.created_s, UTC)
            every_s = seconds_of(schedule.when)
            return IntervalTrigger(
                seconds=every_s, start_date=begin + timedelta(seconds=every_s), timezone=UTC
            )
        at = datetime.fromisoformat(schedule.when)
        return DateTrigger(at if at.tzinfo else at.replace(tzinfo=zone))
    except (ValueError, TypeError, OverflowError) as error:
        raise MoescopeError(f"{schedule.kind} {schedule.when} is no time: {error}") from None


def seconds_of(words: str) -> int:
    """Returns the seconds of 90s, 30m, 6h or 2d. Raises MoescopeError on anything else."""
    found = re.fullmatch(r"(\d+)\s*([smhd])", words.strip())
    seconds = int(found[1]) * UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= MOST_S:
        raise MoescopeError(f"every {words[:40]} is no time: give 90s, 30m, 6h or 2d")
    return seconds


def _cron_fields(line: str) -> dict[str, str]:
    """Returns APScheduler's fields of a crontab line. Raises ValueError.

    It counts the days of a week from Monday where cron does from Sunday, and wants the day of the
    month and of the week to hold both where cron takes either.
    """
    fields = line.split()
    if len(fields) != 5:
        raise ValueError("five fields are needed: minute hour day month weekday")
    minute, hour, day, month, weekday = fields
    if day != "*" and weekday != "*":
        raise ValueError("a day of the month and one of the week together: give one of them")
    return {
        "minute": minute,
        "hour": hour,
        "day": day,
        "month": month,
        "day_of_week": ",".join(_weekdays(part) for part in weekday.split(",")),
    }


def _weekdays(part: str) -> str:
    span, _, step = part.partition("/")
    if span.endswith("-"):
        raise ValueError(f"{part} has no end")
    if span == "*" and not step:
        return "*"
    first, _, last = ("0-6" if span == "*" else span).partition("-")
    begin = _weekday(first)
    end = _weekday(last) if last else (6 if step else begin)
    if end < begin:
        end += 7  # fri-mon
    numbers = range(begin, end + 1, int(step or 1))
    return ",".join(DAYS[number % 7] for number in numbers)


def _weekday(word: str) -> int:
    if word.lower() in DAYS:
        return DAYS.index(word.lower())
    if not word.isdigit() or int(word) > 7:
        raise ValueError(f"{word} is no day of the week: 0-7 or {', '.join(DAYS)}")
    return int(word)
