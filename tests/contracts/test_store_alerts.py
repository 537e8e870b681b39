"""What every store promises of alerts."""

import math
from dataclasses import replace

import pytest

from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, AlertState, Run
from moescope.platform.store import Store

RUN = Run("r1", "first", "demo", {}, "running", "cpu", "0.1", 1000.25, 1001.5)
ALERT = Alert("a1", "r1", 0, "spike", "critical", 7, 9, 8.25, 6.0, "loss rose", 4.0, "spike/r1")


@pytest.fixture
def filled(store: Store) -> Store:
    """A store that knows the run r1."""
    store.add_run(RUN)
    return store


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-300])
def test_an_alert_comes_back_whatever_its_value(filled: Store, value: float) -> None:
    alert = replace(ALERT, value=value, evidence={"signal": "loss/total", "worst": value})
    filled.put_alert(alert)
    assert repr(filled.alert("a1")) == repr(alert)  # NaN equals NaN in its repr only


def test_a_state_that_a_person_set_survives_a_replay(filled: Store) -> None:
    filled.put_alert(ALERT)
    filled.put_alert(replace(ALERT, state="resolved"))
    assert filled.alert("a1").state == "resolved"
    filled.put_alert(ALERT)
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


def test_an_alert_that_never_goes_through_is_given_up(filled: Store) -> None:
    filled.put_alert(ALERT)
    attempts = 0
    while filled.undelivered_alerts(10.0):
        filled.mark_delivered("a1", 10.0, "refused")
        attempts += 1
        assert attempts < 1000
    assert filled.delivery_failures("r1") == {"a1": "refused"}


@pytest.mark.parametrize("state", ["acknowledged", "silenced", "resolved"])
def test_a_resolved_alert_is_not_revived_by_a_late_decision(
    filled: Store, state: AlertState
) -> None:
    healed = replace(ALERT, state="resolved", changed_s=8.0)
    filled.put_alert(healed)
    assert not filled.set_alert_state("a1", state, "ann", 9.0, 60.0)
    assert filled.alert("a1") == healed
    assert filled.end_silences(61.0) == 0
    # it healed by itself before anybody was told, which is news still
    assert [alert.id for alert in filled.undelivered_alerts(61.0)] == ["a1"]
    assert filled.set_alert_state("a1", "open", "ann", 62.0)
    assert filled.alert("a1").state == "open"
    assert filled.set_alert_state("a1", state, "ann", 63.0, 70.0)
