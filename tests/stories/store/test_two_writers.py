"""Two processes on one run by mistake: the second is refused on one line, from another machine too,
where no lock on a file helps; and after a death nobody waits for longer than need be.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moescope.platform import leases
from moescope.platform.contact import LEASE_S, run_lease
from moescope.platform.store import open_store

pytestmark = pytest.mark.story

RATES = {"steps_per_s": 60.0, "alerts_per_s": 2.0, "events_per_s": 2.0}


def refused_line(writer: Any, most_s: float = 30.0) -> str:
    """What the second writer says; it ends by itself."""
    assert writer.process.wait(most_s) == 2
    assert writer.told().begun_s is None
    # besides what is said while it looks
    (line,) = [line for line in writer.errors().splitlines() if line.startswith("moescope: ")]
    assert "Traceback" not in writer.errors()
    return line


def test_on_one_machine_the_second_is_refused_at_once(
    tmp_path: Path, write: Callable[..., Any], assert_kept: Callable[..., int]
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    first = write(url, tmp_path / "home", "r", **RATES)
    first.wait_for_steps(20)
    for home in ("home", "another-home"):
        line = refused_line(write(url, tmp_path / home, "r", **RATES))
        assert line.startswith(f"moescope: run r is still alive (process {first.process.pid} on ")
        assert line.endswith(" trains it): stop it first")
    told = first.stop()
    assert told.replaced_by == ""
    with open_store(url) as store:
        assert_kept(store, "r", told)
        assert leases.find(store, run_lease("r")) is None


@pytest.mark.postgres
def test_on_another_machine_the_second_is_refused_as_soon_as_the_first_has_beaten(
    tmp_path: Path,
    postgres_url: str,
    machine: Any,
    write: Callable[..., Any],
    assert_kept: Callable[..., int],
) -> None:
    """Its clock is right, while that of the first is an hour behind: by the clocks the lease is
    over."""
    machine.has(clock_shift_s=-3600.0)
    first = write(postgres_url, tmp_path / "home", "r", machine.called("node-1"), **RATES)
    first.wait_for_steps(20)
    second = write(postgres_url, tmp_path / "node-2", "r", **RATES)
    line = refused_line(second)
    pid = first.process.pid
    assert (
        line == f"moescope: run r is still alive (process {pid} on node-1 trains it): stop it first"
    )
    told = first.stop()
    assert told.replaced_by == ""
    with open_store(postgres_url) as store:
        assert_kept(store, "r", told)


def test_after_a_kill_the_next_process_of_the_machine_goes_on_at_once(
    tmp_path: Path, write: Callable[..., Any], assert_kept: Callable[..., int]
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    first = write(url, tmp_path / "home", "r", **RATES)
    first_step = len(first.wait_for_steps(60).handed_s)
    killed_s = first.kill()
    second = write(url, tmp_path / "home", "r", segment=1, first_step=first_step, **RATES)
    begun_s = second.wait_for_steps(60).begun_s
    assert begun_s is not None
    # a python starts in a second or two where other processes run
    assert begun_s - killed_s < LEASE_S / 2
    told = second.stop()
    with open_store(url) as store:
        assert_kept(store, "r", first.told(), killed_s)
        assert_kept(store, "r", told, segment=1)


@pytest.mark.postgres
def test_after_a_death_elsewhere_the_run_is_taken_over_when_its_lease_is_over(
    tmp_path: Path,
    postgres_url: str,
    machine: Any,
    write: Callable[..., Any],
    assert_kept: Callable[..., int],
) -> None:
    """The clock of the one that died is a day ahead: by the clocks the lease lasts until then. And
    it was not dead but held up: when it goes on it learns that it was replaced, and stops."""
    machine.has(clock_shift_s=86400.0)
    first = write(postgres_url, tmp_path / "home", "r", machine.called("node-1"), **RATES)
    first_step = len(first.wait_for_steps(60).handed_s)
    os.kill(first.process.pid, signal.SIGSTOP)
    stopped_s = time.monotonic()
    asked = {"segment": 1, "first_step": first_step, **RATES}
    second = write(postgres_url, tmp_path / "node-2", "r", **asked)
    begun_s = second.wait_until(lambda told: told.begun_s is not None).begun_s
    assert LEASE_S - 1.0 < begun_s - stopped_s < LEASE_S + 6.0
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.process.wait(30) == 0, first.errors()
    told = first.told()
    assert told.replaced_by.partition(":")[2].startswith(f"{second.process.pid}:")
    second.wait_for_steps(60)
    assert second.stop().replaced_by == ""
    with open_store(postgres_url) as store:
        assert_kept(store, "r", told)
        assert_kept(store, "r", second.told(), segment=1)
        assert leases.find(store, run_lease("r")) is None
