"""Commands: what a person, or a rule outside the process, asks of a run. Asked -> taken (at a
step boundary) -> done or refused.
"""

from collections.abc import Mapping
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from . import tables
from .engines import unknown_run
from .errors import MoescopeError
from .records import Command, CommandKind
from .store import Store
from .upserts import columns_of

_command = tables.commands.c


def ask(
    store: Store,
    run_id: str,
    kind: CommandKind,
    args: Mapping[str, Any],
    asked_by: str,
    now_s: float,
) -> Command:
    """Writes a command for a run; the run takes it at its next step boundary, or when it is
    resumed.
    """
    command = Command(uuid4().hex, run_id, kind, dict(args), asked_by, now_s)
    try:
        store.database.write(
            lambda c: c.execute(insert(tables.commands).values(columns_of(command))),
            is_durable=True,
        )
    except IntegrityError:
        raise unknown_run(run_id) from None
    return command


def take(store: Store, run_id: str) -> list[Command]:
    """Takes what was asked of a run, oldest first. Each command is taken once, however many
    processes try.
    """
    mine = (_command.run_id == run_id, _command.state == "asked")
    # a look costs nobody anything, while taking needs the writer's turn
    if store.database.read(lambda c: c.scalar(select(_command.id).where(*mine).limit(1))) is None:
        return []
    statement = update(tables.commands).where(*mine).values(state="taken")

    def work(connection: Connection) -> list[Command]:
        rows = connection.execute(statement.returning(*_command)).mappings().all()
        return [Command(**row) for row in rows]

    return sorted(store.database.write(work, is_durable=True), key=lambda c: (c.asked_s, c.id))


def answer(
    store: Store, command_id: str, state: Literal["done", "refused"], text: str, now_s: float
) -> None:
    """Says what became of a command; saying it again changes nothing but the words."""
    statement = (
        update(tables.commands)
        .where(_command.id == command_id)
        .values(state=state, answer=text, answered_s=now_s)
    )
    if not store.database.write(lambda c: c.execute(statement).rowcount, is_durable=True):
        raise MoescopeError(f"unknown command {command_id}: its run was deleted")


def commands(store: Store, run_id: str) -> list[Command]:
    """All commands of a run, oldest first."""
    statement = select(tables.commands).where(_command.run_id == run_id)
    statement = statement.order_by(_command.asked_s, _command.id)
    rows = store.database.read(lambda c: c.execute(statement).mappings().all())
    return [Command(**row) for row in rows]
