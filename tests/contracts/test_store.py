"""What every store promises of runs, whether it lies in SQLite or in PostgreSQL."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moescope.platform import commands, tables
from moescope.platform.engines import UnknownRun
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, Checkpoint, DamagedConfig, Event, Frame, Run, Segment
from moescope.platform.series import known_signals, read_series
from moescope.platform.store import Store, open_store

RUN = Run(
    id="r1",
    name="first",
    project="demo",
    config={"moe": {"num_experts": 8}, "betas": [0.9, 0.95]},
    status="running",
    device="cpu",
    code_version="0.1",
    created_s=1000.25,
    heartbeat_s=1001.5,
    tags=("a", "b"),
    note="line\nline",
    folder="runs/r1",
)


SEGMENT = Segment("r1", 1, 31, "rollback", 5.0, 0, 30, "a1", {"optim.lr": [0.1, 0.2]})


EVENT = Event("r1", 0, 7, 3.5, "guard", "held one step", {"norm": 12.5})


ALERT = Alert("a1", "r1", 0, "spike", "critical", 7, 9, 8.25, 6.0, "loss rose", 4.0, "spike/r1")


CHECKPOINT = Checkpoint("r1", 0, 10, "ck/10", 10, 4096, 2.0)


def frame(step: int, segment: int = 0, run_id: str = "r1", **values: Any) -> Frame:
    """A frame of loss/total, unless other values are given with `__` for the slash."""
    named = {name.replace("__", "/"): np.asarray(v, "f4") for name, v in values.items()}
    return Frame(run_id, segment, step, 100.0 + step, named or {"loss/total": np.float32(step)})


@pytest.fixture
def filled(store: Store) -> Store:
    """A store that knows the run r1."""
    store.add_run(RUN)
    return store


def test_a_run_comes_back_as_it_went_in(filled: Store) -> None:
    assert filled.find_run("r1") == RUN
    assert filled.runs() == [RUN]


def test_adding_a_run_again_changes_nothing(filled: Store) -> None:
    filled.update_run("r1", status="finished")
    filled.add_run(RUN)
    assert filled.find_run("r1").status == "finished"


def test_a_run_is_found_by_id_newest_name_or_unique_beginning(filled: Store) -> None:
    filled.add_run(replace(RUN, id="r22", created_s=2000.0))
    filled.add_run(replace(RUN, id="r23", name="other", created_s=3000.0))
    assert filled.find_run("r1").id == "r1"
    assert filled.find_run("first").id == "r22"
    assert filled.find_run("other").id == "r23"
    with pytest.raises(MoescopeError, match="ambiguous"):
        filled.find_run("r2")
    with pytest.raises(UnknownRun, match="unknown run othr; did you mean other"):
        filled.find_run("othr")
    # a wildcard of the database is an ordinary letter in a name
    for odd in ("", "%", "_", "'"):
        with pytest.raises(UnknownRun):
            filled.find_run(odd)


def test_runs_are_listed_newest_first_without_the_archived(filled: Store) -> None:
    filled.add_run(replace(RUN, id="r2", created_s=2000.0))
    filled.add_run(replace(RUN, id="r3", created_s=1500.0))
    filled.update_run("r3", is_archived=True)
    assert [run.id for run in filled.runs()] == ["r2", "r1"]
    assert [run.id for run in filled.runs(include_archived=True)] == ["r2", "r3", "r1"]


def test_a_run_changes_field_by_field(filled: Store) -> None:
    changes: dict[str, Any] = {
        "status": "finished",
        "heartbeat_s": 2000.5,
        "finished_s": 2001.0,
        "mode": "advisory",
        "tags": ("c",),
        "note": "better",
        "is_archived": True,
        "name": "second",
        "config": {"x": 1},
    }
    for name, value in changes.items():
        filled.update_run("r1", **{name: value})
    assert filled.find_run("r1") == replace(RUN, **changes)
    with pytest.raises(MoescopeError, match="created_s cannot be changed"):
        filled.update_run("r1", created_s=1.0)
    with pytest.raises(UnknownRun):
        filled.update_run("r2", note="x")


def test_segments_come_in_order_and_only_once(filled: Store) -> None:
    start = Segment("r1", 0, 0, "start", 1.0)
    for segment in (SEGMENT, start, SEGMENT):
        filled.add_segment(segment)
    assert filled.segments("r1") == [start, SEGMENT]


def test_an_event_that_comes_twice_is_one_event(filled: Store) -> None:
    other = replace(EVENT, text="held another step")
    early = replace(EVENT, step=3, kind="checkpoint")
    for event in (EVENT, other, EVENT, early):
        filled.add_event(event)
    found = filled.events("r1")
    assert found[0] == early
    assert sorted(found[1:], key=lambda e: e.text) == [other, EVENT]
    assert filled.events("r1", ["checkpoint"]) == [early]
    assert filled.events("r1", []) == []


def test_a_checkpoint_takes_over_what_changed(filled: Store) -> None:
    later = replace(CHECKPOINT, step=20)
    for checkpoint in (later, CHECKPOINT, replace(CHECKPOINT, health="certified")):
        filled.put_checkpoint(checkpoint)
    assert filled.checkpoints("r1") == [replace(CHECKPOINT, health="certified"), later]


def test_a_deleted_run_leaves_nothing_behind_and_others_alone(filled: Store) -> None:
    filled.add_run(replace(RUN, id="r2", name="stays"))
    for run_id in ("r1", "r2"):
        filled.add_segment(replace(SEGMENT, run_id=run_id))
        filled.add_event(replace(EVENT, run_id=run_id))
        filled.put_alert(replace(ALERT, run_id=run_id, id=f"a-{run_id}"))
        filled.put_checkpoint(replace(CHECKPOINT, run_id=run_id))
        commands.ask(filled, run_id, "pause", {}, "ann", 1.0)
        values = {"loss__total": 1.0, "router__expert_tokens": np.ones((3, 4))}
        # more rows than one deleting transaction takes
        filled.write_frames([frame(step, run_id=run_id, **values) for step in range(1000)])
    before = rows_of(filled)
    filled.delete_run("r1")
    filled.delete_run("r1")
    assert [run.id for run in filled.runs()] == ["r2"]
    assert {name: count / 2 for name, count in before.items()} == rows_of(filled)
    assert len(read_series(filled, "r2", "loss/total").steps) == 1000


def rows_of(store: Store) -> dict[str, float]:
    """{table: number of rows} of what belongs to a run."""
    owned = [t for t in tables.metadata.sorted_tables if {"run_id", "run_number"} & set(t.c.keys())]
    count = "SELECT count(*) FROM "
    return {
        table.name: store.database.read(
            lambda c, name=table.name: c.exec_driver_sql(count + name).scalar_one()  # type: ignore[misc]
        )
        for table in owned
    }


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.add_segment(SEGMENT),
        lambda store: store.add_event(EVENT),
        lambda store: store.put_alert(ALERT),
        lambda store: store.put_checkpoint(CHECKPOINT),
        lambda store: store.write_frames([frame(0)]),
        lambda store: commands.ask(store, "r1", "stop", {}, "ann", 1.0),
        lambda store: read_series(store, "r1", "loss/total"),
    ],
    ids=["segment", "event", "alert", "checkpoint", "frame", "command", "reading"],
)
def test_what_belongs_to_no_run_is_refused(store: Store, write: Callable[[Store], Any]) -> None:
    with pytest.raises(UnknownRun, match="run r1 is not in the store"):
        write(store)


def test_text_from_outside_never_makes_a_record_unwritable(filled: Store) -> None:
    # a NUL, a byte of a file name that is no UTF-8, a quote, another script
    odd = "a\x00b \udcff c' \u6f22 \U0001f600\n"
    filled.add_event(replace(EVENT, text=odd, details={"file": odd}))
    filled.put_alert(replace(ALERT, message=odd, dedupe_key=odd))
    filled.update_run("r1", note=odd, tags=(odd,))
    (event,) = filled.events("r1")
    assert event.text == filled.alert("a1").message == "a\ufffdb ? c' \u6f22 \U0001f600\n"
    assert event.details == {"file": odd}
    assert filled.find_run("r1").tags == (odd,)


def test_numbers_of_numpy_are_taken_for_what_they_are(filled: Store) -> None:
    filled.put_alert(
        replace(
            ALERT,
            onset_step=np.int64(7),  # type: ignore[arg-type]
            value=np.float32(0.5),  # type: ignore[arg-type]
            evidence={"layers": np.arange(3), "worst": np.float32(0.25)},
        )
    )
    found = filled.alert("a1")
    assert (found.onset_step, found.value) == (7, 0.5)
    assert found.evidence == {"layers": [0, 1, 2], "worst": 0.25}
    event = replace(EVENT, step=np.int32(4), time_s=np.float64(2.0))  # type: ignore[arg-type]
    filled.add_event(event)
    assert (filled.events("r1")[0].step, filled.events("r1")[0].time_s) == (4, 2.0)


def test_a_damaged_configuration_hides_no_other_run(filled: Store) -> None:
    filled.add_run(replace(filled.find_run("r1"), id="r9", name="other"))
    spoil = "UPDATE runs SET config = '{broken', tags = '[' WHERE id = 'r9'"
    filled.database.write(lambda c: c.exec_driver_sql(spoil))
    damaged = filled.find_run("other")
    assert isinstance(damaged.config, DamagedConfig)
    assert (damaged.config, damaged.tags) == ({}, ())
    assert not isinstance(filled.find_run("r1").config, DamagedConfig)
    assert "r1" in {run.id for run in filled.runs()}


def test_a_damaged_event_is_told_on_one_line(filled: Store) -> None:
    filled.add_event(Event("r1", 0, 1, 1.0, "note", "words"))
    filled.database.write(lambda c: c.exec_driver_sql("UPDATE events SET details = '{broken'"))
    with pytest.raises(MoescopeError, match=r"the store is damaged, as '\{broken' is no JSON"):
        filled.events("r1")


def test_two_who_opened_the_store_see_each_others_writes(filled: Store, store_url: str) -> None:
    with open_store(store_url) as other:
        filled.write_frames([frame(1)])
        other.write_frames([frame(2), frame(2, grad__norm=1.0)])
        other.update_run("r1", note="seen")
        assert read_series(filled, "r1", "loss/total").steps.tolist() == [1, 2]
        assert known_signals(filled, "r1") == ["grad/norm", "loss/total"]
        assert filled.find_run("r1").note == "seen"


def test_many_threads_share_one_store(filled: Store) -> None:
    failures: list[BaseException] = []

    def work(segment: int) -> None:
        try:
            for step in range(20):
                filled.write_frames([frame(step, segment=segment)])
                filled.add_event(replace(EVENT, segment=segment, step=step))
                filled.segments("r1")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(read_series(filled, "r1", "loss/total").steps) == len(filled.events("r1")) == 120
