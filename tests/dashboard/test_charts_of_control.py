"""The timeline of states, what is derived of them, and commands in words."""

import dataclasses
from typing import Any

import pytest

from moescope.dashboard.charts_of_control import ROWS, clicked_step, timeline_figure
from moescope.dashboard.reads import run_now
from moescope.dashboard.states_of_a_run import (
    RING_STATES,
    SavedState,
    WentBack,
    held_in_memory,
    is_paused,
    open_alert_before,
    saved_states,
    went_back,
)
from moescope.dashboard.words_of_commands import in_words, rollback_in_words, way, why_no_answer
from moescope.monitors.states import keeping
from moescope.platform.records import Checkpoint, Command, Event, Segment

START = Segment("r", 0, 0, "start", 100.0)
BACK = Segment("r", 1, 50, "rollback", 300.0, 0, 49)


def _run(make: Any, every: int = 10, gib: float = 2.0, **changes: Any) -> Any:
    told = {"checkpoint": {"memory_every_steps": every, "ring_gib": gib}}
    return make.run("r", config=told, **changes)


def _kept(step: int, **changes: Any) -> Checkpoint:
    kept = Checkpoint("r", 0, step, "x", step, 2**20, 100.0 + step, "certified")
    return dataclasses.replace(kept, **changes)


def _command(**changes: Any) -> Command:
    return dataclasses.replace(Command("c", "r", "pause", {}, "ana", 1000.0), **changes)


def test_the_memory_holds_the_newest_states_as_many_as_fit(make: Any) -> None:
    # after step 83, states of 84 steps: the newest multiple of 10 is 80, and there are eight
    run = _run(make)
    assert held_in_memory(run, 83, 2**20, [START]) == [10, 20, 30, 40, 50, 60, 70, 80]
    assert held_in_memory(run, 103, 2**20, [START])[0] == 30
    # three states of half a GiB in 1.5 GiB
    assert held_in_memory(_run(make, gib=1.5), 83, 2**29, [START]) == [60, 70, 80]


def test_a_resumed_process_begins_with_an_empty_memory(make: Any) -> None:
    resumed = Segment("r", 2, 60, "resume", 400.0)
    gone = [WentBack(63, 50, "")]
    assert held_in_memory(_run(make), 83, 2**20, [START, BACK, resumed], gone) == [70, 80]


def test_a_rollback_drops_what_it_abandons_and_brings_nothing_back(make: Any) -> None:
    # at step 63 the eight from 0 on were 10 to 60; 60 is abandoned
    near = [WentBack(63, 50, "")]
    assert held_in_memory(_run(make), 55, 2**20, [START, BACK], near) == [10, 20, 30, 40, 50]
    # at step 175 the eight were 100 to 170: of those only 100 lies before where it went back to
    back = Segment("r", 1, 100, "rollback", 300.0, 0, 99)
    far = [WentBack(175, 100, "")]
    assert held_in_memory(_run(make), 124, 2**20, [START, back], far) == [100, 110, 120]


@pytest.mark.parametrize(
    ("every", "gib", "num_bytes"), [(10, 0.0, 1), (10, 2.0, 0), (10, 1.0, 2**30)]
)
def test_without_room_nothing_is_in_memory(
    make: Any, every: int, gib: float, num_bytes: int
) -> None:
    assert held_in_memory(_run(make, every, gib), 83, num_bytes, [START]) == []


def test_a_run_that_says_nothing_of_its_memory_holds_nothing(make: Any) -> None:
    assert held_in_memory(make.run("r", config={}), 83, 2**20, [START]) == []


def test_as_many_states_as_the_keeper_holds() -> None:
    assert RING_STATES == keeping.RING_STATES


def test_what_is_on_the_disk_counts_more_than_what_was(make: Any) -> None:
    kept = [_kept(0), _kept(50, is_on_disk=False), _kept(50, segment=1, health="fresh")]
    states = saved_states(make.run("r", config={}), 83, kept, [START, BACK])
    assert [(s.step, s.segment, s.place, s.health) for s in states] == [
        (0, 0, "disk", "certified"),
        (50, 1, "disk", "fresh"),
    ]


def test_a_state_that_left_the_disk_may_be_in_memory_with_the_health_that_was_told(
    make: Any,
) -> None:
    kept = [_kept(0, is_on_disk=False), _kept(50, is_on_disk=False)]
    told = saved_states(_run(make, every=50), 83, kept, [START])
    assert [(s.step, s.place, s.health) for s in told] == [
        (0, "gone", "certified"),
        (50, "memory", "certified"),
    ]
    # the state of an abandoned branch says nothing of the one that took its place
    other = saved_states(
        _run(make, every=50), 83, kept, [START, dataclasses.replace(BACK, index=1)]
    )
    assert [(s.step, s.health) for s in other if s.place == "memory"] == [(50, None)]


def test_an_ended_run_has_nothing_in_memory(make: Any) -> None:
    run = _run(make, status="finished")
    assert [s.place for s in saved_states(run, 83, [_kept(0)], [START])] == ["disk"]


def test_a_pause_ends_by_a_continue_or_by_a_new_process() -> None:
    pause = _command(state="done", answered_s=1001.0)
    go_on = _command(kind="continue", state="done", answered_s=1005.0)
    asked = _command(kind="continue")
    assert is_paused([pause], [START])
    assert is_paused([asked, pause], [START])
    assert not is_paused([go_on, pause], [START])
    assert not is_paused([pause], [START, Segment("r", 1, 5, "resume", 2000.0)])
    assert is_paused([pause], [START, Segment("r", 1, 5, "rollback", 2000.0)])
    assert not is_paused([], [])


def test_rollbacks_tell_from_where_they_went() -> None:
    event = Event("r", 1, 50, 300.0, "rollback", "from 63 to 50", {"from_step": 63})
    assert went_back([START, BACK], [event]) == [WentBack(63, 50, "from 63 to 50")]
    assert went_back([START, BACK], []) == [WentBack(50, 50, "")]


def test_only_an_open_alert_that_began_before_a_state_speaks_against_it(make: Any) -> None:
    state = SavedState(70, 0, "fresh", "disk", 1, 0.0)
    alert = make.alert("r", onset_step=60)
    assert open_alert_before(state, [alert]) is alert
    assert open_alert_before(dataclasses.replace(state, step=60), [alert]) is None
    assert open_alert_before(state, [dataclasses.replace(alert, state="resolved")]) is None


def test_the_timeline_tells_places_health_alerts_and_rollbacks_apart(make: Any) -> None:
    states = [
        SavedState(0, 0, "certified", "disk", 2**20, 100.0),
        SavedState(10, 0, "tainted", "gone", 2**20, 110.0),
        SavedState(20, 0, None, "memory", 2**20, None),
    ]
    alert = make.alert("r", onset_step=15, rule="<b>rule</b>")
    figure = timeline_figure(states, [alert], [WentBack(18, 5, "")], chosen=20)
    found = {trace.name: trace for trace in figure.data if trace.name}
    rows = {name: [ROWS[int(y)] for y in trace.y] for name, trace in found.items()}
    assert rows == {
        "certified": ["on disk"],
        "tainted": ["no longer there"],
        "in memory": ["in memory"],
        "rollback": ["rollback"],
        "critical alert": ["alert"],
    }
    # health is a symbol beside a colour
    assert len({trace.marker.symbol for trace in found.values()}) == len(found)
    assert list(found["certified"].customdata) == [0]
    assert list(found["tainted"].customdata) == [None]
    assert "1 MiB" in found["certified"].hovertext[0]
    assert "<b>" not in found["critical alert"].hovertext[0]
    (line,) = figure.layout.shapes
    assert line.x0 == 20
    # nothing in it moves by itself: the browser keeps it until there is news
    assert figure == timeline_figure(states, [alert], [WentBack(18, 5, "")], chosen=20)


@pytest.mark.parametrize(
    ("points", "step"),
    [
        ([{"customdata": 50}], 50),
        ([{"customdata": [50]}], 50),
        ([{"customdata": None}, {"x": 50}], None),
        ([{"customdata": 7}], None),
        ([], None),
    ],
)
def test_a_click_chooses_a_state_that_can_be_chosen(points: Any, step: int | None) -> None:
    assert clicked_step({"selection": {"points": points}}, {50}.__contains__) == step
    assert clicked_step(None, {50}.__contains__) is None


def test_a_command_is_said_with_its_arguments() -> None:
    assert in_words(_command(kind="damp", args={"scale": 0.25, "steps": 200})) == (
        r"damp the learning rate (scale 0\.25, steps 200)"
    )
    assert in_words(_command(kind="rollback", args={"to_step": None})) == "roll back"


def test_the_way_ends_where_the_command_stands() -> None:
    assert [s.state for s in way(_command(), 1010.0)] == ["asked"]
    done = way(_command(state="done", answered_s=1000.25), 1010.0)
    assert [(s.state, s.words) for s in done] == [
        ("asked", "by ana, 10 s ago"),
        ("taken", ""),
        ("done", "0.2 s after it was asked"),
    ]


def test_a_trainer_that_beats_and_takes_nothing_for_long_is_said_to_be_late(make: Any) -> None:
    now = run_now(make.run("r", heartbeat_s=1200.0), {}, [], 1200.0)
    early = why_no_answer(_command(), now, 1010.0)
    assert "takes it at the end of its step" in early
    late = why_no_answer(_command(), now, 1180.0)
    assert "Asked 3 min ago, no answer" in late
    assert "reaches no end of a step" in late
    assert "at once, as it stands" in why_no_answer(_command(), now, 1010.0, True)
    assert why_no_answer(_command(state="done"), now, 1180.0) == ""


def test_a_rollback_to_a_state_of_the_memory_says_that_its_health_is_the_trainers_to_know(
    make: Any,
) -> None:
    now = run_now(make.run("r"), {}, [], 0.0)
    said = rollback_in_words(now, SavedState(20, 0, None, "memory", 1, None))
    assert "state of step 20" in said
    assert "trainer knows the health of" in said
