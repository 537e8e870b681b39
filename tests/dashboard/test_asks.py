"""What may be asked, by whom, and that each deed is on the list."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from moescope.dashboard import asks
from moescope.dashboard.asker import NOBODY, Asker, NotAllowed, cleaned_name
from moescope.dashboard.reads_of_deeds import deed_rows, deeds_of_run, recent_deeds
from moescope.platform import tables, trials
from moescope.platform.commands import commands
from moescope.platform.engines import StoreAway, UnknownRun
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, Run, Study, Trial
from moescope.platform.rule_versions import newest
from moescope.platform.silences import silences
from moescope.platform.store import Store

ANN = Asker("Ann", "operator")
VIEWER = Asker("Vic", "viewer")
ASKS: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in inspect.getmembers(asks, inspect.isfunction)
    if function.__module__ == asks.__name__
    and not name.startswith("_")
    and "store" in inspect.signature(function).parameters
}


class Anything(str):
    """Whatever a function may want to be given."""

    def __getattr__(self, name: str) -> "Anything":
        return Anything("x")


@pytest.fixture
def alert(store: Store, spiked_run: Run) -> Alert:
    return store.alerts(run_id=spiked_run.id)[0]


@pytest.fixture
def study(store: Store) -> str:
    trial = Trial("s", "k", 0, "n=1", {}, {}, {}, state="failed")
    trials.ask(store, Study("s", {}, "running", 1.0), [trial])
    return "s"


def contents(store: Store) -> dict[str, Any]:
    """All rows of the tables that are small."""
    shown = [t for t in tables.metadata.sorted_tables if t not in tables.OF_SAMPLES]
    return {
        table.name: store.database.read(lambda c, table=table: c.execute(select(table)).all())  # type: ignore[misc]
        for table in shown
    }


def test_there_are_functions_that_write() -> None:
    assert {"roll_back", "silence_alert", "set_rules", "retry_trials"} <= set(ASKS)


@pytest.mark.parametrize("name", sorted(ASKS))
@pytest.mark.parametrize("who", [VIEWER, NOBODY, Asker("operator", "viewer")], ids=str)
def test_whoever_is_no_operator_is_refused_and_nothing_is_written(
    store: Store, alert: Alert, study: str, name: str, who: Asker
) -> None:
    before = contents(store)
    names = list(inspect.signature(ASKS[name]).parameters)
    assert names[:2] == ["store", "who"], f"{name} must be told who asks"
    with pytest.raises(NotAllowed, match="was not done: it takes an operator"):
        ASKS[name](store, who, *(Anything("x") for _ in names[2:]))
    assert contents(store) == before


def test_a_command_and_its_deed_say_who_and_when(store: Store, spiked_run: Run) -> None:
    command = asks.roll_back(store, ANN, spiked_run.id, 50)
    (found,) = commands(store, spiked_run.id)
    assert (found.kind, found.args, found.asked_by) == (
        "rollback",
        {"to_step": 50},
        "Ann (operator)",
    )
    (deed,) = recent_deeds(store)
    assert (deed.who, deed.role, deed.what) == ("Ann (operator)", "operator", "rollback")
    assert (deed.about, deed.about_id, deed.args) == ("run", spiked_run.id, {"to_step": 50})
    assert deed.outcome == "asked"
    assert abs(deed.asked_s - command.asked_s) < 5


def test_a_nameless_operator_is_recorded_by_the_role(store: Store, spiked_run: Run) -> None:
    asks.save_checkpoint(store, Asker("", "operator"), spiked_run.id)
    assert commands(store, spiked_run.id)[0].asked_by == "operator"


def test_what_was_decided_about_an_alert_is_on_the_list_with_what_came_of_it(
    store: Store, alert: Alert
) -> None:
    assert asks.set_alert_state(store, ANN, alert, "acknowledged")
    assert asks.silence_alert(store, ANN, alert, 60.0)
    assert [silence.rule for silence in silences(store, alert.created_s)] == [alert.rule]
    asks.end_silence(store, ANN, alert.run_id, alert.rule)
    asks.end_silence(store, ANN, alert.run_id, alert.rule)
    assert asks.set_alert_state(store, ANN, alert, "resolved")
    assert not asks.silence_alert(store, ANN, alert, None)
    assert store.alert(alert.id).changed_by == "Ann (operator)"
    told = [(deed.what, deed.outcome) for deed in recent_deeds(store)[::-1]]
    assert told == [
        ("acknowledged", "done"),
        ("silenced", "done"),
        ("end silence", "done"),
        ("end silence", "nothing: there was none"),
        ("resolved", "done"),
        ("silenced", asks.HEALED),
    ]
    assert {deed.args["rule"] for deed in recent_deeds(store)} == {alert.rule}
    of_run = deeds_of_run(store, alert.run_id)
    assert {deed.about for deed in of_run} == {"run", "alert"}
    assert len(of_run) == 6


def test_a_study_has_no_room_for_who_so_the_list_has_it(store: Store, study: str) -> None:
    asks.set_study_state(store, ANN, study, "paused")
    asks.retry_trials(store, ANN, study)
    assert trials.study(store, study).state == "paused"
    assert [trial.state for trial in trials.trials(store, study)] == ["waiting"]
    told = [(deed.what, deed.about_id, deed.outcome) for deed in recent_deeds(store)]
    assert told == [("retry", study, "done: 1 trials"), ("study paused", study, "done")]


def test_a_rule_is_changed_by_whom_and_a_refusal_is_told(store: Store) -> None:
    assert asks.change_rule(store, ANN, "off", "loss_spike", "").is_done
    assert [version.changed_by for version in newest(store)] == ["Ann (operator)"]
    assert not asks.set_rules(store, ANN, "name: [", "").is_done
    refused, done = recent_deeds(store)
    assert (done.what, done.about, done.about_id) == ("rule off", "rule", "loss_spike")
    assert done.outcome == "done"
    assert refused.args["rules"] == "name: ["
    assert refused.outcome.startswith("refused: ")


def test_what_fails_is_on_the_list_as_failed(store: Store) -> None:
    with pytest.raises(UnknownRun):
        asks.save_checkpoint(store, ANN, "no-such-run")
    (deed,) = recent_deeds(store)
    assert deed.outcome.startswith("failed: run no-such-run is not in the store")


def test_nothing_is_done_that_cannot_be_written_down(store: Store, spiked_run: Run) -> None:
    store.database.write(lambda c: c.exec_driver_sql("DROP TABLE deeds"))
    with pytest.raises(StoreAway):
        asks.save_checkpoint(store, ANN, spiked_run.id)
    assert commands(store, spiked_run.id) == []


def test_what_was_done_to_a_run_stays_on_the_list_when_the_run_is_gone(
    store: Store, spiked_run: Run
) -> None:
    asks.save_checkpoint(store, ANN, spiked_run.id)
    store.delete_run(spiked_run.id)
    assert [deed.about_id for deed in recent_deeds(store)] == [spiked_run.id]
    count = select(func.count()).select_from(tables.commands)
    assert store.database.read(lambda c: c.scalar(count)) == 0


def test_a_page_of_deeds_ends_where_the_next_begins(store: Store, spiked_run: Run) -> None:
    for _ in range(5):
        asks.save_checkpoint(store, ANN, spiked_run.id)
    first = recent_deeds(store, 3)
    rest = recent_deeds(store, 3, before_s=first[-1].asked_s)
    assert len({deed.id for deed in [*first, *rest]}) == 5


def test_the_rows_that_are_shown_name_the_run(store: Store, alert: Alert) -> None:
    assert list(deed_rows([], {})) == [
        "when",
        "who",
        "role",
        "what",
        "about",
        "with",
        "outcome",
    ]
    asks.silence_alert(store, ANN, alert, 60.0)
    asks.save_checkpoint(store, ANN, alert.run_id)
    rows = deed_rows(recent_deeds(store), {alert.run_id: "amber-finch"})
    assert rows[["who", "role"]].values.tolist() == [["Ann", "operator"]] * 2
    assert rows["about"].tolist() == ["run amber-finch", f"alert {alert.id}"]
    assert rows["with"].tolist() == ["", f"rule loss_spike, run {alert.run_id}, for_s 60.0"]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("  Ann\tOgden ", "Ann Ogden"),
        ("Vic (operator)", "Vic operator"),
        ("a\u202eb\x00c\n<b>", "a b c b"),
        ("x" * 99, "x" * 40),
        (" ", ""),
    ],
)
def test_a_name_is_one_short_line_that_claims_no_role(typed: str, kept: str) -> None:
    assert cleaned_name(typed) == kept


def test_a_name_claims_nothing() -> None:
    assert str(Asker(cleaned_name("Ann (operator)"), "viewer")) == "Ann operator (viewer)"
    assert not Asker("Ann (operator)", "viewer").may_act
    assert issubclass(NotAllowed, MoescopeError)
