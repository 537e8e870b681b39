"""Commands: asked, taken once, answered."""

import threading
from dataclasses import replace

import pytest

from moescope.platform.commands import answer, ask, commands, take
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Command, Run
from moescope.platform.store import Store, open_store

RUN = Run("r1", "run", "p", {}, "running", "cpu", "0", 0.0, 0.0)


@pytest.fixture
def filled(store: Store) -> Store:
    store.add_run(RUN)
    store.add_run(replace(RUN, id="r2"))
    return store


def test_commands_are_taken_in_the_order_they_were_asked(filled: Store) -> None:
    late = ask(filled, "r1", "rollback", {"to_step": 30}, "ann", 2.0)
    early = ask(filled, "r1", "checkpoint", {}, "bob", 1.0)
    assert commands(filled, "r1") == [early, late]
    assert [command.id for command in take(filled, "r1")] == [early.id, late.id]
    assert take(filled, "r1") == []
    assert [command.state for command in commands(filled, "r1")] == ["taken", "taken"]


def test_a_run_takes_only_its_own_commands(filled: Store) -> None:
    asked = ask(filled, "r1", "pause", {}, "ann", 1.0)
    assert take(filled, "r2") == []
    assert take(filled, "r1") == [replace(asked, state="taken")]


def test_an_answer_is_kept_with_its_command(filled: Store) -> None:
    asked = ask(filled, "r1", "set_mode", {"mode": "off"}, "ann", 1.0)
    take(filled, "r1")
    for _ in range(2):  # an answer may be delivered twice
        answer(filled, asked.id, "refused", "no such checkpoint", 3.0)
    expected = replace(asked, state="refused", answer="no such checkpoint", answered_s=3.0)
    assert commands(filled, "r1") == [expected]
    with pytest.raises(MoescopeError, match="unknown command nothing"):
        answer(filled, "nothing", "done", "", 3.0)


def test_a_command_is_taken_once_however_many_try(filled: Store, store_url: str) -> None:
    asked = {ask(filled, "r1", "checkpoint", {}, "ann", float(i)).id for i in range(20)}
    taken: list[Command] = []
    start = threading.Barrier(4)

    def work() -> None:
        with open_store(store_url) as mine:
            start.wait()
            for _ in range(5):
                taken.extend(take(mine, "r1"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 20
    assert {command.id for command in taken} == asked
