"""What every store promises, whether it lies in SQLite or in PostgreSQL."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moescope.platform import catalogue, commands, tables
from moescope.platform.engines import UnknownRun
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, Checkpoint, DamagedConfig, Event, Frame, Run, Segment
from moescope.platform.series import known_signals, latest, read_series, read_since
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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-300])
def test_an_alert_comes_back_whatever_its_value(filled: Store, value: float) -> None:
    alert = replace(ALERT, value=value, evidence={"signal": "loss/total", "worst": value})
    filled.put_alert(alert)
    assert repr(filled.alert("a1")) == repr(alert)  # NaN equals NaN in its repr only


def test_a_state_that_a_person_set_survives_a_replay(filled: Store) -> None:
    filled.put_alert(ALERT)
    filled.put_alert(replace(ALERT, state="resolved"))
    assert filled.alert("a1").state == "resolved"
    filled.set_alert_state("a1", "acknowledged", "ann", 9.0)
    filled.put_alert(replace(ALERT, message="loss rose more"))
    assert filled.alert("a1") == replace(
        ALERT, message="loss rose more", state="acknowledged", changed_by="ann", changed_s=9.0
    )
    with pytest.raises(MoescopeError, match="unknown alert a2"):
        filled.set_alert_state("a2", "silenced", "ann", 9.0)
    with pytest.raises(MoescopeError, match="unknown alert a2"):
        filled.alert("a2")


def test_alerts_are_listed_newest_first_by_run_and_state(filled: Store) -> None:
    filled.add_run(replace(RUN, id="r2"))
    filled.put_alert(ALERT)
    filled.put_alert(replace(ALERT, id="a2", created_s=5.0, state="resolved"))
    filled.put_alert(replace(ALERT, id="a3", created_s=6.0, run_id="r2"))
    assert [alert.id for alert in filled.alerts()] == ["a3", "a2", "a1"]
    assert [alert.id for alert in filled.alerts("r1")] == ["a2", "a1"]
    assert [alert.id for alert in filled.alerts("r1", ["open"])] == ["a1"]


def test_an_alert_is_undelivered_until_somebody_was_told_or_has_seen_it(filled: Store) -> None:
    for number in range(4):
        name = f"a{number}"
        filled.put_alert(replace(ALERT, id=name, created_s=float(number), rule=name))
    filled.mark_delivered("a0", 10.0)
    filled.set_alert_state("a1", "silenced", "ann", 10.0)
    filled.mark_delivered("a2", 10.0, "no route to host")
    assert [alert.id for alert in filled.undelivered_alerts(10.0)] == ["a2", "a3"]
    assert [alert.id for alert in filled.undelivered_alerts(10.0, since_s=2.5)] == ["a3"]
    assert filled.delivery_failures("r1") == {"a2": "no route to host"}
    filled.put_alert(replace(ALERT, id="a0"))
    filled.mark_delivered("a2", 11.0)
    assert [alert.id for alert in filled.undelivered_alerts(10.0)] == ["a3"]
    assert filled.delivery_failures("r1") == {}


def test_an_alert_that_ends_by_itself_ends_for_a_person_too(filled: Store) -> None:
    filled.put_alert(ALERT)
    filled.set_alert_state("a1", "acknowledged", "ann", 9.0)
    # an old word from a journal, of before the person spoke
    filled.put_alert(replace(ALERT, state="resolved", changed_s=8.0))
    assert filled.alert("a1").state == "acknowledged"
    filled.put_alert(replace(ALERT, state="resolved", changed_s=10.0))
    found = filled.alert("a1")
    assert (found.state, found.changed_by, found.changed_s) == ("resolved", "", 10.0)
    # it comes back within its cooldown
    filled.put_alert(ALERT)
    assert filled.alert("a1").state == "open"


def test_a_silence_holds_for_all_of_one_kind_and_then_ends(filled: Store) -> None:
    for name, rule in (("a1", "k"), ("a2", "k"), ("a3", "other")):
        filled.put_alert(replace(ALERT, id=name, rule=rule, dedupe_key=name, created_s=1.0))
    filled.mark_delivered("a1", 2.0)
    filled.set_alert_state("a1", "silenced", "ann", 10.0, 70.0)
    found = filled.alert("a1")
    assert (found.changed_by, found.changed_s, found.silenced_until_s) == ("ann", 10.0, 70.0)
    assert [alert.id for alert in filled.undelivered_alerts(69.9)] == ["a3"]
    filled.put_alert(replace(ALERT, id="a1", rule="k", dedupe_key="a1"))
    assert filled.alert("a1") == replace(found, created_s=ALERT.created_s)
    assert filled.end_silences(69.9) == 0
    assert filled.end_silences(70.0) == 1
    assert filled.alert("a1").state == "open"
    # it calls once more, and so does what it held back, however old
    assert sorted(alert.id for alert in filled.undelivered_alerts(70.0, 60.0)) == ["a1", "a2"]
    assert sorted(alert.id for alert in filled.undelivered_alerts(70.0)) == ["a1", "a2", "a3"]


def test_what_healed_while_it_was_silenced_calls_nobody(filled: Store) -> None:
    filled.put_alert(ALERT)
    filled.set_alert_state("a1", "silenced", "ann", 10.0, 70.0)
    filled.put_alert(replace(ALERT, state="resolved", changed_s=20.0))
    assert filled.alert("a1").state == "resolved"
    assert filled.end_silences(80.0) == 0
    assert filled.undelivered_alerts(80.0) == []


def test_a_silence_holds_whatever_becomes_of_its_alert(filled: Store) -> None:
    filled.put_alert(ALERT)
    filled.mark_delivered("a1", 5.0)
    filled.set_alert_state("a1", "silenced", "ann", 10.0, 70.0)
    filled.put_alert(replace(ALERT, state="resolved", changed_s=20.0))
    filled.put_alert(replace(ALERT, id="a2", created_s=30.0))
    filled.add_run(replace(RUN, id="r2"))
    filled.put_alert(replace(ALERT, id="b1", run_id="r2", created_s=30.0))
    assert [alert.id for alert in filled.undelivered_alerts(69.0)] == ["b1"]
    # the first comes back under its own name, which is no end of the silence
    filled.put_alert(ALERT)
    assert (filled.alert("a1").state, filled.end_silences(69.0)) == ("open", 0)
    assert [alert.id for alert in filled.undelivered_alerts(69.0)] == ["b1"]
    assert (filled.end_silences(70.0), filled.end_silences(71.0)) == (1, 0)
    assert sorted(a.id for a in filled.undelivered_alerts(70.0)) == ["a1", "a2", "b1"]


def test_opening_an_alert_ends_the_silence_of_its_rule(filled: Store) -> None:
    for name in ("a1", "a2"):
        filled.put_alert(replace(ALERT, id=name))
    filled.set_alert_state("a1", "silenced", "ann", 10.0, 70.0)
    filled.set_alert_state("a1", "resolved", "ann", 11.0)
    assert filled.undelivered_alerts(12.0) == []
    filled.set_alert_state("a2", "open", "ann", 12.0)
    assert [alert.id for alert in filled.undelivered_alerts(12.0)] == ["a2"]


def test_an_alert_that_never_goes_through_is_given_up(filled: Store) -> None:
    filled.put_alert(ALERT)
    attempts = 0
    while filled.undelivered_alerts(10.0):
        filled.mark_delivered("a1", 10.0, "refused")
        attempts += 1
        assert attempts < 1000
    assert filled.delivery_failures("r1") == {"a1": "refused"}


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


def test_samples_come_back_bit_for_bit(filled: Store) -> None:
    odd = [np.nan, np.inf, -np.inf, 1e-45, -0.0, 3.4e38]
    values = {
        "loss__total": odd[0],
        "grad__norm": odd[1],
        "router__max_violation": odd,
        "router__expert_tokens": np.outer([1, 0.5], odd),
    }
    filled.write_frames([frame(5, **values), frame(6)])
    for name, value in values.items():
        series = read_series(filled, "r1", name.replace("__", "/"))
        assert series.values[0].tobytes() == np.asarray(value, "f4").tobytes()
        assert (series.segments[0], series.steps[0], series.times_s[0]) == (0, 5, 105.0)
    one = read_series(filled, "r1", "router/expert_tokens", row=1)
    assert one.values[0].tobytes() == np.asarray(values["router__expert_tokens"], "f4")[1].tobytes()
    assert known_signals(filled, "r1") == [
        "grad/norm",
        "loss/total",
        "router/expert_tokens",
        "router/max_violation",
    ]


def test_scalars_of_one_step_meet_in_one_row_whichever_came_first(filled: Store) -> None:
    filled.write_frames([frame(1, loss__total=1.0, grad__norm=2.0)])
    filled.write_frames([frame(1, loss__spike_score=3.0), frame(1, grad__norm=4.0)])
    expected = {"loss/total": 1.0, "loss/spike_score": 3.0, "grad/norm": 4.0}
    found = latest(filled, "r1", list(expected))
    assert {name: (step, float(value)) for name, (step, value) in found.items()} == {
        name: (1, value) for name, value in expected.items()
    }
    assert rows_of(filled)["scalar_rows"] == 1


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_writing_frames_twice_changes_nothing(store: Store, data: st.DataObject) -> None:
    number = len(store.runs())
    run_id = f"run{number}"
    store.add_run(replace(RUN, id=run_id))
    floats = st.floats(width=32)
    scalar = floats.map(np.float32)
    values = st.dictionaries(
        st.sampled_from(["loss/total", "grad/norm", "user/mine", "user/two words"]), scalar
    ).flatmap(
        lambda some: st.fixed_dictionaries(
            {name: st.just(value) for name, value in some.items()},
            optional={
                "activation/rms": arrays("f4", 3, elements=floats),
                "router/expert_load": arrays("f4", (2, 3), elements=floats),
            },
        )
    )
    frames = [
        Frame(run_id, segment, step, float(step), value)
        for segment, step, value in data.draw(
            st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), values), max_size=8)
        )
    ]
    store.write_frames(frames)
    before = everything(store, run_id)
    cut = data.draw(st.integers(0, len(frames)))
    store.write_frames(frames[cut:])
    store.write_frames(frames)
    assert everything(store, run_id) == before


def everything(store: Store, run_id: str) -> dict[str, list[bytes]]:
    found = {name: read_series(store, run_id, name) for name in known_signals(store, run_id)}
    return {
        name: [a.tobytes() for a in (s.segments, s.steps, s.times_s, s.values)]
        for name, s in found.items()
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loss__totl": 1.0}, "unknown signal loss/totl; did you mean loss/total"),
        ({"loss__total": [1.0]}, r"loss/total has shape \(1,\), expected 0 dimensions"),
        ({"router__expert_tokens": [1.0]}, "expected 2 dimensions .moe_layer, expert."),
        ({"user__a\nb": 1.0}, "must be one line"),
    ],
)
def test_a_wrong_frame_is_refused_before_anything_is_written(
    filled: Store, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(MoescopeError, match=said):
        filled.write_frames([*(frame(step) for step in range(2000)), frame(0, **values)])
    assert known_signals(filled, "r1") == []


def test_reading_on_from_a_cursor_gives_what_came_after_it(filled: Store) -> None:
    filled.write_frames([frame(step) for step in range(5)])
    filled.write_frames([frame(step, segment=1) for step in range(3, 6)])
    everything_so_far = read_since(filled, "r1", "loss/total", None)
    assert everything_so_far.steps.tolist() == [0, 1, 2, 3, 4, 3, 4, 5]
    assert read_since(filled, "r1", "loss/total", (0, 3)).steps.tolist() == [4, 3, 4, 5]
    assert read_since(filled, "r1", "loss/total", (1, 5)).steps.tolist() == []
    filled.write_frames([frame(6, segment=1)])
    new = read_since(filled, "r1", "loss/total", (1, 5))
    assert (new.segments.tolist(), new.steps.tolist()) == ([1], [6])


def test_the_newest_value_is_that_of_the_newest_segment(filled: Store) -> None:
    filled.write_frames([frame(9, loss__total=1.0), frame(4, segment=1, loss__total=2.0)])
    filled.write_frames([frame(5, segment=1, grad__norm=3.0)])
    found = latest(filled, "r1", ["loss/total", "grad/norm", "loss/video"])
    assert {name: (step, float(value)) for name, (step, value) in found.items()} == {
        "loss/total": (4, 2.0),
        "grad/norm": (5, 3.0),
    }
    with pytest.raises(MoescopeError, match="unknown signal"):
        latest(filled, "r1", ["loss/totl"])


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


def test_every_signal_of_the_catalogue_can_be_kept(filled: Store) -> None:
    shapes = {spec.name: (2, 3, 4)[: len(spec.dimensions)] for spec in catalogue.CATALOGUE.values()}
    values = {name: np.ones(shape, "f4") for name, shape in shapes.items()}
    filled.write_frames([Frame("r1", 0, 0, 1.0, values)])
    assert known_signals(filled, "r1") == sorted(shapes)
    found = latest(filled, "r1", list(shapes))
    # what lies behind the first dimension comes back as one row
    rows = {n: (*shape[:1], 12) if len(shape) == 3 else shape for n, shape in shapes.items()}
    assert {name: value.shape for name, (_, value) in found.items()} == rows
