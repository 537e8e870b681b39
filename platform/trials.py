"""The trial table: the truth about what a study has run, is running and has yet to run.

Many workers of many machines may call at once. A trial is claimed by one of them for a while, which
it prolongs by beating; where it dies, the claim runs out and another takes the trial, with the run
that was begun. Whoever has lost its claim is told so and can change nothing more. Times come from
the callers, whose clocks must agree to a fraction of the claim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, not_, or_, select, update

from . import tables
from .errors import MoescopeError, did_you_mean
from .records import Attempt, Study, StudyState, Trial
from .store import Store
from .upserts import columns_of, insert_into
from .upserts import replace as upsert

MOST_FAILURES = 4
FIRST_WAIT_S, MOST_WAIT_S = 5.0, 600.0
"""After a failure, twice as long each time."""

SKIPPED = "skipped_by"
"""Of a trial's result: who does not want it, whatever its study asks for."""
KEPT = ("rungs",)
"""What a trial noted on its way that others are compared with, whatever becomes of it."""
_CHANGING = (
    *("state", "run_id", "num_attempts", "num_failures", "not_before_s", "worker", "until_s"),
    "result",
)

_trial = tables.trials.c
_attempt = tables.attempts.c


def study(store: Store, name: str) -> Study:
    """Raises MoescopeError, with near names, where there is none."""
    known = studies(store)
    for found in known:
        if found.name == name:
            return found
    hint = did_you_mean(name, [one.name for one in known])
    raise MoescopeError(f"unknown study {name}{hint} (moescope study status lists them)")


def studies(store: Store) -> list[Study]:
    """All studies, newest first."""
    statement = select(tables.studies).order_by(tables.studies.c.created_s.desc())
    rows = store.database.read(lambda c: c.execute(statement).mappings().all())
    return [Study(**row) for row in rows]


def set_state(store: Store, name: str, state: StudyState) -> None:
    statement = update(tables.studies).where(tables.studies.c.name == name).values(state=state)
    store.database.write(lambda c: c.execute(statement), is_durable=True)


def ask(store: Store, wanted: Study, trials: Sequence[Trial]) -> tuple[int, int]:
    """Brings a study's trials to what it asks for now; returns how many are new, how many retired.

    What is there stays as it is: what was computed is not computed again. One that is asked for no
    more is retired, with what it found; asked for again, it comes back as it was, unless a person
    has skipped it.
    """
    return store.database.write(lambda c: ask_within(c, wanted, trials), is_durable=True)


def ask_within(connection: Connection, wanted: Study, trials: Sequence[Trial]) -> tuple[int, int]:
    """`ask`, as a part of what a caller writes at once. A study that a service sees to stays so."""
    of_study = _trial.study == wanted.name
    served = select(tables.studies.c.is_served).where(tables.studies.c.name == wanted.name)
    wanted = replace(wanted, is_served=wanted.is_served or bool(connection.scalar(served)))
    statement = upsert(connection.dialect.name, tables.studies, tuple(columns_of(wanted)))
    connection.execute(statement, columns_of(wanted))
    rows = connection.execute(select(_trial.key, _trial.is_wanted, _trial.result).where(of_study))
    found = rows.all()
    old: dict[str, bool] = {row.key: row.is_wanted for row in found}
    skipped_keys = {row.key for row in found if SKIPPED in row.result}
    new = [columns_of(trial) for trial in trials if trial.key not in old]
    if new:
        connection.execute(insert_into(connection.dialect.name, tables.trials), new)
    connection.execute(update(tables.trials).where(of_study).values(is_wanted=False))
    asked = (
        update(tables.trials)
        .where(of_study, _trial.key == bindparam("of_key"))
        .values(is_wanted=True, position=bindparam("place"), label=bindparam("words"))
    )
    places = [
        {"of_key": trial.key, "place": trial.position, "words": trial.label}
        for trial in trials
        if trial.key not in skipped_keys
    ]
    if places:
        connection.execute(asked, places)
    keys = {trial.key for trial in trials}
    gone = sum(is_wanted and key not in keys for key, is_wanted in old.items())
    return len(new), gone


def trials(store: Store, name: str) -> list[Trial]:
    """The trials that a study asks for, in the order of its plan."""
    statement = select(tables.trials).where(_trial.study == name, _trial.is_wanted)
    rows = store.database.read(
        lambda c: c.execute(statement.order_by(_trial.position)).mappings().all()
    )
    return [Trial(**row) for row in rows]


def trial_of_run(store: Store, run_id: str) -> Trial | None:
    """The trial whose newest attempt trains this run; None where the run is none of a study."""
    statement = select(tables.trials).where(_trial.run_id == run_id).limit(1)
    row = store.database.read(lambda c: c.execute(statement).mappings().first())
    return None if row is None else Trial(**row)


def attempts(store: Store, name: str, key: str) -> list[Attempt]:
    statement = select(tables.attempts).where(_attempt.study == name, _attempt.key == key)
    rows = store.database.read(
        lambda c: c.execute(statement.order_by(_attempt.number)).mappings().all()
    )
    return [Attempt(**row) for row in rows]


def last_end(store: Store, name: str) -> float:
    """When an attempt at a trial of the study last ended; 0 where none has."""
    statement = select(func.max(_attempt.ended_s)).where(_attempt.study == name)
    return float(store.database.read(lambda c: c.scalar(statement)) or 0.0)


def claim(
    store: Store, name: str, worker: str, run_id: str, now_s: float, lease_s: float
) -> Trial | None:
    """Takes the first trial that may run: one that waits, or whose claim is over; None where there
    is none now, or the study is paused.

    run_id: of the run that is to be made, unless an earlier attempt has begun one. An attempt whose
    worker died is ended here.
    """
    first = (
        select(tables.trials)
        .join(tables.studies, tables.studies.c.name == _trial.study)
        .where(*_may_run(name, now_s))
        .order_by(_trial.position)
        .limit(1)
        # others pass over a row that is being claimed; SQLite has one writer at a time anyway
        .with_for_update(of=tables.trials, skip_locked=True)
    )

    def work(connection: Connection) -> Trial | None:
        row = connection.execute(first).mappings().first()
        if row is None:
            return None
        found = Trial(**row)
        if found.state == "running":
            reason = f"worker {found.worker} was heard no more"
            _end_attempt(connection, found, now_s, reason, "")
            found = _failed(found, reason, now_s)
            if found.state == "failed":
                _change(connection, found)
                return None
        taken = replace(
            found,
            state="running",
            worker=worker,
            until_s=now_s + lease_s,
            num_attempts=found.num_attempts + 1,
            run_id=found.run_id or run_id,
        )
        _change(connection, taken)
        began = Attempt(name, taken.key, taken.num_attempts, worker, taken.run_id, now_s)
        connection.execute(insert_into(connection.dialect.name, tables.attempts), columns_of(began))
        return taken

    return store.database.write(work, is_durable=True)


def num_wanted(store: Store, name: str, now_s: float) -> int:
    """Returns how many trials may run now or do: as many workers have something to do."""
    is_held = and_(
        _trial.study == name, _trial.is_wanted, _trial.state == "running", _trial.until_s > now_s
    )
    ready = (
        select(func.count())
        .select_from(tables.trials)
        .join(tables.studies, tables.studies.c.name == _trial.study)
        .where(*_may_run(name, now_s))
    )
    held = select(func.count()).select_from(tables.trials).where(is_held)
    return store.database.read(lambda c: (c.scalar(ready) or 0) + (c.scalar(held) or 0))


def is_over(store: Store, name: str) -> bool:
    """Whether nothing of a study is left to run: all is done or given up, or it was cancelled."""
    trunk = tables.trials.alias("trunk")
    has_lost_its_trunk = (
        select(trunk.c.key)
        .where(trunk.c.study == name, trunk.c.key == _trial.trunk, trunk.c.state == "failed")
        .exists()
    )
    left = (
        select(_trial.key)
        .join(tables.studies, tables.studies.c.name == _trial.study)
        .where(
            _trial.study == name,
            _trial.is_wanted,
            _trial.state.in_(("waiting", "running")),
            tables.studies.c.state != "cancelled",
            not_(has_lost_its_trunk),
        )
        .limit(1)
    )
    return store.database.read(lambda c: c.scalar(left)) is None


def note(store: Store, trial: Trial, result: Mapping[str, Any]) -> bool:
    """Keeps what a running trial has found so far; False where the claim was lost."""
    statement = update(tables.trials).where(_mine(trial)).values(result=dict(result))
    return store.database.write(lambda c: c.execute(statement).rowcount == 1)


def reap(store: Store, trial: Trial, reason: str, now_s: float) -> bool:
    """Ends the claim of a worker that somebody else knows to be dead; False where it had ended."""
    return _give_back(store, trial, _failed(trial, reason, now_s), now_s, reason, "")


def beat(store: Store, trial: Trial, now_s: float, lease_s: float) -> bool:
    """Prolongs a claim; False where it is lost, or the trial or its study is asked for no more:
    then what runs must be stopped."""
    is_running = (
        select(tables.studies.c.name)
        .where(tables.studies.c.name == trial.study, tables.studies.c.state != "cancelled")
        .exists()
    )
    statement = (
        update(tables.trials)
        .where(_mine(trial), _trial.is_wanted, is_running)
        .values(until_s=now_s + lease_s)
    )
    return store.database.write(lambda c: c.execute(statement).rowcount == 1)


def begin_anew(store: Store, trial: Trial, run_id: str) -> Trial:
    """Gives a claimed trial another run, where the one that was begun cannot be gone on with."""
    anew = replace(trial, run_id=run_id)

    def work(connection: Connection) -> None:
        connection.execute(update(tables.trials).where(_mine(trial)).values(run_id=run_id))
        number = _attempt.number == trial.num_attempts
        of_trial = and_(_attempt.study == trial.study, _attempt.key == trial.key, number)
        connection.execute(update(tables.attempts).where(of_trial).values(run_id=run_id))

    store.database.write(work, is_durable=True)
    return anew


def finish(store: Store, trial: Trial, result: Mapping[str, Any], now_s: float) -> bool:
    """Records a trial's result; False, and nothing is recorded, where the claim was lost."""
    done = replace(trial, state="done", worker="", until_s=0.0, result=dict(result))
    return _give_back(store, trial, done, now_s, "done", "")


def fail(
    store: Store,
    trial: Trial,
    reason: str,
    log_tail: str,
    now_s: float,
    *,
    is_final: bool = False,
) -> bool:
    """Gives a trial back that did not come to its end: it is tried again, later each time, a
    bounded number of times; not at all where that is of no use (is_final). False where the claim
    was lost."""
    back = _failed(trial, reason, now_s, is_final=is_final)
    return _give_back(store, trial, back, now_s, reason, log_tail)


def release(store: Store, trial: Trial, reason: str, now_s: float) -> bool:
    """Gives a trial back that was stopped on purpose: that is no failure, and it may run again at
    once."""
    back = replace(trial, state="waiting", worker="", until_s=0.0)
    return _give_back(store, trial, back, now_s, reason, "")


def retry(store: Store, name: str, label: str = "") -> int:
    """Lets failed trials be tried anew, all, or one by its label or key, which may also be done:
    stopped early, say; returns how many."""
    return store.database.write(lambda c: retry_within(c, name, label), is_durable=True)


def retry_within(connection: Connection, name: str, label: str = "") -> int:
    """`retry`, as a part of what a caller writes at once."""
    again = {"state": "waiting", "num_failures": 0, "not_before_s": 0.0, "result": {}}
    failed = update(tables.trials).where(
        _trial.study == name,
        _trial.is_wanted,
        _trial.state.in_(("failed", "done") if label else ("failed",)),
        *([or_(_trial.label == label, _trial.key == label)] if label else []),
    )
    return connection.execute(failed.values(again)).rowcount


def _may_run(name: str, now_s: float) -> tuple[Any, ...]:
    """Of a trial joined with its study: whether a worker may claim it."""
    trunk = tables.trials.alias("trunk")
    is_trunk_done = (
        select(trunk.c.key)
        .where(trunk.c.study == name, trunk.c.key == _trial.trunk, trunk.c.state == "done")
        .exists()
    )
    return (
        _trial.study == name,
        _trial.is_wanted,
        tables.studies.c.state == "running",
        or_(_trial.trunk == "", is_trunk_done),
        or_(
            and_(_trial.state == "waiting", _trial.not_before_s <= now_s),
            and_(_trial.state == "running", _trial.until_s <= now_s),
        ),
    )


def _failed(trial: Trial, reason: str, now_s: float, *, is_final: bool = False) -> Trial:
    num_failures = trial.num_failures + 1
    is_given_up = is_final or num_failures >= MOST_FAILURES
    wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** (num_failures - 1))
    return replace(
        trial,
        state="failed" if is_given_up else "waiting",
        num_failures=num_failures,
        not_before_s=now_s + wait_s,
        worker="",
        until_s=0.0,
        result={
            **{key: value for key, value in trial.result.items() if key in KEPT},
            **({"reason": reason} if is_given_up else {}),
        },
    )


def _mine(trial: Trial) -> Any:
    return and_(
        _trial.study == trial.study,
        _trial.key == trial.key,
        _trial.state == "running",
        _trial.worker == trial.worker,
        _trial.num_attempts == trial.num_attempts,
    )


def _give_back(
    store: Store, trial: Trial, after: Trial, now_s: float, reason: str, log_tail: str
) -> bool:
    def work(connection: Connection) -> bool:
        mine = select(_trial.result).where(_mine(trial)).with_for_update()
        found = connection.execute(mine).first()
        if found is None:
            return False
        kept = {key: value for key, value in found[0].items() if key in KEPT}
        _change(connection, replace(after, result={**kept, **after.result}))
        _end_attempt(connection, trial, now_s, reason, log_tail)
        return True

    return store.database.write(work, is_durable=True)


def _change(connection: Connection, trial: Trial) -> None:
    connection.execute(
        update(tables.trials)
        .where(_trial.study == trial.study, _trial.key == trial.key)
        .values({name: getattr(trial, name) for name in _CHANGING})
    )


def _end_attempt(
    connection: Connection, trial: Trial, now_s: float, reason: str, log_tail: str
) -> None:
    connection.execute(
        update(tables.attempts)
        .where(
            _attempt.study == trial.study,
            _attempt.key == trial.key,
            _attempt.number == trial.num_attempts,
        )
        .values(ended_s=now_s, exit_reason=reason, log_tail=log_tail)
    )
