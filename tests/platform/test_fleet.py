"""What a list of runs tells besides the runs, asked once for many of them."""

from typing import Any

import pytest

from moescope.platform.commands import answer, ask, take
from moescope.platform.fleet import doings, num_archived
from moescope.platform.records import Event, Run, Segment
from moescope.platform.store import Store


@pytest.fixture(autouse=True)
def _three_runs(store: Store) -> None:
    for name in ("a", "b", "c"):
        store.add_run(Run(name, name, "p", {}, "running", "cpu", "0", 1.0, 2.0))


def test_commands_that_nobody_answered_and_pauses_are_told(store: Store) -> None:
    pause = ask(store, "a", "pause", {}, "me", 10.0)
    take(store, "a")
    answer(store, pause.id, "done", "paused", 11.0)
    saved = ask(store, "a", "checkpoint", {}, "me", 12.0)
    take(store, "a")
    answer(store, saved.id, "done", "saved", 13.0)
    ask(store, "a", "rollback", {}, "me", 14.0)
    ask(store, "b", "stop", {}, "me", 15.0)
    found = doings(store, ["a", "b"], 0.0)
    assert [(c.kind, c.state) for c in found["a"].commands] == [
        ("pause", "done"),
        ("rollback", "asked"),
    ]
    assert [c.kind for c in found["b"].commands] == ["stop"]
    assert "c" not in doings(store, ["a", "b", "c"], 0.0)
    assert doings(store, ["c"], 0.0) == {}


def test_the_newest_event_that_changed_something_is_told_while_it_is_young(store: Store) -> None:
    def say(kind: Any, time_s: float) -> None:
        store.add_event(Event("a", 0, 5, time_s, kind, kind))

    say("rollback", 10.0)
    say("damp", 20.0)
    say("note", 30.0)  # changes nothing
    event = doings(store, ["a"], 15.0)["a"].event
    assert event is not None
    assert event.kind == "damp"
    assert doings(store, ["a"], 25.0) == {}


def test_when_the_newest_process_of_a_run_began_is_told(store: Store) -> None:
    store.add_segment(Segment("a", 0, 0, "start", 1.0))
    store.add_segment(Segment("a", 1, 5, "resume", 7.0, 0, 4))
    store.add_segment(Segment("a", 2, 3, "rollback", 9.0, 1, 2))
    store.add_segment(Segment("b", 0, 0, "start", 1.0))
    found = doings(store, ["a", "b"], 0.0)
    assert found["a"].resumed_s == 7.0
    assert "b" not in found


def test_archived_runs_are_counted(store: Store) -> None:
    assert num_archived(store) == 0
    store.update_run("b", is_archived=True)
    assert num_archived(store) == 1
