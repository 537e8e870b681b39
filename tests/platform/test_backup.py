"""Backups: one consistent state, taken while others write."""

import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from moescope.platform import backup as backup_module
from moescope.platform.backup import backup_store
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Event, Frame, Run
from moescope.platform.series import read_series
from moescope.platform.store import open_store
from moescope.platform.tables import metadata

RUN = Run("r1", "run", "p", {}, "running", "cpu", "0", 0.0, 0.0)


def frames(first: int, last: int) -> list[Frame]:
    load = np.ones((4, 64), np.float32)
    values = {"loss/total": np.float32(1), "router/expert_load": load}
    return [Frame("r1", 0, step, 0.0, values) for step in range(first, last)]


def test_a_backup_taken_amid_writing_is_a_whole_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    stop = threading.Event()
    with open_store(url) as store:
        store.add_run(RUN)
        store.write_frames(frames(0, 500))

        def write() -> None:
            step = 500
            while not stop.is_set():
                store.write_frames(frames(step, step + 1))
                # the event tells that the step before it was written
                store.add_event(Event("r1", 0, step, 1.0, "note", "written"))
                step += 1

        writer = threading.Thread(target=write)
        writer.start()
        copies = [tmp_path / f"copy{i}.db" for i in range(3)]
        try:
            for copy in copies:
                backup_store(url, copy)
        finally:
            stop.set()
            writer.join()
    for copy in copies:
        with open_store(f"sqlite:///{copy}") as restored:
            steps = read_series(restored, "r1", "loss/total").steps
            assert steps.tolist() == list(range(len(steps)))
            noted = restored.events("r1")
            assert len(steps) - len(noted) in (500, 501)


def test_a_backup_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    open_store(url).close()
    (tmp_path / "there").write_text("precious")
    with pytest.raises(MoescopeError, match="exists already"):
        backup_store(url, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "precious"
    with pytest.raises(MoescopeError, match="its folder does not exist"):
        backup_store(url, tmp_path / "no" / "copy")
    with pytest.raises(MoescopeError, match="is empty: there is nothing to back up"):
        backup_store(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "copy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store.db", "store.db.lock", "there"]


@pytest.mark.postgres
def test_a_backup_of_postgres_is_what_pg_restore_reads(postgres_url: str, tmp_path: Path) -> None:
    if shutil.which("pg_dump") is None or shutil.which("pg_restore") is None:
        pytest.skip("PostgreSQL's client programs are not installed")
    with open_store(postgres_url) as store:
        store.add_run(RUN)
        store.write_frames(frames(0, 3))
    to = tmp_path / "store.dump"
    backup_store(postgres_url, to)
    listed = subprocess.run(
        ["pg_restore", "--list", str(to)], capture_output=True, text=True, check=True
    )
    for name in metadata.tables:
        assert "TABLE DATA test_" in listed.stdout
        assert f" {name} " in listed.stdout


@pytest.mark.postgres
def test_without_pg_dump_a_backup_says_what_is_missing(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(postgres_url).close()
    monkeypatch.setattr(backup_module.shutil, "which", lambda _: None)
    with pytest.raises(MoescopeError, match="install PostgreSQL's client programs"):
        backup_store(postgres_url, tmp_path / "store.dump")
    assert list(tmp_path.iterdir()) == []
