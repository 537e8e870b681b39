"""FanOut: whatever a sink does, the training thread goes on, and nothing lossless is lost."""

import os
import signal
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from moescope.platform import catalogue
from moescope.platform.catalogue import CATALOGUE, EXPERT_TOKENS, LOSS_TOTAL
from moescope.platform.journal import NOWHERE, Journal, JournalReader, Position
from moescope.platform.record_codec import decode
from moescope.platform.records import Alert, Event, Frame
from moescope.platform.sink_thread import RecordRefused
from moescope.platform.sinks import FanOut, Record

SCALARS = [name for name, spec in CATALOGUE.items() if spec.is_scalar]


class Memory:
    """A sink that keeps what it is given, after doing whatever the test wants."""

    def __init__(self, name: str = "memory", before: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.before = before
        self.records: list[Record] = []
        self.is_closed = False

    def write(self, records: Sequence[Record]) -> None:
        self.before()
        self.records += records

    def close(self) -> None:
        self.is_closed = True

    def steps(self) -> list[int]:
        return [record.step for record in self.records if isinstance(record, Frame)]


def frame(step: int, num_experts: int = 48) -> Frame:
    values = {name: np.full((), step, np.float32) for name in SCALARS}
    values[EXPERT_TOKENS] = np.full((6, num_experts), step, np.float32)
    return Frame("run", 0, step, float(step), values)


def alert(step: int) -> Alert:
    key = f"run/spike/{step}"
    return Alert(key, "run", 0, "spike", "critical", step, step, 5.0, 4.0, "up", 1.0, key)


def journaled(folder: Path) -> list[Record]:
    far = Position(10**9, 0)
    entries, _ = JournalReader(folder, NOWHERE).read(10**9, far)
    return [decode(entry.payload) for entry in entries]


def test_every_sink_gets_every_record_in_order(tmp_path: Path) -> None:
    one, two = Memory("one"), Memory("two")
    fan_out = FanOut(tmp_path, [one, two])
    for step in range(200):
        fan_out.record(frame(step))
    fan_out.say(alert(200))
    assert fan_out.flush(10)
    fan_out.close()
    for sink in (one, two):
        assert sink.steps() == list(range(200))
        assert sink.records[-1] == alert(200)
        assert sink.is_closed
    assert list(tmp_path.glob("*.journal")) == []


def test_what_is_recorded_is_a_copy(tmp_path: Path) -> None:
    sink = Memory()
    fan_out = FanOut(tmp_path, [sink])
    values = {EXPERT_TOKENS: np.ones((2, 3), np.float32)}
    fan_out.record(Frame("run", 0, 0, 0.0, values))
    values[EXPERT_TOKENS][:] = 7
    fan_out.close()
    assert isinstance(sink.records[0], Frame)
    assert sink.records[0].values[EXPERT_TOKENS].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_failing_sink_is_tried_again_and_costs_the_others_nothing(tmp_path: Path) -> None:
    is_broken = threading.Event()
    is_broken.set()

    def fail() -> None:
        if is_broken.is_set():
            raise OSError("no such host")

    broken, well = Memory("broken", fail), Memory("well")
    fan_out = FanOut(tmp_path, [broken, well])
    for step in range(100):
        fan_out.record(frame(step))
    wait_until(lambda: len(well.steps()) == 100)
    status = {sink.name: sink for sink in fan_out.status().sinks}
    assert status["broken"].state == "fails"
    assert status["broken"].last_error == "OSError: no such host"
    assert status["broken"].backlog_bytes > 0
    assert status["well"].state == "keeps up"
    assert not fan_out.flush(0.2)
    is_broken.clear()
    assert fan_out.flush(10)
    assert broken.steps() == list(range(100))
    assert fan_out.status().lag_s == 0
    fan_out.close()


def test_a_sink_that_hangs_lets_the_run_end_in_time_and_the_next_process_catches_up(
    tmp_path: Path,
) -> None:
    let_go = threading.Event()
    fan_out = FanOut(tmp_path, [Memory("sql", lambda: wait_for(let_go))])
    for step in range(50):
        fan_out.record(frame(step))
    start_s = time.monotonic()
    fan_out.close(timeout_s=0.5)
    assert time.monotonic() - start_s < 2
    sink = Memory("sql")
    again = FanOut(tmp_path, [sink])
    again.record(frame(50))
    assert again.flush(10)
    again.close()
    let_go.set()
    assert sink.steps() == list(range(51))


def test_a_new_process_sends_only_what_was_not_taken(tmp_path: Path) -> None:
    first = Memory("sql")
    fan_out = FanOut(tmp_path, [first])
    fan_out.record(frame(0))
    assert fan_out.flush(10)
    fan_out.close()
    second = Memory("sql")
    fan_out = FanOut(tmp_path, [second])
    fan_out.record(frame(1))
    fan_out.close()
    assert (first.steps(), second.steps()) == ([0], [1])


def test_a_record_that_a_sink_refuses_is_set_aside_and_the_rest_goes_through(
    tmp_path: Path,
) -> None:
    class Choosy(Memory):
        def write(self, records: Sequence[Record]) -> None:
            if any(isinstance(r, Frame) and r.step == 7 for r in records):
                raise RecordRefused("not step 7")
            super().write(records)

    sink = Choosy("sql")
    fan_out = FanOut(tmp_path, [sink])
    for step in range(20):
        fan_out.record(frame(step))
    assert fan_out.flush(10)
    assert sink.steps() == [step for step in range(20) if step != 7]
    assert fan_out.status().sinks[0].num_refused == 1
    assert fan_out.status().values()[catalogue.SINK_REFUSED] == 1
    fan_out.close()
    assert "not step 7" in (tmp_path / "refused-by-sql.jsonl").read_text()


def test_over_quota_only_vectors_are_left_out_and_each_is_counted(tmp_path: Path) -> None:
    is_broken = threading.Event()
    is_broken.set()

    def fail() -> None:
        if is_broken.is_set():
            raise OSError("away")

    sink = Memory("sql", fail)
    fan_out = FanOut(tmp_path, [sink], quota_bytes=200_000)
    for step in range(400):
        fan_out.record(frame(step))
        if step % 40 == 39:
            time.sleep(0.25)
    is_broken.clear()
    assert fan_out.flush(20)
    status = fan_out.status()
    fan_out.close()
    frames = [record for record in sink.records if isinstance(record, Frame)]
    assert [f.step for f in frames] == list(range(400))
    assert all(set(SCALARS) <= set(f.values) for f in frames)
    num_without = sum(EXPERT_TOKENS not in f.values for f in frames)
    assert num_without > 50
    assert status.coalesced == num_without
    assert status.values()[catalogue.SINK_COALESCED] == num_without
    # the count belongs to the run, not to the process
    again = FanOut(tmp_path, [Memory("sql")])
    assert again.status().coalesced == num_without
    again.close()


def test_memory_is_bounded_while_the_disk_takes_nothing(tmp_path: Path) -> None:
    sink = Memory("sql")
    fan_out = FanOut(tmp_path, [sink], queue_bytes=300_000)
    fan_out._journal_lock.acquire()  # a disk that hangs holds the writer here
    for step in range(3000):
        fan_out.record(frame(step))
    status = fan_out.status()
    fan_out._journal_lock.release()
    assert status.coalesced > 0
    assert status.lost > 0
    assert fan_out.flush(10)
    fan_out.close()
    assert len(sink.steps()) == 3000 - status.lost
    assert sink.steps() == list(range(3000 - status.lost))
    assert status.values()[catalogue.SINK_LOST] == status.lost
    # the count belongs to the run, not to the process
    again = FanOut(tmp_path, [Memory("sql")])
    assert again.status().lost == status.lost
    again.close()


def test_a_name_that_the_catalogue_lacks_or_a_value_that_is_no_number_ends_nothing(
    tmp_path: Path,
) -> None:
    sink = Memory("sql")
    fan_out = FanOut(tmp_path, [sink])
    values = {
        "loss/unheard_of": np.ones((), np.float32),
        LOSS_TOTAL: np.ones((), np.float32),
        catalogue.GRAD_NORM: "much",
        "user/mine": np.ones((), np.float32),
    }
    fan_out.record(Frame("run", 0, 0, 0.0, values))  # type: ignore[arg-type]
    fan_out.close()
    assert isinstance(sink.records[0], Frame)
    assert sorted(sink.records[0].values) == [LOSS_TOTAL, "user/mine"]


def test_two_sinks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names of their own"):
        FanOut(tmp_path, [Memory("sql"), Memory("sql")])


def test_recording_takes_microseconds_while_sinks_fail_hang_and_are_slow(tmp_path: Path) -> None:
    let_go = threading.Event()

    def fail() -> None:
        raise OSError("away")

    sinks = [
        Memory("fails", fail),
        Memory("hangs", lambda: wait_for(let_go)),
        Memory("slow", lambda: time.sleep(0.3)),
    ]
    fan_out = FanOut(tmp_path, sinks)
    taken_s = []
    for step in range(2000):
        made = frame(step)
        start_s = time.perf_counter()
        fan_out.record(made)
        taken_s.append(time.perf_counter() - start_s)
        time.sleep(0.0005)
    fan_out.close(timeout_s=0.2)
    let_go.set()
    # 20 us and 0.1 ms on a quiet core; bounds for a shared one
    assert statistics.median(taken_s) < 200e-6
    assert statistics.quantiles(taken_s, n=100)[98] < 1e-3


CHILD = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from moescope.platform.records import Alert, Frame
    from moescope.platform.sinks import FanOut

    class Dead:
        name = "sql"
        def write(self, records):
            raise OSError("away")
        def close(self):
            pass

    fan_out = FanOut(Path(sys.argv[1]), [Dead()])
    step = 0
    while True:
        step += 1
        now_s = time.time()
        loss = {"loss/total": np.full((), step, np.float32)}
        fan_out.record(Frame("run", 0, step, now_s, loss))
        if step % 100 == 0:
            words = (step, step, 5.0, 4.0, "up", now_s, f"key {step}")
            fan_out.say(Alert(f"alert {step}", "run", 0, "spike", "critical", *words))
            print("said", step, flush=True)
        print(step, now_s, flush=True)
        time.sleep(0.001)
"""


def test_kill_9_costs_half_a_second_of_samples_at_most_and_no_alert(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "journal")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    lines: list[str] = []
    for line in child.stdout:
        lines.append(line)
        if line.startswith("said 400"):
            # in the middle of a flush interval, not just after an fsync
            time.sleep(0.13)
            os.kill(child.pid, signal.SIGKILL)
            break
    lines += child.stdout.read().splitlines(keepends=True)
    child.stdout.close()
    child.wait()
    whole = [line.split() for line in lines if line.endswith("\n")]
    said = [int(step) for word, step in whole if word == "said"]
    recorded = {int(step): float(time_s) for step, time_s in whole if step != "said"}
    Journal(tmp_path / "journal").close()
    found = journaled(tmp_path / "journal")
    steps = [record.step for record in found if isinstance(record, Frame)]
    assert steps == list(range(1, len(steps) + 1))
    alerts = [record.fired_step for record in found if isinstance(record, Alert)]
    assert alerts[: len(said)] == said
    assert len(said) >= 4
    lost_s = [time_s for step, time_s in recorded.items() if step > len(steps)]
    assert not lost_s or max(lost_s) - min(lost_s) <= 0.5


def test_what_could_not_be_brought_to_the_disk_is_written_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an fsync that failed, a second one of the same file would claim success."""
    sink = Memory("sql", lambda: wait_for(is_well))
    is_well = threading.Event()
    fan_out = FanOut(tmp_path, [sink])
    real, failed = os.fsync, []

    def fsync(handle: int) -> None:
        if not failed:
            failed.append(os.readlink(f"/proc/self/fd/{handle}"))
            raise OSError(5, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    fan_out.record(frame(1))
    fan_out.say(alert(1))
    assert "Input/output error" in fan_out.status().journal_error
    wait_until(lambda: not fan_out.status().journal_error)
    later = [path for path in tmp_path.glob("*.journal") if str(path) > failed[0]]
    assert any(b"spike/1" in path.read_bytes() for path in later)
    is_well.set()
    assert fan_out.flush(10)
    fan_out.close()
    assert sink.steps() == [1]
    assert {record.id for record in sink.records if isinstance(record, Alert)} == {alert(1).id}


def test_one_who_waits_for_a_slow_disk_holds_up_neither_samples_nor_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_slow, is_in = threading.Event(), threading.Event()

    def fsync(handle: int) -> None:
        is_in.set()
        wait_for(is_slow)

    monkeypatch.setattr(os, "fsync", fsync)
    sink = Memory("sql")
    fan_out = FanOut(tmp_path, [sink])
    one = threading.Thread(target=fan_out.say, args=(alert(0),))
    one.start()
    wait_for(is_in)
    fan_out.record(frame(1))
    wait_until(lambda: sink.steps() == [1])
    assert one.is_alive()
    is_slow.set()
    one.join()
    fan_out.close()


def test_a_clock_that_is_set_makes_no_lag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    fan_out = FanOut(tmp_path, [Memory("sql", lambda: wait_for(let_go))])
    fan_out.record(frame(1))
    wait_until(lambda: fan_out.status().lag_s > 0)
    real = time.time
    for shift_s in (-3600.0, 86400.0):
        monkeypatch.setattr(time, "time", lambda shift_s=shift_s: real() + shift_s)
        fan_out.record(frame(2))
        assert 0.0 < fan_out.status().lag_s < 30.0
    let_go.set()
    fan_out.close()


def test_nothing_is_taken_after_the_end(tmp_path: Path) -> None:
    sink = Memory("sql")
    fan_out = FanOut(tmp_path, [sink])
    fan_out.close()
    fan_out.record(frame(0))
    fan_out.say(Event("run", 0, 0, 0.0, "note", "late"))
    fan_out.close()
    assert sink.records == []


def wait_for(event: threading.Event) -> None:
    event.wait()


def wait_until(is_true: Callable[[], bool], most_s: float = 10.0) -> None:
    until_s = time.monotonic() + most_s
    while not is_true():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.01)
