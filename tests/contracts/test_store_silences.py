"""What every store promises of silences."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from moescope.platform.records import FOREVER_S, Alert, Run
from moescope.platform.silences import Silence, end_silence, silences
from moescope.platform.store import Store

RUN = Run("r1", "first", "demo", {}, "running", "cpu", "0.1", 1000.25, 1001.5)
ALERT = Alert("a1", "r1", 0, "spike", "critical", 7, 9, 8.25, 6.0, "loss rose", 4.0, "spike/r1")


@pytest.fixture
def filled(store: Store) -> Store:
    """A store that knows the run r1."""
    store.add_run(RUN)
    return store


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


def test_a_silence_without_end_lasts_until_a_person_ends_it(filled: Store) -> None:
    filled.put_alert(ALERT)
    filled.mark_delivered("a1", 5.0)
    filled.set_alert_state("a1", "silenced", "ann", 10.0)
    filled.add_run(replace(RUN, id="r2"))
    for name, changes in {"b1": {"run_id": "r2"}, "c1": {"rule": "other"}}.items():
        filled.put_alert(replace(ALERT, id=name, **changes))
    # it heals by itself, others of its kind come and stay, or heal as well
    filled.put_alert(replace(ALERT, state="resolved", changed_s=20.0))
    filled.put_alert(replace(ALERT, id="a2", created_s=30.0))
    filled.put_alert(replace(ALERT, id="a3", created_s=31.0, state="resolved", changed_s=32.0))
    much_later_s = 1e10
    assert filled.end_silences(much_later_s) == 0
    assert sorted(a.id for a in filled.undelivered_alerts(much_later_s)) == ["b1", "c1"]
    assert silences(filled, much_later_s) == [Silence("r1", "spike", FOREVER_S)]
    end_silence(filled, "r1", "spike", "bob", 40.0)
    assert silences(filled, 40.0) == []
    # what stands is sent now, what healed under the silence is no news and stays as it is
    assert sorted(a.id for a in filled.undelivered_alerts(40.0)) == ["a2", "b1", "c1"]
    assert [filled.alert(name).state for name in ("a1", "a2", "a3")] == [
        "resolved", "open", "resolved",
    ]  # fmt: skip
    assert filled.end_silences(41.0) == 0


def test_ending_a_silence_opens_what_is_silenced_and_says_who_did_it(filled: Store) -> None:
    for name in ("a1", "a2"):
        filled.put_alert(replace(ALERT, id=name))
        filled.set_alert_state(name, "silenced", "ann", 10.0, 70.0)
    filled.put_alert(replace(ALERT, id="b1", rule="other"))
    filled.set_alert_state("b1", "silenced", "ann", 10.0, 90.0)
    found = silences(filled, 11.0)
    assert found == [Silence("r1", "other", 90.0), Silence("r1", "spike", 70.0)]
    end_silence(filled, "r1", "spike", "bob", 20.0)
    assert silences(filled, 20.0) == [Silence("r1", "other", 90.0)]
    for name in ("a1", "a2"):
        alert = filled.alert(name)
        assert (alert.state, alert.changed_by, alert.changed_s) == ("open", "bob", 20.0)
    assert silences(filled, 90.0) == []


def test_a_silence_without_end_of_an_older_program_is_listed_and_ended(filled: Store) -> None:
    filled.put_alert(ALERT)
    old = "UPDATE alerts SET state = 'silenced', changed_by = 'ann' WHERE id = 'a1'"
    filled.database.write(lambda c: c.exec_driver_sql(old))
    assert silences(filled, 11.0) == [Silence("r1", "spike", FOREVER_S)]
    end_silence(filled, "r1", "spike", "bob", 20.0)
    assert filled.alert("a1").state == "open"


WEEK_S = 7 * 86400.0
SIX_HOURS_S = 6 * 3600.0


def end_by_command(store: Store, now_s: float) -> None:
    assert end_silence(store, "r1", "spike", "bob", now_s)


def end_by_opening(store: Store, now_s: float) -> None:
    assert store.set_alert_state("a1", "open", "bob", now_s)


@pytest.mark.parametrize("end", [end_by_command, end_by_opening])
@pytest.mark.parametrize("until_s", [None, 2 * WEEK_S], ids=["for ever", "for long"])
def test_what_a_person_lets_speak_again_calls_however_old_it_is(
    filled: Store, until_s: float | None, end: Callable[[Store, float], None]
) -> None:
    for name in ("a1", "a2", "a3"):
        filled.put_alert(replace(ALERT, id=name))
    filled.mark_delivered("a1", 5.0)
    filled.set_alert_state("a1", "silenced", "ann", 10.0, until_s)
    filled.set_alert_state("a3", "acknowledged", "ann", 11.0)
    filled.put_alert(replace(ALERT, id="a4", state="resolved", changed_s=20.0))
    end(filled, WEEK_S)
    # once is enough, for whoever looks after ended silences too
    assert filled.end_silences(WEEK_S) == 0
    found = filled.undelivered_alerts(WEEK_S, WEEK_S - SIX_HOURS_S)
    assert sorted(alert.id for alert in found) == ["a1", "a2"]
    for alert in found:
        filled.mark_delivered(alert.id, WEEK_S + 1.0)
    assert filled.end_silences(WEEK_S + 2.0) == 0
    assert filled.undelivered_alerts(WEEK_S + 2.0) == []
    assert (filled.alert("a1").state, filled.alert("a1").changed_by) == ("open", "bob")
    assert (filled.alert("a3").state, filled.alert("a3").changed_by) == ("acknowledged", "ann")


def test_one_that_came_back_under_a_silence_calls_when_a_person_ends_it(filled: Store) -> None:
    filled.put_alert(ALERT)
    filled.mark_delivered("a1", 5.0)
    filled.set_alert_state("a1", "silenced", "ann", 10.0)
    filled.put_alert(replace(ALERT, state="resolved", changed_s=20.0))
    filled.put_alert(ALERT)
    assert end_silence(filled, "r1", "spike", "bob", WEEK_S)
    assert [a.id for a in filled.undelivered_alerts(WEEK_S, WEEK_S - SIX_HOURS_S)] == ["a1"]
    # a person has ended the silence, but it came back by itself
    assert filled.alert("a1").changed_by == ""


def test_an_acknowledged_alert_that_is_opened_after_a_silence_calls_nobody(filled: Store) -> None:
    filled.put_alert(ALERT)
    filled.mark_delivered("a1", 5.0)
    filled.set_alert_state("a1", "silenced", "ann", 10.0, 70.0)
    filled.set_alert_state("a1", "acknowledged", "ann", 11.0)
    assert end_silence(filled, "r1", "spike", "bob", 20.0)
    filled.set_alert_state("a1", "open", "ann", 30.0)
    assert filled.end_silences(31.0) == 0
    assert filled.undelivered_alerts(31.0) == []
    assert filled.alert("a1").changed_by == "ann"


def test_ending_what_was_not_silenced_changes_nothing(filled: Store) -> None:
    # one healed before anybody was told, one under a silence that has run out
    filled.put_alert(replace(ALERT, state="resolved", changed_s=20.0))
    filled.put_alert(replace(ALERT, id="b1", rule="other"))
    filled.set_alert_state("b1", "silenced", "ann", 10.0, 15.0)
    filled.end_silences(15.0)
    before = filled.alerts()
    for rule in ("spike", "other"):
        assert not end_silence(filled, "r1", rule, "bob", 30.0)
    assert filled.alerts() == before
    assert sorted(a.id for a in filled.undelivered_alerts(30.0)) == ["a1", "b1"]


def test_the_longest_silence_of_a_rule_holds(filled: Store) -> None:
    for name in ("a1", "a2"):
        filled.put_alert(replace(ALERT, id=name))
    filled.set_alert_state("a2", "silenced", "ann", 10.0)
    filled.set_alert_state("a1", "silenced", "ann", 11.0, 70.0)
    assert silences(filled, 12.0) == [Silence("r1", "spike", FOREVER_S)]
    assert filled.end_silences(70.0) == 1
    assert filled.undelivered_alerts(71.0) == []
