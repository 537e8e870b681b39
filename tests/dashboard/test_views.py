"""Each page in its good state and the designed others: empty, stale, no signals, no store."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from moescope.dashboard.views.overview import matches
from moescope.dashboard.views.steering import from_address, step_range
from moescope.dashboard.words import plain
from moescope.platform.alert_kinds import ENDED, NEW_BASELINE
from moescope.platform.commands import answer, ask, commands
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, Frame, Run
from moescope.platform.store import Store

# Streamlit copies the text of these functions: their imports go inside, and what annotates them is
# quoted, since nobody imports it there


def _overview(store: "Store") -> None:
    import streamlit as st

    from moescope.dashboard.views import overview

    overview.render(store, lambda label, run_id: st.text(f"link {label} {run_id}"))


def _alerts(store: "Store") -> None:
    import streamlit as st

    from moescope.dashboard.views import alerts

    alerts.render(store, lambda label, run_id: st.text(f"link {label} {run_id}"))


def _run(store: "Store", wanted: str) -> None:
    from moescope.dashboard.views import run

    run.render(store, run.picked(store, wanted))


def _no_store(url: str, problem: str) -> None:
    from moescope.dashboard.views import no_store

    no_store.render(url, problem)


def _seen(script: Callable[..., None], *args: Any) -> AppTest:
    page = AppTest.from_function(script, args=args, default_timeout=20).run()
    assert not page.exception, page.exception
    return page


def _words(page: AppTest) -> str:
    """Returns all text of a page, as it was written."""
    kinds = (
        page.markdown, page.caption, page.text, page.header, page.subheader, page.info,
        page.warning, page.success, page.error, page.title,
    )  # fmt: skip
    said = [str(element.value) for kind in kinds for element in kind]
    said += [f"{metric.label} {metric.value}" for metric in page.metric]
    return "\n".join(said)


def _charts(page: AppTest) -> list[str]:
    return [element.proto.spec for element in page.get("plotly_chart")]


class TestTheListOfRuns:
    def test_it_says_how_a_run_is_and_what_it_measured_last(
        self, store: Store, spiked_run: Run
    ) -> None:
        words = _words(_seen(_overview, store))
        assert "critical" in words
        assert "1 open alert" in words
        assert f"link {spiked_run.name} {spiked_run.id}" in words
        assert "step **91** of 600" in words
        assert "loss **0.9**" in words
        assert "**12.3k** tokens/s" in words

    def test_without_a_run_it_says_how_to_start_one(self, store: Store) -> None:
        assert "moescope train" in _words(_seen(_overview, store))

    def test_a_run_that_fell_silent_shows_the_age_of_its_heartbeat(
        self, store: Store, spiked_run: Run
    ) -> None:
        store.update_run(spiked_run.id, heartbeat_s=time.time() - 3660)
        words = _words(_seen(_overview, store))
        assert "silent" in words
        assert "heartbeat **1 h 1 min** ago" in words

    def test_a_run_without_signals_is_listed(self, store: Store, make: Any) -> None:
        store.add_run(make.run("bare"))
        words = _words(_seen(_overview, store))
        assert "healthy" in words
        assert "loss" not in words

    def test_what_was_looked_for_narrows_it(self, store: Store, make: Any) -> None:
        for name in ("red-fox", "blue-fox"):
            store.add_run(make.run(name))
        page = _seen(_overview, store)
        page.text_input(key="runs_find").input("red").run()
        assert "link red-fox" in _words(page)
        assert "blue-fox" not in _words(page)
        page.text_input(key="runs_find").input("green").run()
        assert "No run matches" in _words(page)

    def test_archived_runs_are_hidden_until_asked_for(self, store: Store, make: Any) -> None:
        store.add_run(make.run("old"))
        store.update_run("id-old", is_archived=True)
        page = _seen(_overview, store)
        assert "link old" not in _words(page)
        page.toggle(key="runs_archived").set_value(True).run()
        assert "link old" in _words(page)

    def test_many_runs_come_in_pages(self, store: Store, make: Any) -> None:
        for i in range(25):
            store.add_run(make.run(f"run-{i}", created_s=1000.0 + i))
        words = _words(_seen(_overview, store))
        assert words.count("link run-") == 20
        assert "link run-24" in words

    def test_every_wanted_word_must_occur(self, make: Any) -> None:
        run = make.run("red-fox", tags=("night",))
        assert matches(run, "FOX night")
        assert not matches(run, "fox day")


class TestThePageOfARun:
    def test_it_draws_every_chart(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.name)
        assert len(_charts(page)) == 12
        words = _words(page)
        assert "Step 91 / 600" in words
        assert "Tokens/s 12.3k" in words
        assert "critical" in words
        assert "3 vector samples left out" in words
        assert "2 steps lost" in words
        assert "1 records set aside" in words

    def test_the_loss_chart_shows_branch_alert_rollback_and_checkpoints(
        self, store: Store, spiked_run: Run
    ) -> None:
        loss = _charts(_seen(_run, store, spiked_run.id))[0]
        for name in ("abandoned branch", "critical alert", "rollback", "saved", "held"):
            assert f'"name":"{name}"' in loss

    def test_help_comes_from_the_catalogue(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        (heading,) = [m for m in page.markdown if m.value.startswith("**Gradient norm**")]
        assert "Global gradient norm before clipping." in heading.proto.help

    def test_a_run_without_signals_says_that_it_waits(self, store: Store, make: Any) -> None:
        store.add_run(make.run())
        page = _seen(_run, store, "amber-finch")
        assert "No signal of this run has arrived yet" in _words(page)
        assert _charts(page) == []

    def test_a_silent_run_shows_the_age_and_takes_no_command(
        self, store: Store, spiked_run: Run
    ) -> None:
        store.update_run(spiked_run.id, heartbeat_s=time.time() - 600)
        page = _seen(_run, store, spiked_run.id)
        assert "No heartbeat for 10 min" in _words(page)
        assert page.button(key="roll_back").disabled

    def test_an_ended_run_keeps_its_charts_and_takes_no_command(
        self, store: Store, spiked_run: Run
    ) -> None:
        store.update_run(spiked_run.id, status="finished", finished_s=time.time())
        page = _seen(_run, store, spiked_run.id)
        assert len(_charts(page)) == 12
        assert page.button(key="roll_back").disabled

    def test_without_a_name_the_newest_run_is_shown(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, "")
        assert plain(spiked_run.name) in _words(page)
        assert page.query_params["run"] == spiked_run.id

    def test_without_any_run_it_says_how_to_start_one(self, store: Store) -> None:
        assert "moescope train" in _words(_seen(_run, store, ""))

    def test_an_unknown_run_is_told_with_near_names(self, store: Store, spiked_run: Run) -> None:
        words = _words(_seen(_run, store, "amber-finc"))
        assert "No such run" in words
        assert "amber-finch" in words

    def test_a_range_of_steps_reaches_the_charts(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.button_group(key="steps").set_value("from … to").run()
        page.number_input(key="from").set_value(10)
        page.number_input(key="to").set_value(20).run()
        assert not page.exception
        assert '"range":[9.0,21.0]' in _charts(page)[0]
        assert page.query_params["steps"] == "10-20"

    def test_the_address_alone_brings_back_the_same_view(
        self, store: Store, spiked_run: Run
    ) -> None:
        page = AppTest.from_function(_run, args=(store, spiked_run.id), default_timeout=20)
        page.query_params["steps"] = "30-40"
        page.query_params["log"] = "1"
        page.run()
        loss = _charts(page)[0]
        assert '"range":[29.0,41.0]' in loss
        assert '"type":"log"' in loss
        assert page.number_input(key="from").value == 30

    def test_the_heat_map_shows_all_layers_at_a_step(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.button_group(key="experts").set_value("all layers at a step").run()
        assert "Step 90." in _words(page)
        page.number_input(key="experts_step").set_value(47).run()
        assert "Step 40." in _words(page)

    def test_the_heat_map_can_count_every_step(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.toggle(key="experts_every_step").set_value(True).run()
        assert not page.exception
        assert len(_charts(page)) == 12

    def test_more_charts_come_when_asked_for(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.toggle(key="more").set_value(True).run()
        assert not page.exception
        assert len(_charts(page)) == 16
        assert "2 files passed over so far. Look at" in _words(page)

    def test_what_a_user_logs_is_drawn_too(self, store: Store, spiked_run: Run) -> None:
        value = np.float32(0.5)
        store.write_frames([Frame(spiked_run.id, 1, 95, time.time(), {"user/fvd": value})])  # type: ignore[dict-item]
        page = _seen(_run, store, spiked_run.id)
        assert len(_charts(page)) == 13
        assert "**fvd** :gray[`user/fvd`]" in _words(page)

    def test_experts_by_noise_level_are_drawn_where_there_are_some(
        self, store: Store, spiked_run: Run
    ) -> None:
        assert "Experts by noise level" not in _words(_seen(_run, store, spiked_run.id))
        values = {
            "noise_expert/share": np.array([0.25, 0.75], np.float32),
            "noise_expert/loss": np.array([0.5, 0.1], np.float32),
            "noise_expert/boundary": np.array([0.0, 0.875], np.float32),
            "noise_expert/blended": np.array(0.125, np.float32),
        }
        store.write_frames([Frame(spiked_run.id, 1, 95, time.time(), values)])
        page = _seen(_run, store, spiked_run.id)
        assert len(_charts(page)) == 16
        assert "Experts by noise level" in _words(page)
        for name in values:
            (drawn,) = [m for m in page.markdown if f":gray[`{name}`]" in m.value]
            assert drawn.proto.help
        assert '"name":"noise expert 1"' in "".join(_charts(page))

    def test_how_alike_experts_are_is_drawn_where_it_was_measured(
        self, store: Store, spiked_run: Run
    ) -> None:
        assert "How alike" not in _words(_seen(_run, store, spiked_run.id))
        values = {
            "expert/weight_cosine": np.array([0.999, 0.5, 0.0], np.float32),
            "expert/output_cosine": np.array([0.995, 0.25, -0.1], np.float32),
        }
        store.write_frames([Frame(spiked_run.id, 1, 95, time.time(), values)])
        page = _seen(_run, store, spiked_run.id)
        assert len(_charts(page)) == 14
        for name in values:
            (drawn,) = [m for m in page.markdown if f":gray[`{name}`]" in m.value]
            assert drawn.proto.help
        assert '"text":"homogenised"' in "".join(_charts(page))

    def test_text_of_a_run_makes_no_markup(self, store: Store, spiked_run: Run) -> None:
        store.update_run(spiked_run.id, note="![x](http://x)", name="<b>bold</b>")
        words = _words(_seen(_run, store, spiked_run.id))
        assert "![x]" not in words
        assert "<b>" not in words.replace(r"\<b", "")

    def test_clips_of_the_run_are_shown_newest_first(
        self, store: Store, spiked_run: Run, tmp_path: Path
    ) -> None:
        samples = tmp_path / "run" / "samples"
        samples.mkdir(parents=True)
        (samples / "step-10.mp4").write_bytes(b"0000ftypmp42")
        store.update_run(spiked_run.id, folder=str(tmp_path / "run"))
        page = _seen(_run, store, spiked_run.id)
        assert len(page.get("video")) == 1

    def test_a_store_that_goes_away_is_said_and_not_thrown(
        self, store: Store, spiked_run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page = _seen(_run, store, spiked_run.id)

        def away(*_: Any, **__: Any) -> None:
            raise MoescopeError("database is locked")

        monkeypatch.setattr(type(store), "checkpoints", away)
        page.run()
        assert not page.exception
        assert "database is locked" in _words(page)


class TestControl:
    def test_a_rollback_is_asked_only_after_a_second_click(
        self, store: Store, spiked_run: Run
    ) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.button(key="roll_back").click().run()
        words = _words(page)
        assert "goes back to its checkpoint of step 50 (certified)" in words
        assert "gives up the 41 steps" in words
        assert commands(store, spiked_run.id) == []
        page.button(key="rollback_yes").click().run()
        (command,) = commands(store, spiked_run.id)
        assert (command.kind, command.args["to_step"]) == ("rollback", 50)
        assert command.asked_by == "operator"
        assert "asked" in _words(page)

    def test_it_can_be_cancelled(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.button(key="roll_back").click().run()
        page.button(key="rollback_no").click().run()
        assert "goes back to" not in _words(page)
        assert commands(store, spiked_run.id) == []

    def test_a_tainted_checkpoint_is_not_offered_and_another_can_be_chosen(
        self, store: Store, spiked_run: Run
    ) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.button(key="roll_back").click().run()
        choice = page.selectbox(key="rollback_target")
        assert [option.split(":")[0] for option in choice.options] == [
            "step 90",
            "step 50",
            "step 0",
        ]
        choice.set_value(0).run()
        page.button(key="rollback_yes").click().run()
        assert commands(store, spiked_run.id)[0].args["to_step"] == 0

    def test_the_answer_of_a_command_is_shown(self, store: Store, spiked_run: Run) -> None:
        asked = ask(store, spiked_run.id, "checkpoint", {}, "ana", time.time())
        answer(store, asked.id, "refused", "the disk is full", time.time())
        words = _words(_seen(_run, store, spiked_run.id))
        assert "refused" in words
        assert "the disk is full" in words
        assert "by ana" in words

    def test_the_switch_asks_for_the_mode_in_two_steps(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.button_group(key=f"mode_{spiked_run.id}_on").set_value("off").run()
        assert commands(store, spiked_run.id) == []
        page.button(key="set_mode").click().run()
        (command,) = commands(store, spiked_run.id)
        assert (command.kind, command.args) == ("set_mode", {"mode": "off"})

    def test_a_checkpoint_is_asked_for(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.button(key="save_checkpoint").click().run()
        assert [c.kind for c in commands(store, spiked_run.id)] == ["checkpoint"]


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

    def test_the_newest_comes_first_and_a_flood_is_cut(self, store: Store, spiked_run: Run) -> None:
        first: Alert = store.alerts()[0]
        for i in range(60):
            store.put_alert(
                dataclasses.replace(
                    first, id=f"a{i}", rule=f"rule-{i}", dedupe_key=f"d{i}", created_s=i + 2e9
                )
            )
        words = _words(_seen(_alerts, store))
        assert words.index(r"rule\-59") < words.index(r"rule\-58")
        assert "11 older ones are not shown" in words


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", ("all", 0, 1000)),
        ("last-200", ("last 200", 0, 1000)),
        ("100-400", ("from … to", 100, 400)),
        ("400-100", ("all", 0, 1000)),
        ("<script>", ("all", 0, 1000)),
    ],
)
def test_the_steps_in_an_address_are_read_or_ignored(text: str, read: tuple[str, int, int]) -> None:
    assert from_address(text) == read


def test_a_choice_of_steps_becomes_a_range() -> None:
    assert step_range("all", 0, 1000, 5000) is None
    assert step_range("last 200", 0, 1000, 5000) == (4801, 5000)
    assert step_range("last 1000", 0, 1000, 50) == (0, 50)
    assert step_range("from … to", 10, 20, 5000) == (10, 20)
    assert step_range("from … to", 20, 10, 5000) == (10, 21)


def test_without_a_store_the_page_says_what_to_do() -> None:
    words = _words(_seen(_no_store, "sqlite:////nowhere/store.db", ""))
    assert "No store yet" in words
    assert "sqlite:////nowhere/store.db" in words


def test_a_store_that_cannot_be_opened_is_said_in_one_line() -> None:
    words = _words(_seen(_no_store, "postgresql://x/y", "no such host: x"))
    assert "cannot be opened" in words
    assert "no such host: x" in words
