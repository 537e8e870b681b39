"""Who writes a run's frames: its trainer, or the service where more than two runs share an embedded
store.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from moescope.platform import leases
from moescope.platform.handover import (
    LEASE_S,
    MOST_WRITERS,
    Offer,
    ingest_lease,
    read_ingested,
    read_offer,
    write_ingested,
    write_offer,
)
from moescope.platform.ingest import LIVING_S, Ingest
from moescope.platform.journal import Position, marks
from moescope.platform.record_codec import encode, is_frame
from moescope.platform.records import Alert, Event, Frame, Run, Segment
from moescope.platform.series import read_series
from moescope.platform.sinks import FanOut, Record
from moescope.platform.sql_sink import SqlSink
from moescope.platform.store import Store, open_store

LOSS, LOAD = "loss/total", "router/expert_load"


class Counting(SqlSink):
    """Counts the frames that this process writes by itself."""

    num_frames = 0

    def write(self, records: Sequence[Record]) -> None:
        super().write(records)
        self.num_frames += sum(isinstance(record, Frame) for record in records)


def a_run(home: Path, name: str, heartbeat_s: float | None = None, status: str = "running") -> Run:
    folder = home / "runs" / name
    (folder / "journal").mkdir(parents=True)
    beat_s = time.time() if heartbeat_s is None else heartbeat_s
    return Run(name, name, "p", {}, status, "cpu", "0", 1.0, beat_s, folder=str(folder))  # type: ignore[arg-type]


def frame(run: str, step: int) -> Frame:
    load = np.full((2, 4), step, np.float32)
    return Frame(run, 0, step, 1.0, {LOSS: np.full((), step, np.float32), LOAD: load})


def until(holds: Callable[[], bool], timeout_s: float = 15.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_s, "it never came true"
        time.sleep(0.02)


def ticked_until(service: Ingest, holds: Callable[[], bool]) -> None:
    """Has the service look again and again, as it does."""

    def tick() -> bool:
        service.tick()
        return holds()

    until(tick)


def held(store: Store) -> list[str]:
    names = [
        run.id for run in store.runs() if leases.holder(store, ingest_lease(run.id), time.time())
    ]
    return sorted(names)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Store]:
    """An embedded store with as many living runs as may write by themselves: `a` and `b`."""
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        for name in ("a", "b"):
            store.add_run(a_run(tmp_path, name))
        yield store


def test_two_living_runs_write_by_themselves_and_three_are_relieved(
    shared: Store, tmp_path: Path
) -> None:
    service = Ingest(shared, "service")
    service.tick()
    assert MOST_WRITERS == 2
    assert held(shared) == []
    shared.add_run(a_run(tmp_path, "c"))
    service.tick()
    assert held(shared) == ["a", "b", "c"]
    shared.update_run("c", status="finished")
    service.tick()
    assert held(shared) == []


def test_runs_that_are_silent_or_elsewhere_are_not_relieved(shared: Store, tmp_path: Path) -> None:
    shared.add_run(a_run(tmp_path, "silent", time.time() - LIVING_S - 1))
    shared.add_run(a_run(tmp_path, "over", status="finished"))
    service = Ingest(shared, "service")
    service.tick()
    assert held(shared) == []
    far = Run("far", "far", "p", {}, "running", "cpu", "0", 1.0, time.time(), folder="/no/such")
    shared.add_run(far)
    service.tick()
    # it counts as a writer, but nobody else can read its journal
    assert held(shared) == ["a", "b"]


@pytest.mark.postgres
def test_a_shared_server_takes_many_writers(postgres_url: str, tmp_path: Path) -> None:
    with open_store(postgres_url) as store:
        for name in "abcd":
            store.add_run(a_run(tmp_path, name))
        Ingest(store, "service").tick()
        assert held(store) == []


def test_a_service_that_ends_gives_all_back_at_once(shared: Store, tmp_path: Path) -> None:
    shared.add_run(a_run(tmp_path, "c"))
    service = Ingest(shared, "service")
    service.tick()
    other = Ingest(shared, "another service")
    other.tick()
    assert leases.holder(shared, ingest_lease("a"), time.time()) == "service"
    service.let_go()
    assert held(shared) == []


@pytest.fixture
def trainer(shared: Store, tmp_path: Path) -> Iterator[tuple[FanOut, Counting]]:
    """The sinks of run `a`, where a third run lives."""
    shared.add_run(a_run(tmp_path, "c"))
    sink = Counting(shared.url, shared.find_run("a"))
    with ExitStack() as stack:
        fan_out = FanOut(tmp_path / "runs" / "a" / "journal", [sink])
        stack.callback(fan_out.close)
        fan_out.say(Segment("a", 0, 0, "start", 1.0))
        yield fan_out, sink


def steps_of(store: Store, run: str = "a") -> list[int]:
    series = read_series(store, run, LOSS)
    np.testing.assert_array_equal(series.values, series.steps)
    return series.steps.tolist()


def test_a_relieved_trainer_writes_no_frame_but_its_alerts_at_once(
    shared: Store, tmp_path: Path, trainer: tuple[FanOut, Counting]
) -> None:
    fan_out, sink = trainer
    journal = tmp_path / "runs" / "a" / "journal"
    service = Ingest(shared, "service")
    service.tick()
    until(lambda: read_offer(journal) is not None)
    for step in range(100):
        fan_out.record(frame("a", step))
    alert = Alert("x", "a", 0, "s", "critical", 1, 2, 1.0, 1.0, "up", 1.0, "x")
    fan_out.say(alert)
    fan_out.say(Event("a", 0, 99, 1.0, "note", "written by its trainer"))
    until(lambda: shared.alerts("a") == [alert] and len(shared.events("a")) == 1)
    assert (sink.num_frames, steps_of(shared)) == (0, [])
    # nothing is forgotten that is in no store yet, and the backlog is told
    assert fan_out.status().sinks[0].backlog_bytes > 0
    ticked_until(service, lambda: steps_of(shared) == list(range(100)))
    until(lambda: fan_out.status().sinks[0].backlog_bytes == 0)
    assert fan_out.status().lag_s == 0
    assert sink.num_frames == 0


def test_a_trainer_goes_on_by_itself_when_the_service_is_gone(
    shared: Store, tmp_path: Path, trainer: tuple[FanOut, Counting]
) -> None:
    fan_out, sink = trainer
    journal = tmp_path / "runs" / "a" / "journal"
    service = Ingest(shared, "service")
    service.tick()
    until(lambda: read_offer(journal) is not None)
    for step in range(50):
        fan_out.record(frame("a", step))
    ticked_until(service, lambda: len(steps_of(shared)) == 50)
    for step in range(50, 80):
        fan_out.record(frame("a", step))
    # the service dies here: its leases run out
    start_s = time.monotonic()
    until(lambda: len(steps_of(shared)) == 80, timeout_s=60)
    assert time.monotonic() - start_s < LEASE_S + 10
    assert sink.num_frames in range(30, 81)
    assert fan_out.status().sinks[0].num_refused == 0


def test_closing_waits_for_no_service(
    shared: Store, tmp_path: Path, trainer: tuple[FanOut, Counting]
) -> None:
    fan_out, sink = trainer
    Ingest(shared, "service").tick()
    until(lambda: read_offer(tmp_path / "runs" / "a" / "journal") is not None)
    for step in range(40):
        fan_out.record(frame("a", step))
    fan_out.close(timeout_s=10)
    assert steps_of(shared) == list(range(40))
    assert sink.num_frames == 40


def test_frames_that_both_have_written_are_there_once(
    shared: Store, tmp_path: Path, trainer: tuple[FanOut, Counting]
) -> None:
    fan_out, _ = trainer
    journal = tmp_path / "runs" / "a" / "journal"
    service = Ingest(shared, "service")
    service.tick()
    until(lambda: read_offer(journal) is not None)
    for step in range(60):
        fan_out.record(frame("a", step))
    offer = read_offer(journal)
    assert offer is not None
    ticked_until(service, lambda: len(steps_of(shared)) == 60)
    # as after a crash of the service between writing and noting how far it is
    write_ingested(journal, offer.by, offer.start)
    again = Ingest(shared, "service")
    ticked_until(again, lambda: read_ingested(journal, offer.by) != offer.start)
    assert steps_of(shared) == list(range(60))


def test_what_only_its_trainer_can_set_aside_is_left_to_it(
    shared: Store, tmp_path: Path, trainer: tuple[FanOut, Counting]
) -> None:
    fan_out, sink = trainer
    journal = tmp_path / "runs" / "a" / "journal"
    service = Ingest(shared, "service")
    service.tick()
    until(lambda: read_offer(journal) is not None)
    fan_out.record(frame("a", 0))
    fan_out.record(Frame("a", 0, 1, 1.0, {LOSS: np.ones((3, 3), np.float32)}))
    fan_out.record(frame("a", 2))
    ticked_until(service, lambda: held(shared) == ["b", "c"])
    service.tick()
    assert held(shared) == ["b", "c"]
    until(lambda: fan_out.status().sinks[0].num_refused == 1, timeout_s=30)
    until(lambda: steps_of(shared) == [0, 2])
    assert sink.num_frames == 2


def test_a_file_of_another_process_or_none_is_not_believed(tmp_path: Path) -> None:
    assert read_offer(tmp_path) is None
    assert read_ingested(tmp_path, "me") is None
    write_ingested(tmp_path, "an earlier process", Position(7, 0))
    assert read_ingested(tmp_path, "me") is None
    write_ingested(tmp_path, "me", Position(3, 4))
    assert read_ingested(tmp_path, "me") == Position(3, 4)
    offer = Offer("me", Position(1, 2), Position(3, 4))
    write_offer(tmp_path, offer)
    assert read_offer(tmp_path) == offer
    for text in ("", "{", "[]", '{"by": "me"}', '{"by": "me", "start": [1], "end": [1, 2]}'):
        (tmp_path / "offer.json").write_text(text)
        (tmp_path / "ingested.json").write_text(text)
        assert read_offer(tmp_path) is None
        assert read_ingested(tmp_path, "me") is None
    # they are no sink's place
    assert marks(tmp_path) == {}


def test_a_frame_is_known_by_its_beginning() -> None:
    assert is_frame(encode(frame("a", 1)))
    assert not is_frame(encode(Event("a", 0, 1, 1.0, "note", '{"record": "frame"')))
    assert not is_frame(b"")
