"""The watchman: silence and standstill are told, once each, and never blamed on a run when the
store was away.
"""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from moescope.platform.alert_kinds import HEARTBEAT_LOST, STALLED
from moescope.platform.records import Alert, Run, Segment
from moescope.platform.watchman import Look, Watchman, is_stalled, segment_of

RUN = Run("r1", "tiny-1", "p", {}, "running", "cpu", "0", 1.0, 100.0)


def watchman() -> Watchman:
    return Watchman(silent_after_s=30, stalled_after_s=600)


def beating(step: int, now_s: float) -> Look:
    return Look(replace(RUN, heartbeat_s=now_s), 0, step)


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.floats(0, 1e6))
def test_only_more_than_the_patience_is_a_stall(
    beat_s: float, silence_s: float, patience_s: float
) -> None:
    now_s = beat_s + silence_s
    assert is_stalled(beat_s, now_s, patience_s) == (now_s - beat_s > patience_s)


def test_a_run_that_beats_and_moves_raises_nothing() -> None:
    man = watchman()
    for second in range(0, 5000, 5):
        judgement = man.look([beating(second // 5, 1000.0 + second)], [], 1000.0 + second)
        assert judgement.raised == ()


def test_a_silent_run_is_told_once_and_resolved_when_it_beats_again() -> None:
    man = watchman()
    look = Look(RUN, 2, 310)
    assert man.look([look], [], 129.0).raised == ()
    (alert,) = man.look([look], [], 131.0).raised
    assert (alert.rule, alert.severity, alert.segment) == (HEARTBEAT_LOST, "critical", 2)
    assert (alert.value, alert.threshold) == (31.0, 30)
    assert "moescope train --resume tiny-1" in alert.message
    again = man.look([look], [alert], 200.0)
    assert again.raised == ()
    assert again.resolved == ()
    assert man.look([beating(311, 205.0)], [alert], 205.0).resolved == (alert.id,)


def test_the_same_silence_has_the_same_alert_in_another_service() -> None:
    first = watchman().look([Look(RUN, 0, 5)], [], 131.0).raised
    second = watchman().look([Look(RUN, 0, 5)], [], 140.0).raised
    assert [alert.id for alert in first] == [alert.id for alert in second]


def test_a_silence_that_a_person_acknowledged_is_not_raised_again() -> None:
    man = watchman()
    (alert,) = man.look([Look(RUN, 0, 5)], [], 131.0).raised
    seen = replace(alert, state="acknowledged")
    assert man.look([Look(RUN, 0, 5)], [seen], 500.0).raised == ()


def test_silence_counts_from_when_the_store_was_back() -> None:
    man = watchman()
    man.store_was_away(1000.0)
    assert man.look([Look(RUN, 0, 5)], [], 1010.0).raised == ()
    assert len(man.look([Look(RUN, 0, 5)], [], 1031.0).raised) == 1


def test_a_run_that_ended_is_left_alone_and_its_alert_is_resolved() -> None:
    man = watchman()
    (alert,) = man.look([Look(RUN, 0, 5)], [], 131.0).raised
    ended = Look(replace(RUN, status="stopped"), 0, 5)
    judgement = man.look([ended], [alert], 300.0)
    assert judgement.raised == ()
    assert judgement.resolved == (alert.id,)


def test_a_run_that_lives_but_stands_still_is_told() -> None:
    man = watchman()
    assert man.look([beating(40, 1000.0)], [], 1000.0).raised == ()
    assert man.look([beating(40, 1599.0)], [], 1599.0).raised == ()
    (alert,) = man.look([beating(40, 1601.0)], [], 1601.0).raised
    assert (alert.rule, alert.severity, alert.fired_step) == (STALLED, "warning", 40)
    assert man.look([beating(41, 1605.0)], [alert], 1605.0).resolved == (alert.id,)


def test_going_back_in_a_new_segment_is_a_move() -> None:
    man = watchman()
    man.look([beating(40, 1000.0)], [], 1000.0)
    man.look([Look(replace(RUN, heartbeat_s=1500.0), 1, 40)], [], 1500.0)
    assert man.look([Look(replace(RUN, heartbeat_s=1700.0), 1, 40)], [], 1700.0).raised == ()


def test_alerts_of_other_rules_are_not_its_business() -> None:
    other = Alert("a", "r1", 0, "spike", "critical", 1, 2, 5.0, 4.0, "up", 1.0, "key")
    assert watchman().look([beating(1, 10.0)], [other], 10.0).resolved == ()


def test_a_run_without_segments_is_in_its_first() -> None:
    assert segment_of([]) == 0
    assert segment_of([Segment("r1", 3, 0, "resume", 1.0)]) == 3
