"""A run's health in one line."""

from typing import Any

from moescope.dashboard.health_words import in_words
from moescope.platform.records import Segment

START = Segment("r", 0, 0, "start", 0.0)


def test_a_run_that_never_alarmed_is_healthy_for_all_its_steps() -> None:
    assert in_words("healthy", 3119, [], [START], {}, 0.0) == "healthy for 3,120 steps"


def test_healthy_steps_count_from_the_last_alert_of_the_branch(make: Any) -> None:
    alerts = [make.alert("r", state="resolved", segment=0, fired_step=63)]
    assert in_words("healthy", 100, alerts, [START], {}, 0.0) == "healthy for 37 steps"


def test_a_rollback_says_when_and_why(make: Any) -> None:
    back = Segment("r", 1, 50, "rollback", 100.0, 0, 49, "a")
    alerts = [make.alert("r", id="a", state="resolved", segment=0, fired_step=63)]
    words = in_words("healthy", 3170, alerts, [START, back], {"a": "data and state"}, 7300.0)
    assert words == "healthy for 3,120 steps; rolled back 2 h ago for loss spike: data and state"


def test_an_open_alert_says_since_when(make: Any) -> None:
    alerts = [
        make.alert("r", id="a", severity="warning", rule="dead_experts", onset_step=10),
        make.alert("r", id="b", severity="critical", rule="loss_spike", onset_step=1060),
    ]
    assert in_words("critical", 2000, alerts, [START], {}, 0.0) == "loss spike since step 1,060"


def test_an_old_rollback_is_no_news_of_a_healthy_run() -> None:
    back = Segment("r", 1, 50, "rollback", 0.0, 0, 49)
    assert in_words("healthy", 60, [], [START, back], {}, 1e6) == "healthy for 10 steps"


def test_before_the_first_step_nothing_is_claimed() -> None:
    assert in_words("healthy", None, [], [], {}, 0.0) == "nothing measured yet"
