"""A disk that is full, a disk that is slow, a database that somebody locks: recording goes on in
microseconds, the status says what is wrong, and afterwards everything is there.
"""

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from moescope.platform.store import open_store

pytestmark = pytest.mark.story

LOCKED_S = 12.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB: on a full one the kernel says ENOSPC, as on any other."""
    folder = tmp_path / "disk"
    folder.mkdir()
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    words = ["mount", "-t", "tmpfs", "-o", f"size=64m,mode=0700,uid={os.geteuid()}", "tmpfs"]
    done = subprocess.run([*as_root, *words, str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"only who may mount a disk can fill it: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)


def filled(folder: Path) -> Path:
    """Leaves no byte on the disk; returns the file to delete."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        for num_bytes in (65536, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(num_bytes)) == num_bytes:
                    pass
    return filler


def assert_steps_were_quick(ended: dict[str, Any]) -> None:
    # 20 to 50 us on a quiet core; the bounds are for a shared one
    assert ended["record_median_us"] < 300
    assert ended["record_p99_us"] < 5000
    assert (ended["coalesced"], ended["lost"], ended["refused"]) == (0, 0, 0)


@pytest.mark.parametrize("full", ["the store's", "the journal's", "both"])
def test_a_full_disk_is_told_and_caught_up_with(
    full: str,
    tmp_path: Path,
    small_disk: Path,
    write: Callable[..., Any],
    assert_kept: Callable[..., int],
) -> None:
    store_folder = tmp_path / "roomy" if full == "the journal's" else small_disk
    home = tmp_path / "home" if full == "the store's" else small_disk / "home"
    store_folder.mkdir(exist_ok=True)
    url = f"sqlite:///{store_folder / 'store.db'}"
    writer = write(url, home, "r")
    writer.wait_for_steps(100)
    filler = filled(small_disk)
    full_s = time.monotonic()
    # alerts that are raised now wait in memory or in the journal, whichever is left
    writer.wait_for_steps(500)
    looks = [look for look in writer.told().looks if look["at_s"] > full_s]
    is_store_told = any("free some disk" in look["error"] for look in looks)
    is_journal_told = any("No space left" in look["journal_error"] for look in looks)
    # where the store is well, the journal deletes what it has taken and so finds room by itself
    assert is_journal_told == (full != "the store's")
    assert is_store_told or full == "the journal's"
    filler.unlink()
    writer.wait_until(
        lambda told: told.looks[-1]["state"] == "keeps up" and not told.looks[-1]["journal_error"]
    )
    told = writer.stop()
    assert_steps_were_quick(told.ended)
    with open_store(url) as store:
        assert_kept(store, "r", told)
    connection = sqlite3.connect(store_folder / "store.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_kill_9_on_a_full_disk_costs_what_only_memory_could_take(
    tmp_path: Path,
    small_disk: Path,
    write: Callable[..., Any],
    succeed: Callable[..., list[str]],
    assert_kept: Callable[..., int],
) -> None:
    """The disk of the store is full, the journal's is not: then nothing but half a second is
    lost."""
    url = f"sqlite:///{small_disk / 'store.db'}"
    writer = write(url, tmp_path / "home", "r")
    writer.wait_for_steps(100)
    filler = filled(small_disk)
    writer.wait_until(lambda told: told.looks[-1]["state"] == "fails")
    writer.wait_for_steps(150)
    killed_s = writer.kill()
    filler.unlink()
    assert all(line.endswith(" True") for line in succeed((url, tmp_path / "home")))
    with open_store(url) as store:
        assert_kept(store, "r", writer.told(), killed_s)


def test_a_slow_disk_holds_up_nobody_who_records(
    tmp_path: Path,
    machine: Any,
    write: Callable[..., Any],
    assert_kept: Callable[..., int],
) -> None:
    """Each fsync takes 0.8 s: an alert takes one, a step takes microseconds."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    writer = write(
        url,
        tmp_path / "home",
        "r",
        machine.env,
        alerts_per_s=1.0,
        is_said_aside=True,
        events_per_s=1.0,
    )
    writer.wait_for_steps(100)
    machine.has(sync_s=0.8)
    slow_s = time.monotonic()
    writer.wait_for_steps(600)
    healed_s = time.monotonic()
    machine.has(sync_s=0.0)
    told = writer.stop()
    assert_steps_were_quick(told.ended)
    # one fsync, and two where the file is new: its name is brought to the disk as well
    assert 0.7 < told.ended["say_longest_s"] < 2.4
    assert told.states(slow_s, healed_s) <= {"keeps up", "behind", "hangs"}
    with open_store(url) as store:
        assert_kept(store, "r", told)


def test_kill_9_on_a_slow_disk_costs_half_a_second_too(
    tmp_path: Path,
    machine: Any,
    write: Callable[..., Any],
    succeed: Callable[..., list[str]],
    assert_kept: Callable[..., int],
) -> None:
    """An fsync takes 1.5 s, and a thread beside the training waits for one most of the time."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    writer = write(
        url,
        tmp_path / "home",
        "r",
        machine.env,
        alerts_per_s=0.0,
        events_per_s=2.0,
        is_said_aside=True,
    )
    writer.wait_for_steps(100)
    machine.has(sync_s=1.5)
    writer.wait_for_steps(733)
    killed_s = writer.kill()
    machine.has(sync_s=0.0)
    assert all(line.endswith(" True") for line in succeed((url, tmp_path / "home")))
    with open_store(url) as store:
        assert_kept(store, "r", writer.told(), killed_s)


def test_a_locked_database_is_waited_for(
    tmp_path: Path, write: Callable[..., Any], assert_kept: Callable[..., int]
) -> None:
    """Another process holds it for 12 s, which is more than a lease and less than our patience."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    rates = {"steps_per_s": 100.0, "alerts_per_s": 2.0, "events_per_s": 2.0}
    writer = write(url, tmp_path / "home", "r", **rates)
    writer.wait_for_steps(100)
    words = "import sqlite3, sys, time\nlock = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    words += "lock.execute('BEGIN EXCLUSIVE')\nprint('locked', flush=True)\ntime.sleep(600)\n"
    command = ["python3", "-c", words, str(tmp_path / "store.db")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        locked_s = time.monotonic()
        time.sleep(LOCKED_S)
        told = writer.told()
        assert told.states(locked_s + 7.0) == {"hangs"}
        assert told.looks[-1]["lag_s"] > 7.0
        assert told.looks[-1]["backlog_bytes"] > 500_000
    finally:
        holder.kill()
        holder.communicate()
    writer.wait_until(lambda told: told.looks[-1]["state"] == "keeps up", most_s=20.0)
    told = writer.stop()
    assert told.replaced_by == ""
    assert_steps_were_quick(told.ended)
    with open_store(url) as store:
        assert_kept(store, "r", told)
