"""The journal: what is whole is read, what is torn is cut, what is damaged is stepped over."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.platform.errors import MoescopeError
from moescope.platform.journal import (
    NOWHERE,
    Journal,
    JournalReader,
    Position,
    depths,
    left_waiting,
    marks,
    pack_entry,
    waiting_bytes,
)

EVERYTHING = 10**6


def write(folder: Path, payloads: list[bytes], rotate_bytes: int = 2**20) -> Position:
    journal = Journal(folder, rotate_bytes=rotate_bytes)
    for payload in payloads:
        journal.append([pack_entry(payload, 1.0)])
    end = journal.end
    journal.close()
    return end


def read(folder: Path, end: Position, position: Position = NOWHERE) -> list[bytes]:
    entries, _ = JournalReader(folder, position).read(EVERYTHING, end)
    return [entry.payload for entry in entries]


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond it: the system refuses as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@given(st.lists(st.binary(max_size=300), max_size=12), st.integers(40, 400))
def test_what_is_appended_is_read_back_over_any_number_of_files(
    payloads: list[bytes], rotate_bytes: int
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        end = write(Path(folder), payloads, rotate_bytes)
        assert read(Path(folder), end) == payloads
        assert waiting_bytes(Path(folder), end, end) == 0


def test_a_file_torn_at_any_byte_gives_its_whole_entries_and_can_be_appended_to(
    tmp_path: Path,
) -> None:
    payloads = [b"first", b"second", b"third"]
    write(tmp_path / "whole", payloads)
    whole = (tmp_path / "whole" / "00000001.journal").read_bytes()
    boundaries = [0]
    for payload in payloads:
        boundaries.append(boundaries[-1] + len(pack_entry(payload, 1.0)))
    for cut in range(len(whole) + 1):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "00000001.journal").write_bytes(whole[:cut])
        end = write(folder, [b"after"])
        num_whole = sum(boundary <= cut for boundary in boundaries) - 1
        assert read(folder, end) == [*payloads[:num_whole], b"after"]


def test_damage_in_the_middle_is_stepped_over_and_counted(tmp_path: Path) -> None:
    end = write(tmp_path, [b"first", b"second" * 20, b"third"])
    path = tmp_path / "00000001.journal"
    spoiled = bytearray(path.read_bytes())
    spoiled[len(pack_entry(b"first", 1.0)) + 40] ^= 0xFF
    path.write_bytes(bytes(spoiled))
    reader = JournalReader(tmp_path, NOWHERE)
    entries, after = reader.read(EVERYTHING, end)
    assert [entry.payload for entry in entries] == [b"first", b"third"]
    assert len(reader.damaged) == 1
    assert after == end


def test_a_reader_goes_on_from_where_it_was(tmp_path: Path) -> None:
    end = write(tmp_path, [b"a", b"b", b"c"], rotate_bytes=40)
    reader = JournalReader(tmp_path, NOWHERE)
    seen = []
    while reader.position < end:
        entries, reader.position = reader.read(1, end)
        seen += [entry.payload for entry in entries]
    assert seen == [b"a", b"b", b"c"]


def test_only_files_that_lie_wholly_before_are_deleted(tmp_path: Path) -> None:
    end = write(tmp_path, [b"a" * 50, b"b" * 50, b"c" * 50], rotate_bytes=40)
    journal = Journal(tmp_path)
    second = sorted(tmp_path.glob("*.journal"))[1]
    journal.forget_before(Position(int(second.stem), 10))
    assert read(tmp_path, end) == [b"b" * 50, b"c" * 50]
    journal.close(journal.end)
    assert list(tmp_path.glob("*.journal")) == []


def test_numbers_never_go_back_after_everything_was_deleted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([pack_entry(b"a", 1.0)])
    journal.acknowledge("sql", journal.end)
    taken = journal.end
    journal.close(taken)
    again = Journal(tmp_path)
    assert again.end > taken
    again.append([pack_entry(b"b", 1.0)])
    assert read(tmp_path, again.end, again.acknowledged("sql")) == [b"b"]
    again.close()


def test_a_full_disk_leaves_no_half_entry_and_the_next_try_goes_through(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    small, large = pack_entry(b"small", 1.0), pack_entry(b"L" * 5000, 1.0)
    with largest_file(1000):
        journal.append([small])
        with pytest.raises(OSError, match="too large"):
            journal.append([large])
    assert read(tmp_path, journal.end) == [b"small"]
    journal.append([large])
    journal.sync_later()()
    assert read(tmp_path, journal.end) == [b"small", b"L" * 5000]
    journal.close()


def test_what_is_brought_to_the_disk_later_may_be_appended_to_and_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def noted(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, "fsync", noted)
    journal = Journal(tmp_path)
    journal.append([pack_entry(b"a", 1.0)])
    file, folder = next(tmp_path.glob("*.journal")).stat().st_ino, tmp_path.stat().st_ino
    bring, bring_again = journal.sync_later(), journal.sync_later()
    journal.append([pack_entry(b"b", 1.0)])
    journal.start_anew()
    journal.append([pack_entry(b"c", 1.0)])
    journal.forget_before(journal.end)
    bring()
    # a content without a name is lost in a power cut, so the first one brings the name as well
    assert synced == [file, folder]
    bring_again()
    assert synced == [file, folder, file]
    journal.sync_later()()
    assert synced[-1] == folder
    assert read(tmp_path, journal.end) == [b"c"]
    journal.close()


def test_a_journal_has_one_writer_until_that_one_ends(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    with pytest.raises(MoescopeError, match="still alive"):
        Journal(tmp_path)
    first.close()
    second = Journal(tmp_path)
    assert second.end >= first.end
    second.close()


def test_an_unreadable_mark_costs_a_replay_only(tmp_path: Path) -> None:
    end = write(tmp_path, [b"a"])
    (tmp_path / "taken-by-sql.json").write_text("{torn")
    assert marks(tmp_path) == {"sql": NOWHERE}
    assert read(tmp_path, end, marks(tmp_path)["sql"]) == [b"a"]


def test_what_a_sink_has_not_taken_is_known_afterwards(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert depths(tmp_path) == {}
    journal.append([pack_entry(b"a", 1.0)])
    journal.acknowledge("sql", journal.end)
    journal.acknowledge("mlflow", NOWHERE)
    journal.close()
    assert left_waiting(tmp_path) == ["mlflow"]
    assert depths(tmp_path) == {"sql": 0, "mlflow": len(pack_entry(b"a", 1.0))}


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MoescopeError, match="cannot be written") as caught:
        Journal(tmp_path / "file" / "journal")
    assert "\n" not in str(caught.value)
