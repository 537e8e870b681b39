import json
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.policy_memory import PolicyMemory, Taken

ROLLBACK = Taken("rollback", 304, 310, "an-alert", 280, 0, True)


def test_what_was_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "run" / "memory.jsonl"
    memory = PolicyMemory(path)
    memory.add_action(ROLLBACK)
    memory.add_skipped(300)
    memory.add_skipped(301)
    again = PolicyMemory(path)  # nobody closed the first one: it was killed
    assert again.actions == [ROLLBACK]
    assert again.skipped == {300, 301}
    assert again.num_skipped_in_incident == 2


def test_every_line_is_on_the_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = PolicyMemory(tmp_path / "memory.jsonl")
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), fsync(handle)))
    memory.add_skipped(1)
    memory.add_action(ROLLBACK)
    assert len(synced) == 2
    assert len((tmp_path / "memory.jsonl").read_text().splitlines()) == 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 400))
def test_a_torn_last_line_costs_that_line_only(tmp_path_factory: object, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "memory.jsonl"  # type: ignore[attr-defined]
    memory = PolicyMemory(path)
    memory.add_action(ROLLBACK)
    for batch in range(10):
        memory.add_skipped(batch)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    num_lines = whole[:cut].count(b"\n")
    torn = PolicyMemory(path)
    assert len(torn.actions) + len(torn.skipped) == num_lines
    torn.add_skipped(99)
    assert 99 in PolicyMemory(path).skipped
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_damaged_line_in_the_middle_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "memory.jsonl"
    path.write_text('{"what": "skip", "batch": 1}\n{"what": "sk\n{"what": "skip", "batch": 2}\n')
    with caplog.at_level(logging.WARNING):
        assert PolicyMemory(path).skipped == {1, 2}
    assert "line 2 cannot be read" in caplog.text


def test_a_new_incident_counts_its_skipped_batches_anew(tmp_path: Path) -> None:
    memory = PolicyMemory(tmp_path / "memory.jsonl")
    memory.add_skipped(1)
    memory.add_skipped(1)  # the same one again is no new one
    assert memory.num_skipped_in_incident == 1
    memory.add_action(ROLLBACK)
    assert memory.num_skipped_in_incident == 0
    assert memory.skipped == {1}


def test_a_full_disk_ends_nothing_and_spoils_no_line(
    tmp_path: Path, no_file_above: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "memory.jsonl"
    memory = PolicyMemory(path)
    memory.add_skipped(300)
    before = path.read_bytes()
    with no_file_above(len(before) + 5):
        memory.add_action(ROLLBACK)
    assert "cannot be written (File too large)" in memory.fault
    # known here, and nothing half written
    assert memory.actions == [ROLLBACK]
    assert path.read_bytes() == before
    memory.add_skipped(301)
    assert memory.fault == ""
    assert PolicyMemory(path).skipped == {300, 301}
