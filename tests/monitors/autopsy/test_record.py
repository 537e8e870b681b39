"""A record is there whole or not at all, comes back bit for bit, and holds no code."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moescope.monitors.autopsy.record import (
    ARRAYS,
    WORDS,
    Entry,
    FlightRecord,
    branch_of,
    read_record,
    write_record,
)
from moescope.monitors.autopsy.recorder import FlightRecorder
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert

MakeEntry = Callable[..., Entry]


def test_a_record_comes_back_bit_for_bit(spike: FlightRecord, tmp_path: Path) -> None:
    # a step without some signals, and one of another shape
    odd = replace(spike.entries[-1], step=105, values={"loss/total": np.float32(np.nan)})
    record = replace(spike, entries=(*spike.entries, odd))
    num_bytes = write_record(tmp_path / "record", record)
    back = read_record(tmp_path / "record")
    assert back.alert == record.alert
    for want, got in zip(record.entries, back.entries, strict=True):
        assert (want.step, want.batch, want.names) == (got.step, got.batch, got.names)
        assert want.values.keys() == got.values.keys()
        for name in want.values:
            np.testing.assert_array_equal(want.values[name], got.values[name])
    assert num_bytes == sum(f.stat().st_size for f in (tmp_path / "record").iterdir())


def test_the_arrays_load_without_pickle(spike: FlightRecord, tmp_path: Path) -> None:
    write_record(tmp_path / "record", spike)
    with np.load(tmp_path / "record" / ARRAYS, allow_pickle=False) as arrays:
        assert all(arrays[key].dtype != object for key in arrays)
    assert json.loads((tmp_path / "record" / WORDS).read_text())["format"] == 1


def test_a_write_that_fails_leaves_nothing_behind(
    spike: FlightRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        write_record(tmp_path / "record", spike)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", [ARRAYS, WORDS])
def test_a_damaged_record_is_told_on_one_line(
    spike: FlightRecord, tmp_path: Path, file: str
) -> None:
    folder = tmp_path / "record"
    write_record(folder, spike)
    (folder / file).write_bytes((folder / file).read_bytes()[:-7])
    with pytest.raises(MoescopeError) as told:
        read_record(folder)
    assert "\n" not in str(told.value)


def test_a_record_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(MoescopeError, match="there is no flight record"):
        read_record(tmp_path / "none")


def test_of_steps_that_were_trained_twice_the_branch_has_the_last(entry: MakeEntry) -> None:
    first = [entry(step) for step in range(10)]
    second = [replace(entry(step), segment=1) for step in range(6, 9)]
    branch = branch_of([*first, *second])
    assert [e.step for e in branch] == list(range(9))
    assert [e.segment for e in branch] == [0] * 6 + [1] * 3


class TestTheRecorder:
    def test_the_oldest_step_makes_room(
        self, entry: MakeEntry, alert: Callable[..., Alert]
    ) -> None:
        recorder = FlightRecorder(5, 2**30)
        for step in range(8):
            recorder.note(entry(step))
        assert [e.step for e in recorder.record(alert()).entries] == [3, 4, 5, 6, 7]

    def test_it_keeps_to_its_bytes(self, entry: MakeEntry) -> None:
        each = entry(0).num_bytes
        recorder = FlightRecorder(1000, 3 * each + each // 2)
        for step in range(50):
            recorder.note(entry(step))
            assert recorder.num_bytes <= 3.5 * each
        assert len(recorder) == 3

    def test_switched_off_it_keeps_nothing_and_says_so(self, entry: MakeEntry) -> None:
        recorder = FlightRecorder(0, 2**30)
        recorder.note(entry(0))
        assert len(recorder) == 0
        assert "off" in recorder.told()
