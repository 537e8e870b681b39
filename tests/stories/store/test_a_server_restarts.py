"""PostgreSQL is restarted, crashes, cuts its connections: a run goes on, the status says so, and
afterwards everything is there.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moescope.platform.engines import StoreAway
from moescope.platform.store import open_store

pytestmark = [pytest.mark.story, pytest.mark.postgres]

RATES = {"steps_per_s": 40.0, "alerts_per_s": 2.0, "events_per_s": 2.0}
"""Ten times a quick training's: an outage must be caught up with soon."""


@pytest.fixture
def server(cluster: Any) -> Any:
    """The server, up and with an empty store."""
    cluster.ask("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    open_store(cluster.url).close()
    return cluster


def wait_for_a_look(writer: Any, **wanted: Any) -> None:
    writer.wait_until(lambda told: wanted.items() <= told.looks[-1].items(), 120.0)


def test_a_restart_is_told_and_caught_up_with(
    server: Any, tmp_path: Path, write: Callable[..., Any], assert_kept: Callable[..., int]
) -> None:
    home = tmp_path / "home"
    writers = [write(server.url, home, f"r{number}", **RATES) for number in range(2)]
    for writer in writers:
        writer.wait_for_steps(50)
    server.stop()
    for writer in writers:
        wait_for_a_look(writer, state="fails", is_store_away=True, journal_error="")
        look = writer.wait_for_steps(100).looks[-1]
        assert "is the server up and the address right?" in look["error"]
        assert look["lag_s"] > 1.0
        assert look["backlog_bytes"] > 100_000
    server.start()
    for writer in writers:
        wait_for_a_look(writer, state="keeps up", is_store_away=False, error="")
    with open_store(server.url) as store:
        for writer in writers:
            told = writer.stop()
            assert told.replaced_by == ""
            assert (told.ended["coalesced"], told.ended["lost"], told.ended["refused"]) == (0, 0, 0)
            assert told.ended["record_median_us"] < 300
            assert_kept(store, writer.run, told)


def test_a_crash_of_the_server_loses_nothing_that_it_had_taken(
    server: Any, tmp_path: Path, write: Callable[..., Any], assert_kept: Callable[..., int]
) -> None:
    """It commits samples before they are on its disk, and what was not is gone after a crash."""
    rng = random.Random(0)
    # an alert's commit brings all before it to the disk, so there are few
    rates = {**RATES, "alerts_per_s": 0.0, "events_per_s": 0.2}
    writer = write(server.url, tmp_path / "home", "r", **rates)
    writer.wait_for_steps(50)
    for _ in range(3):
        time.sleep(rng.uniform(0.5, 1.5))
        server.stop("immediate")
        server.start()
        wait_for_a_look(writer, state="keeps up", error="")
    told = writer.stop()
    with open_store(server.url) as store:
        assert_kept(store, "r", told)


def test_connections_that_are_cut_are_made_again(
    server: Any, tmp_path: Path, write: Callable[..., Any], assert_kept: Callable[..., int]
) -> None:
    writer = write(server.url, tmp_path / "home", "r", **RATES)
    writer.wait_for_steps(50)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='moescope'"
    num_cut = 0
    while num_cut < 12:
        num_cut += len(server.ask(cut))
        assert len(writer.wait_for_steps(5).handed_s) < 1000, "it makes no connections again"
    wait_for_a_look(writer, state="keeps up", is_store_away=False, error="")
    told = writer.stop()
    assert told.ended["lost"] == told.ended["coalesced"] == 0
    with open_store(server.url) as store:
        assert_kept(store, "r", told)


def test_kill_9_while_the_server_is_down_costs_half_a_second_too(
    server: Any,
    tmp_path: Path,
    write: Callable[..., Any],
    succeed: Callable[..., list[str]],
    assert_kept: Callable[..., int],
) -> None:
    writer = write(server.url, tmp_path / "home", "r", **RATES)
    writer.wait_for_steps(50)
    server.stop()
    wait_for_a_look(writer, state="fails")
    writer.wait_for_steps(50)
    killed_s = writer.kill()
    server.start()
    lines = succeed((server.url, tmp_path / "home"))
    assert [line.rpartition(" ")[2] for line in lines] == ["True"]
    with open_store(server.url) as store:
        assert_kept(store, "r", writer.told(), killed_s)


def test_a_wrong_password_is_told_on_one_line_and_never_shown(server: Any) -> None:
    server.ask("CREATE ROLE ann LOGIN PASSWORD 'right'")
    server.asks_for_a_password_of("ann")
    wrong = server.url.replace("postgres@", "ann:hush@")
    for words in (["runs", "--store", wrong], ["db", "upgrade", "--store", wrong]):
        command = [sys.executable, "-m", "moescope.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert 'password authentication failed for user "ann"' in done.stderr
        assert done.stderr.endswith("are the user and the password right?\n")
        assert "hush" not in done.stderr
    with pytest.raises(StoreAway, match="refuses this user"):
        open_store(server.url.replace("postgres@", "ann:right@"))
    server.ask("DROP ROLE ann")
