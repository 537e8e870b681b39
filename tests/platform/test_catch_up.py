"""What a run left in its journal is brought in after it has ended."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moescope.platform.catalogue import LOSS_TOTAL
from moescope.platform.catch_up import catch_up, journals_left_behind
from moescope.platform.records import Frame, Run
from moescope.platform.series import read_series
from moescope.platform.service_ticks import ServiceTicks
from moescope.platform.settings import Settings
from moescope.platform.sinks import FanOut, Record, Sink
from moescope.platform.store import open_store


class Away:
    """A sink whose place is away."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, records: Sequence[Record]) -> None:
        raise OSError("away")

    def close(self) -> None:
        pass


class Memory(Away):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.steps: list[int] = []

    def write(self, records: Sequence[Record]) -> None:
        self.steps += [record.step for record in records if isinstance(record, Frame)]


def leave_behind(folder: Path, sinks: Sequence[Sink], run_id: str = "r1") -> FanOut:
    fan_out = FanOut(folder, sinks)
    for step in range(20):
        fan_out.record(Frame(run_id, 0, step, 1.0, {LOSS_TOTAL: np.full((), step, np.float32)}))
    return fan_out


def test_only_the_sinks_that_lag_are_made_and_the_journal_is_gone_afterwards(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "runs" / "r1" / "journal"
    fan_out = leave_behind(folder, [Away("sql"), Memory("mlflow")])
    fan_out.close(timeout_s=0.3)
    assert journals_left_behind(tmp_path) == [folder]
    made: list[Memory] = []

    def make(name: str) -> Memory:
        made.append(Memory(name))
        return made[-1]

    assert catch_up(folder, make, timeout_s=10)
    assert [(sink.name, sink.steps) for sink in made] == [("sql", list(range(20)))]
    assert journals_left_behind(tmp_path) == []
    assert list(folder.glob("*.journal")) == []


def test_the_journal_of_a_living_run_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r1" / "journal"
    fan_out = leave_behind(folder, [Away("sql")])
    fan_out.flush(0.1)
    assert not catch_up(folder, Memory, timeout_s=1)
    fan_out.close(timeout_s=0.1)


def test_a_place_that_is_still_away_keeps_its_journal(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r1" / "journal"
    leave_behind(folder, [Away("sql")]).close(timeout_s=0.1)
    assert not catch_up(folder, Away, timeout_s=0.3)
    assert journals_left_behind(tmp_path) == [folder]
    assert not catch_up(folder, lambda name: None, timeout_s=0.3)
    sink = Memory("sql")
    assert catch_up(folder, lambda name: sink, timeout_s=10)
    assert sink.steps == list(range(20))


def test_the_service_brings_in_what_a_run_left_and_leaves_runs_of_other_stores(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    store = open_store(settings.store_url)
    store.add_run(Run("r1", "tiny-1", "p", {}, "finished", "cpu", "0", 1.0, 1.0))
    for run_id in ("r1", "stranger"):
        folder = tmp_path / "runs" / run_id / "journal"
        leave_behind(folder, [Away("sql")], run_id).close(timeout_s=0.1)
    ticks = ServiceTicks(settings, settings.store_url, store, "me")
    ticks.catch_up()
    assert read_series(store, "r1", LOSS_TOTAL).steps.tolist() == list(range(20))
    assert [folder.parent.name for folder in journals_left_behind(tmp_path)] == ["stranger"]
    store.close()
