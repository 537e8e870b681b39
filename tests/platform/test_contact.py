"""The trainer's line to the store: beats, brings commands, delivers answers later if need be."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moescope.platform import leases
from moescope.platform.commands import ask, commands, take
from moescope.platform.contact import Contact, run_lease
from moescope.platform.records import Run
from moescope.platform.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    opened.add_run(Run("r1", "tiny-1", "p", {}, "running", "cpu", "0", 1.0, 1.0))
    leases.claim(opened, run_lease("r1"), "me", time.time(), 10.0)
    yield opened
    opened.close()


@pytest.fixture
def contact(store: Store) -> Iterator[Contact]:
    made = Contact(store.url, "r1", "me", beat_every_s=0.05)
    yield made
    made.close()


def wait_until(is_true: Callable[[], bool], most_s: float = 10.0) -> None:
    until_s = time.monotonic() + most_s
    while not is_true():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.01)


def test_it_beats_and_keeps_the_lease(store: Store, contact: Contact) -> None:
    wait_until(lambda: store.find_run("r1").heartbeat_s > 1.0)
    assert leases.holder(store, run_lease("r1"), time.time() + 5) == "me"
    assert contact.replaced_by == ""
    assert not contact.is_store_away


def test_a_command_comes_once_and_its_answer_is_seen(store: Store, contact: Contact) -> None:
    asked = ask(store, "r1", "checkpoint", {}, "ann", time.time())
    found: list[str] = []

    def has_come() -> bool:
        found.extend(command.id for command in contact.commands())
        return bool(found)

    wait_until(has_come)
    assert found == [asked.id]
    contact.answer(asked, "done", "saved step 3")
    wait_until(lambda: commands(store, "r1")[0].state == "done")
    assert commands(store, "r1")[0].answer == "saved step 3"
    assert contact.commands() == []


def test_changes_of_the_run_arrive_before_close_returns(store: Store, contact: Contact) -> None:
    contact.set_mode("advisory")
    contact.set_status("finished", finished_s=7.0)
    assert contact.close()
    run = store.find_run("r1")
    assert (run.mode, run.status, run.finished_s) == ("advisory", "finished", 7.0)


def test_a_locked_store_delays_an_answer_but_never_the_caller(
    store: Store, contact: Contact, tmp_path: Path
) -> None:
    asked = ask(store, "r1", "pause", {}, "ann", time.time())
    wait_until(lambda: bool(contact.commands()))
    lock = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    start_s = time.monotonic()
    contact.answer(asked, "done", "paused")
    contact.set_mode("off")
    contact.commands()
    assert time.monotonic() - start_s < 0.05
    time.sleep(0.3)
    lock.execute("ROLLBACK")
    lock.close()
    wait_until(lambda: commands(store, "r1")[0].state == "done")
    wait_until(lambda: store.find_run("r1").mode == "off")


def test_a_store_that_is_gone_is_said_and_found_again(
    store: Store, contact: Contact, tmp_path: Path
) -> None:
    wait_until(lambda: store.find_run("r1").heartbeat_s > 1.0)
    (tmp_path / "store.db").rename(tmp_path / "elsewhere.db")
    wait_until(lambda: contact.is_store_away)
    contact.set_status("stopped")
    (tmp_path / "elsewhere.db").rename(tmp_path / "store.db")
    wait_until(lambda: not contact.is_store_away)
    wait_until(lambda: store.find_run("r1").status == "stopped")


def test_what_a_dead_process_took_is_refused_so_that_nobody_waits_for_it(store: Store) -> None:
    asked = ask(store, "r1", "rollback", {"to_step": 5}, "ann", time.time())
    assert [command.id for command in take(store, "r1")] == [asked.id]
    contact = Contact(store.url, "r1", "me", beat_every_s=0.05)
    wait_until(lambda: commands(store, "r1")[0].state == "refused")
    contact.close()
    assert "ask again" in commands(store, "r1")[0].answer


def test_a_process_that_lost_its_lease_learns_who_has_it_and_takes_no_commands(
    store: Store,
) -> None:
    leases.release(store, run_lease("r1"), "me")
    leases.claim(store, run_lease("r1"), "other", time.time(), 60.0)
    ask(store, "r1", "stop", {}, "ann", time.time())
    contact = Contact(store.url, "r1", "me", beat_every_s=0.05)
    wait_until(lambda: contact.replaced_by == "other")
    assert contact.commands() == []
    contact.close()
    assert commands(store, "r1")[0].state == "asked"


def test_who_was_replaced_does_not_take_the_run_back_when_the_clock_is_set_forward(
    store: Store,
) -> None:
    leases.release(store, run_lease("r1"), "me")
    leases.claim(store, run_lease("r1"), "other", time.time(), 10.0)
    a_day_on = Contact(store.url, "r1", "me", beat_every_s=0.05, clock=lambda: time.time() + 86400)
    wait_until(lambda: a_day_on.replaced_by == "other")
    a_day_on.close()
    found = leases.find(store, run_lease("r1"))
    assert found is not None
    assert found.holder == "other"


def test_a_lease_that_is_lost_to_nobody_is_taken_again(store: Store, contact: Contact) -> None:
    leases.release(store, run_lease("r1"), "me")
    wait_until(lambda: leases.find(store, run_lease("r1")) is not None)
    assert contact.replaced_by == ""


def test_a_change_that_the_store_can_never_take_does_not_block_the_next(
    store: Store, contact: Contact
) -> None:
    asked = ask(store, "r1", "pause", {}, "ann", time.time())
    wait_until(lambda: bool(contact.commands()))
    store.add_run(Run("r2", "tiny-2", "p", {}, "running", "cpu", "0", 1.0, 1.0))
    gone = ask(store, "r2", "pause", {}, "ann", time.time())
    store.delete_run("r2")
    contact.answer(gone, "done", "")
    contact.answer(asked, "done", "")
    wait_until(lambda: commands(store, "r1")[0].state == "done")
