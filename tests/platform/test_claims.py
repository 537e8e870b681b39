"""Who trains a run: one process, whatever clocks say, and no dead one for longer than need be."""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from time import time as wall_clock

import pytest

from moescope.platform import leases
from moescope.platform.claims import claim, let_go
from moescope.platform.contact import LEASE_S, run_lease
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Run
from moescope.platform.store import Store, open_store

RUN = Run("r1", "tiny-1", "p", {}, "running", "cpu", "0", 1.0, 1.0)
LEASE = run_lease(RUN.id)
ELSEWHERE = "other-machine:4711:1234abcd-77aa01"


@dataclass
class Time:
    """A clock and the waiting for it; `meanwhile` happens after each wait."""

    now_s: float = 1000.0
    waited_s: float = 0.0
    meanwhile: Callable[[], object] = field(default=lambda: None)

    def clock(self) -> float:
        return self.now_s

    def wait(self, span_s: float) -> None:
        self.now_s += span_s
        self.waited_s += span_s
        self.meanwhile()


def claimed(store: Store, time: Time) -> str:
    return claim(store, RUN, clock=time.clock, wait=time.wait)


def test_a_free_run_is_claimed_at_once_and_by_one_only(store: Store) -> None:
    time = Time()
    holder = claimed(store, time)
    assert holder.startswith(f"{socket.gethostname()}:{os.getpid()}:")
    with pytest.raises(MoescopeError, match=f"tiny-1 is still alive .process {os.getpid()} on"):
        claimed(store, time)
    let_go(store, RUN.id, holder)
    claimed(store, time)
    assert time.waited_s == 0


def test_a_dead_process_of_this_machine_is_not_waited_for(store: Store, store_url: str) -> None:
    words = "import sys; from moescope.platform import claims, records, store\n"
    words += "run = records.Run('r1', 'n', 'p', {}, 'running', 'cpu', '0', 1.0, 1.0)\n"
    words += "claims.claim(store.open_store(sys.argv[1]), run)"
    subprocess.run([sys.executable, "-c", words, store_url], check=True)
    time = Time(now_s=wall_clock())
    assert leases.holder(store, LEASE, time.now_s) is not None
    claimed(store, time)
    assert time.waited_s == 0


def test_one_that_is_dead_and_not_yet_buried_is_not_waited_for(store: Store) -> None:
    mine = claimed(store, Time())
    child = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    child.start()
    os.waitid(os.P_PID, child.pid or 0, os.WEXITED | os.WNOWAIT)
    host, pid, rest = mine.split(":")
    let_go(store, RUN.id, mine)
    leases.claim(store, LEASE, f"{host}:{child.pid}:{rest}", 1000.0, LEASE_S)
    time = Time()
    claimed(store, time)
    assert (time.waited_s, pid) == (0, str(os.getpid()))
    child.join()


def test_a_process_of_another_container_is_not_taken_for_dead(store: Store) -> None:
    """Its host has our name, and its process id means nothing here."""
    other = f"{socket.gethostname()}:999999999:00000000-77aa01"
    leases.claim(store, LEASE, other, 1000.0, LEASE_S)
    time = Time(meanwhile=lambda: leases.beat(store, LEASE, other, time.now_s, LEASE_S))
    with pytest.raises(MoescopeError, match="still alive"):
        claimed(store, time)
    assert time.waited_s <= 1.0


@pytest.mark.parametrize(
    ("ahead_s", "most_s"),
    [
        pytest.param(0.0, LEASE_S, id="clocks agree"),
        pytest.param(-3600.0, 4.0, id="its clock is an hour behind: over, as it looks"),
        pytest.param(86400.0, LEASE_S, id="its clock is a day ahead: never over, as it looks"),
    ],
)
def test_a_process_elsewhere_lives_if_it_beats_and_is_dead_if_it_does_not(
    store: Store, ahead_s: float, most_s: float
) -> None:
    leases.claim(store, LEASE, ELSEWHERE, 1000.0 + ahead_s, LEASE_S)
    living = Time()

    def beat_once_a_second() -> None:
        if living.waited_s % 1.0 == 0:
            leases.beat(store, LEASE, ELSEWHERE, living.now_s + ahead_s, LEASE_S)

    living.meanwhile = beat_once_a_second
    with pytest.raises(MoescopeError, match="process 4711 on other-machine trains it"):
        claimed(store, living)
    assert living.waited_s <= 1.0
    dead = Time(now_s=living.now_s)
    holder = claimed(store, dead)
    assert 4.0 <= dead.waited_s <= most_s
    assert leases.find(store, LEASE) == (holder, dead.now_s + LEASE_S)


def test_one_that_ends_while_it_is_watched_makes_way_at_once(store: Store) -> None:
    leases.claim(store, LEASE, ELSEWHERE, 1000.0, LEASE_S)
    time = Time(meanwhile=lambda: leases.release(store, LEASE, ELSEWHERE))
    claimed(store, time)
    assert time.waited_s <= 0.25


def test_of_two_who_wait_for_a_dead_one_one_gets_the_run(store: Store, store_url: str) -> None:
    leases.claim(store, LEASE, ELSEWHERE, 1000.0, LEASE_S)
    inner: list[str] = []

    def another_comes() -> None:
        if time.waited_s >= 9.5 and not inner:
            with open_store(store_url) as opened:
                inner.append(claimed(opened, Time(now_s=1020.0)))

    time = Time(meanwhile=another_comes)
    with pytest.raises(MoescopeError, match="still alive"):
        claimed(store, time)
    found = leases.find(store, LEASE)
    assert found is not None
    assert [found.holder] == inner


def test_letting_go_of_a_store_that_is_away_ends_nothing(
    tmp_path: object, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        holder = claimed(store, Time())
        os.rename(f"{tmp_path}/store.db", f"{tmp_path}/elsewhere.db")
        let_go(store, RUN.id, holder)
    assert "run r1 stays claimed for 10 s" in caplog.text
