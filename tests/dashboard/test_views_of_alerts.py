"""The page of alerts: each with who decided what, found by what it is, paged, decided at once."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from moescope.dashboard.alert_filter import AlertFilter, counted, from_address, matching
from moescope.dashboard.words import plain
from moescope.platform.alert_kinds import ENDED, NEW_BASELINE
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, Run
from moescope.platform.store import Store


def _alerts(store: "Store") -> None:
    import streamlit as st

    from moescope.dashboard.views import alerts

    alerts.render(store, lambda label, run_id: st.text(f"link {label} {run_id}"))


def _seen(script: Callable[..., None], *args: Any, **address: str) -> AppTest:
    page = AppTest.from_function(script, args=args, default_timeout=20)
    for name, value in address.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception, page.exception
    return page


def _words(page: AppTest) -> str:
    kinds = (
        page.markdown, page.caption, page.text, page.header, page.info, page.warning,
        page.success, page.error,
    )  # fmt: skip
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def _rules_shown(page: AppTest) -> list[str]:
    """The rules of the cards, in their order."""
    found = [m.value for m in page.markdown if m.value.startswith("**") and m.value.endswith("**")]
    return [value.strip("*").replace("\\", "") for value in found if "Silenced" not in value]


@pytest.fixture
def flood(store: Store, spiked_run: Run, make: Any) -> list[Alert]:
    """45 alerts of three rules and severities in two runs, the newest last."""
    other = make.run("blue-fox")
    store.add_run(other)
    made = []
    for i in range(45):
        alert = make.alert(
            (spiked_run.id, other.id)[i % 2],
            id=f"a{i}",
            rule=("loss_spike", "odd_batches", "dead_experts")[i % 3],
            severity=("critical", "warning", "info")[i % 3],
            dedupe_key=f"d{i}",
            created_s=time.time() - 100 + i,
        )
        store.put_alert(alert)
        made.append(alert)
    return made


class TestAlerts:
    def test_an_alert_says_since_when_and_against_which_limit(
        self, store: Store, spiked_run: Run
    ) -> None:
        words = _words(_seen(_alerts, store))
        assert "began at step 60, fired at step 63" in words
        assert "value 9.5 sigma, limit 4 sigma" in words
        assert f"link {spiked_run.name}" in words

    def test_acknowledging_takes_it_from_the_open_ones(self, store: Store, spiked_run: Run) -> None:
        (alert,) = store.alerts()
        page = _seen(_alerts, store)
        page.button(key=f"acknowledged_{alert.id}").click().run()
        assert store.alert(alert.id).state == "acknowledged"
        assert store.alert(alert.id).changed_by == "operator"
        assert "No open alert" in _words(page)
        page.button_group(key="alerts_state").set_value("Acknowledged").run()
        assert r"acknowledged by operator" in _words(page)

    def test_it_says_what_an_alert_means_and_what_to_do(
        self, store: Store, spiked_run: Run, make: Any
    ) -> None:
        told = {"meaning": "Bad <b>data</b>.", "advice": "Look at the *clips*."}
        store.put_alert(make.alert(spiked_run.id, id="told", evidence=told))
        store.put_alert(make.alert(spiked_run.id, id="own", rule="stalled"))
        words = _words(_seen(_alerts, store))
        assert plain("Bad <b>data</b>.") in words
        assert f"**To do.** {plain('Look at the *clips*.')}" in words
        assert "`py-spy dump --pid PID`" in words
        assert "docs/alerts.md" in words

    def test_silencing_says_for_how_long_and_by_whom(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_alerts, store)
        alert_id = f"alert-{spiked_run.id}"
        page.button(key=f"silence_28800_{alert_id}").click().run()
        found = store.alert(alert_id)
        assert (found.state, found.changed_by) == ("silenced", "operator")
        assert found.silenced_until_s == pytest.approx(time.time() + 8 * 3600, abs=60)
        page.segmented_control(key="alerts_state").set_value("Silenced").run()
        assert "silenced for another 7 h 59 min by operator, 0 s ago" in _words(page).replace(
            "1 s ago", "0 s ago"
        ).replace("8 h by", "7 h 59 min by")
        page.button(key=f"end_silence_{alert_id}_{spiked_run.id}_loss_spike").click().run()
        assert store.alert(alert_id).state == "open"

    def test_a_silence_without_end_outlives_its_alert_and_can_be_ended(
        self, store: Store, spiked_run: Run, make: Any
    ) -> None:
        alert_id = f"alert-{spiked_run.id}"
        page = _seen(_alerts, store)
        page.button(key=f"silence_ever_{alert_id}").click().run()
        ended = {"state": "resolved", "changed_s": time.time() + 1}
        store.put_alert(dataclasses.replace(store.alert(alert_id), **ended))
        assert store.alert(alert_id).state == "resolved"
        # the next one of its rule and run calls nobody, and the page says so
        store.put_alert(make.alert(spiked_run.id, id="next"))
        now_s = time.time() + 1e6
        assert store.undelivered_alerts(now_s) == []
        page.run()
        words = _words(page)
        assert "**Silenced**" in words
        assert "until somebody ends it" in words
        page.button(key=f"end_silence_held_{spiked_run.id}_loss_spike").click().run()
        assert "**Silenced**" not in _words(page)
        assert store.alert(alert_id).state == "resolved"
        assert [alert.id for alert in store.undelivered_alerts(now_s)] == ["next"]

    def test_a_click_on_an_alert_that_has_healed_meanwhile_changes_nothing_and_says_so(
        self, store: Store, spiked_run: Run
    ) -> None:
        alert_id = f"alert-{spiked_run.id}"
        for button in ("acknowledged", "silence_3600", "resolved"):
            store.set_alert_state(alert_id, "open", "", time.time())
            page = _seen(_alerts, store)
            healed = {"state": "resolved", "changed_by": "", "changed_s": time.time() + 1}
            store.put_alert(dataclasses.replace(store.alert(alert_id), **healed))
            before = store.alert(alert_id)
            assert before.state == "resolved"
            page.button(key=f"{button}_{alert_id}").click().run()
            assert store.alert(alert_id) == before
            assert [toast.value for toast in page.toast] == [
                r"loss\_spike has healed or was resolved meanwhile: nothing was changed."
            ]

    def test_an_alert_that_a_new_baseline_ended_is_not_said_to_have_healed(
        self, store: Store, spiked_run: Run
    ) -> None:
        found = store.alert(f"alert-{spiked_run.id}")
        evidence = {**found.evidence, ENDED: NEW_BASELINE}
        ended = dataclasses.replace(
            found, state="resolved", changed_s=time.time(), evidence=evidence
        )
        store.put_alert(ended)
        page = _seen(_alerts, store)
        page.segmented_control(key="alerts_state").set_value("All").run()
        words = _words(page)
        assert "its rule learnt a new baseline, nothing has healed" in words
        assert "resolved by itself" not in words

    def test_a_channel_that_fails_is_shown(self, store: Store, spiked_run: Run) -> None:
        assert "could not be sent" not in _words(_seen(_alerts, store))
        store.mark_delivered(f"alert-{spiked_run.id}", time.time(), "JSON: connection\nrefused")
        words = _words(_seen(_alerts, store))
        assert "1 alert of the last day could not be sent" in words
        assert "JSON: connection refused" in words

    def test_without_alerts_it_says_so(self, store: Store) -> None:
        assert "No open alert" in _words(_seen(_alerts, store))


class TestFinding:
    def test_the_newest_comes_first_and_a_flood_is_paged(
        self, store: Store, flood: list[Alert]
    ) -> None:
        page = _seen(_alerts, store)
        assert "46 open alerts (16 critical, 15 warning, 15 info), 1 to 20 shown" in _words(page)
        assert _rules_shown(page)[:3] == ["dead_experts", "odd_batches", "loss_spike"]
        assert len(_rules_shown(page)) == 20
        last = _seen(_alerts, store, page="3")
        assert "41 to 46 shown" in _words(last)
        assert len(_rules_shown(last)) == 6
        # a page that there is not is the last one
        assert "41 to 46 shown" in _words(_seen(_alerts, store, page="99"))

    def test_the_address_chooses_and_follows_the_choice(
        self, store: Store, flood: list[Alert]
    ) -> None:
        page = _seen(_alerts, store, severity="warning-info", run="blue-fox", find="loss far")
        assert "15 open alerts (8 warning, 7 info)" in _words(page)
        assert page.selectbox(key="alerts_run").value == "id-blue-fox"
        page.selectbox(key="alerts_rule").set_value("odd_batches").run()
        assert set(_rules_shown(page)) == {"odd_batches"}
        assert page.query_params["rule"] == "odd_batches"
        assert page.query_params["severity"] == "warning-info"
        page.button(key="alerts_clear").click().run()
        assert "46 open alerts" in _words(page)
        assert page.query_params.get("rule") is None

    def test_another_choice_begins_on_its_first_page(
        self, store: Store, flood: list[Alert]
    ) -> None:
        page = _seen(_alerts, store, page="3")
        page.pills(key="alerts_severity").set_value(["critical", "warning"]).run()
        assert "1 to 20 shown" in _words(page)
        assert page.query_params.get("page") is None

    def test_where_nothing_matches_it_says_so(self, store: Store, flood: list[Alert]) -> None:
        assert "No alert matches" in _words(_seen(_alerts, store, find="no such words"))

    @pytest.mark.parametrize("odd", [{"state": "<b>"}, {"run": "nobody"}, {"page": "-1"}])
    def test_an_address_that_cannot_be_read_shows_all(
        self, store: Store, flood: list[Alert], odd: dict[str, str]
    ) -> None:
        assert "46 open alerts" in _words(_seen(_alerts, store, **odd))

    def test_a_thousand_alerts_open_in_under_two_seconds(
        self, store: Store, spiked_run: Run, make: Any
    ) -> None:
        for i in range(1000):
            store.put_alert(make.alert(spiked_run.id, id=f"a{i}", dedupe_key=f"d{i}"))
        _seen(_alerts, store)
        start_s = time.perf_counter()
        page = _seen(_alerts, store)
        # about 0.3 s on a quiet machine
        assert time.perf_counter() - start_s < 2
        assert "1,001 open alerts" in _words(page)


class TestSeveralAtOnce:
    def test_those_that_are_shown_are_acknowledged_after_a_question(
        self, store: Store, flood: list[Alert]
    ) -> None:
        page = _seen(_alerts, store, run="blue-fox")
        page.button(key="at_once_acknowledged").click().run()
        said = "**20** alerts of 3 rules in 1 run will be acknowledged."
        assert said in _words(page)
        page.button(key="at_once_no").click().run()
        assert said not in _words(page)
        assert len(store.alerts(states=["open"])) == 46
        page.button(key="at_once_acknowledged").click().run()
        page.button(key="at_once_yes_acknowledged_20").click().run()
        decided = store.alerts(states=["acknowledged"])
        assert {(a.run_id, a.changed_by) for a in decided} == {("id-blue-fox", "operator")}
        assert len(decided) == 20
        assert [toast.value for toast in page.toast] == ["20 acknowledged."]
        assert "2 open alerts" in _words(page)

    def test_all_that_match_are_resolved_where_that_is_chosen(
        self, store: Store, flood: list[Alert]
    ) -> None:
        page = _seen(_alerts, store, rule="odd_batches")
        # 15 fit on a page: there is nothing to choose between
        page.button(key="at_once_resolved").click().run()
        assert not [g for g in page.button_group if g.key == "alerts_whom"]
        page.button(key="at_once_no").click().run()
        page.selectbox(key="alerts_rule").set_value("").run()
        page.button(key="at_once_resolved").click().run()
        page.button_group(key="alerts_whom").set_value("all").run()
        page.button(key="at_once_yes_resolved_46").click().run()
        assert store.alerts(states=["open"]) == []

    def test_silencing_several_asks_for_how_long(self, store: Store, flood: list[Alert]) -> None:
        page = _seen(_alerts, store, rule="dead_experts", run="blue-fox")
        page.button(key="at_once_silenced").click().run()
        page.selectbox(key="alerts_how_long").set_value("For 8 hours").run()
        page.button(key="at_once_yes_silenced_7").click().run()
        found = store.alerts(states=["silenced"])
        assert len(found) == 7
        for alert in found:
            assert alert.silenced_until_s == pytest.approx(time.time() + 8 * 3600, abs=60)

    def test_an_alert_that_comes_after_the_click_is_not_decided_unseen(
        self, store: Store, flood: list[Alert], make: Any
    ) -> None:
        page = _seen(_alerts, store, rule="odd_batches")
        page.button(key="at_once_acknowledged").click().run()
        store.put_alert(make.alert("id-blue-fox", id="late", rule="odd_batches", dedupe_key="l"))
        store.set_alert_state("a1", "resolved", "ana", time.time())
        page.button(key="at_once_yes_acknowledged_15").click().run()
        assert store.alert("late").state == "open"
        assert [toast.value for toast in page.toast] == [
            "14 acknowledged; 1 had healed or were resolved meanwhile."
        ]


class TestStates:
    def test_a_store_that_goes_away_is_said_and_not_thrown(
        self, store: Store, spiked_run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page = _seen(_alerts, store)

        def away(*_: Any, **__: Any) -> None:
            raise MoescopeError("database is locked")

        monkeypatch.setattr(type(store), "alerts", away)
        page.run()
        assert not page.exception
        assert "database is locked" in _words(page)


def test_an_address_and_a_choice_are_the_same(make: Any) -> None:
    chosen = AlertFilter("All", frozenset({"info", "critical"}), "loss_spike", "r", "two words")
    address = chosen.address()
    assert address == {
        "state": "all",
        "severity": "critical-info",
        "rule": "loss_spike",
        "run": "r",
        "find": "two words",
    }
    assert from_address(address) == chosen
    assert AlertFilter().address() == {}
    assert from_address({}) == AlertFilter()


def test_every_word_must_occur_in_rule_message_or_run(make: Any) -> None:
    alerts = [make.alert("r", id="1", message="the loss"), make.alert("q", id="2", rule="odd")]
    names = {"r": "amber-finch", "q": "blue-fox"}

    def found(text: str) -> list[str]:
        return [a.id for a in matching(alerts, AlertFilter(text=text), names)]

    assert found("AMBER loss") == ["1"]
    assert found("odd fox") == ["2"]
    assert found("odd amber") == []
    assert counted(alerts) == "2 critical"
