"""What the browser's tab says of all runs together."""

from dataclasses import replace

import pytest

from moescope.platform.attention import Attention, attention
from moescope.platform.records import Alert, AlertState, Run, RunStatus, Severity
from moescope.platform.store import Store

NOW_S = 10_000.0


def add_run(store: Store, name: str, *, status: RunStatus = "running", age_s: float = 1.0) -> None:
    run = Run(name, name, "p", {}, status, "cpu", "0", 1.0, NOW_S - age_s)
    store.add_run(run)


def add_alert(
    store: Store, run: str, severity: Severity, state: AlertState = "open", name: str = ""
) -> None:
    found = Alert(name or f"a-{run}", run, 0, "r", severity, 1, 2, 3.0, 2.0, "m", 5.0, name or run)
    store.put_alert(replace(found, state=state))


def test_without_runs_or_alerts_all_is_fine(store: Store) -> None:
    assert attention(store, NOW_S) == Attention("fine", 0)
    add_run(store, "a")
    add_run(store, "b", status="finished", age_s=9000)
    assert attention(store, NOW_S) == Attention("fine", 0)


def test_the_worst_state_counts_and_how_many_runs_are_in_it(store: Store) -> None:
    for name in "abc":
        add_run(store, name)
    add_alert(store, "a", "warning")
    assert attention(store, NOW_S) == Attention("warning", 1)
    add_run(store, "d", age_s=100)
    assert attention(store, NOW_S) == Attention("silent", 1)
    add_alert(store, "b", "critical")
    add_alert(store, "b", "critical", name="second")
    add_alert(store, "c", "critical")
    assert attention(store, NOW_S) == Attention("critical", 2)


def test_a_run_that_is_silent_is_not_judged_by_its_old_alerts(store: Store) -> None:
    add_run(store, "a", age_s=100)
    add_alert(store, "a", "critical")
    assert attention(store, NOW_S) == Attention("silent", 1)


@pytest.mark.parametrize("state", ["acknowledged", "silenced", "resolved"])
def test_what_somebody_has_seen_calls_no_more(store: Store, state: AlertState) -> None:
    add_run(store, "a")
    add_alert(store, "a", "critical", state)
    assert attention(store, NOW_S) == Attention("fine", 0)


def test_an_ended_run_calls_as_long_as_its_alert_is_open_unless_it_is_archived(
    store: Store,
) -> None:
    add_run(store, "a", status="crashed", age_s=9000)
    add_alert(store, "a", "critical")
    assert attention(store, NOW_S) == Attention("critical", 1)
    store.update_run("a", is_archived=True)
    assert attention(store, NOW_S) == Attention("fine", 0)


def test_a_note_on_the_charts_calls_nobody(store: Store) -> None:
    add_run(store, "a")
    add_alert(store, "a", "info")
    assert attention(store, NOW_S) == Attention("fine", 0)
