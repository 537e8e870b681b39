"""The page of control: what can be asked, in words and once more, and how far it has come."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from moescope.platform.commands import answer, ask, commands, take
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Run, Segment
from moescope.platform.store import Store


def _control(store: "Store", wanted: str) -> None:
    import streamlit as st

    from moescope.dashboard.views import control

    def link(label: str, run_id: str) -> None:
        st.text(f"link {label} {run_id}")

    control.render(store, wanted, link, link, link)


def _words(page: AppTest) -> str:
    kinds = (
        page.markdown, page.caption, page.text, page.header, page.subheader, page.info,
        page.warning, page.success, page.error,
    )  # fmt: skip
    return "\n".join(str(element.value) for kind in kinds for element in kind).replace("\\", "")


@pytest.fixture
def page(store: Store, spiked_run: Run) -> Callable[[], AppTest]:
    def seen(wanted: str = spiked_run.id) -> AppTest:
        found = AppTest.from_function(_control, args=(store, wanted), default_timeout=20).run()
        assert not found.exception, found.exception
        return found

    return seen


def _asked(store: Store, run: Run) -> list[tuple[str, dict[str, Any]]]:
    return [(command.kind, dict(command.args)) for command in commands(store, run.id)]


class TestGoingBack:
    def test_a_rollback_is_asked_only_after_a_second_click(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        seen = page()
        seen.button(key="roll_back").click().run()
        words = _words(seen)
        assert "goes back to its state of step 50 (certified)" in words
        assert "gives up the 41 steps" in words
        assert _asked(store, spiked_run) == []
        seen.button(key="rollback_yes_50").click().run()
        (command,) = commands(store, spiked_run.id)
        assert (command.kind, command.args["to_step"]) == ("rollback", 50)
        assert command.asked_by == "operator"
        assert "roll back (to step 50)" in _words(seen)

    def test_it_can_be_cancelled(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        seen = page()
        seen.button(key="roll_back").click().run()
        seen.button(key="rollback_no").click().run()
        assert "goes back to" not in _words(seen)
        assert _asked(store, spiked_run) == []

    def test_a_tainted_state_and_one_that_is_gone_are_shown_and_not_offered(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        gone = next(c for c in store.checkpoints(spiked_run.id) if c.step == 0)
        store.put_checkpoint(dataclasses.replace(gone, is_on_disk=False))
        seen = page()
        seen.button(key="roll_back").click().run()
        choice = seen.selectbox(key=f"rollback_target_{spiked_run.id}")
        assert choice.options == [
            "the newest certified state, in memory or on disk: the trainer picks it",
            "step 90: fresh, not yet certified, on disk",
            "step 50: certified, on disk",
        ]
        (chart,) = seen.get("plotly_chart")
        for told in ("step 60: tainted, on disk", "step 0: certified, no longer there"):
            assert told in chart.proto.spec
        choice.set_value(90).run()
        seen.button(key="rollback_yes_90").click().run()
        assert _asked(store, spiked_run) == [("rollback", {"to_step": 90})]

    def test_the_trainer_may_pick_its_newest_certified_state(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        seen = page()
        seen.selectbox(key=f"rollback_target_{spiked_run.id}").set_value(-1).run()
        seen.button(key="roll_back").click().run()
        assert "goes back to its newest certified state" in _words(seen)
        seen.button(key="rollback_yes_None").click().run()
        assert _asked(store, spiked_run) == [("rollback", {"to_step": None})]

    def test_states_in_memory_are_offered_as_the_configuration_tells(
        self, page: Callable[..., AppTest], store: Store, spiked_run: Run, make: Any
    ) -> None:
        told = {"checkpoint": {"memory_every_steps": 10, "ring_gib": 2.0}, "steps": 600}
        run = make.run("ring", config=told)
        store.add_run(run)
        store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
        first = store.checkpoints(spiked_run.id)[0]
        store.put_checkpoint(dataclasses.replace(first, run_id=run.id))
        store.write_frames([make.frame(run.id, 0, 30, 1.0)])
        seen = page(run.id)
        choice = seen.selectbox(key=f"rollback_target_{run.id}")
        assert [option.split(":")[0] for option in choice.options[1:]] == [
            "step 30", "step 20", "step 10", "step 0",
        ]  # fmt: skip
        choice.set_value(20).run()
        assert "known to the trainer alone" in _words(seen)

    def test_what_lies_behind_an_open_alert_is_said_to_be_doubtful(
        self, page: Callable[[], AppTest], spiked_run: Run
    ) -> None:
        seen = page()
        assert "may be in this state" not in _words(seen)
        seen.selectbox(key=f"rollback_target_{spiked_run.id}").set_value(90).run()
        assert "loss_spike began at step 60 and is open" in _words(seen)

    def test_a_run_without_states_says_so(
        self, page: Callable[..., AppTest], store: Store, make: Any
    ) -> None:
        store.add_run(make.run("bare"))
        assert "has kept no state yet" in _words(page("id-bare"))


class TestDeeds:
    @pytest.mark.parametrize(
        ("kind", "says", "args"),
        [
            ("checkpoint", "writes its whole state to its disk", {}),
            ("damp", "trains 50 steps (to about step 141) with 0.5 times its learning rate",
             {"scale": 0.5, "steps": 50}),
            ("pause", "stands still after the present step", {}),
            ("stop", "`moescope train --resume amber-finch` goes on from its last checkpoint", {}),
        ],
    )  # fmt: skip
    def test_each_says_what_it_will_do_and_asks_once_more(
        self,
        page: Callable[[], AppTest],
        store: Store,
        spiked_run: Run,
        kind: str,
        says: str,
        args: dict[str, Any],
    ) -> None:
        seen = page()
        seen.button(key=kind).click().run()
        assert says in _words(seen)
        seen.button(key="deed_no").click().run()
        assert says not in _words(seen)
        seen.button(key=kind).click().run()
        assert _asked(store, spiked_run) == []
        seen.button(key="deed_yes").click().run()
        assert _asked(store, spiked_run) == [(kind, args)]
        assert says not in _words(seen)

    def test_how_much_and_how_long_to_damp_is_chosen(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        seen = page()
        seen.button(key="damp").click().run()
        seen.number_input(key="damp_scale").set_value(0.25)
        seen.number_input(key="damp_steps").set_value(200).run()
        assert "trains 200 steps (to about step 291) with 0.25 times" in _words(seen)
        seen.button(key="deed_yes").click().run()
        assert _asked(store, spiked_run) == [("damp", {"scale": 0.25, "steps": 200})]

    def test_a_run_that_stands_can_only_be_continued_or_stopped(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        asked = ask(store, spiked_run.id, "pause", {}, "ana", time.time())
        answer(store, asked.id, "done", "paused at step 91", time.time() + 1)
        seen = page()
        assert "paused" in _words(seen)
        assert [b.key for b in seen.button][:2] == ["continue", "stop"]
        seen.button(key="continue").click().run()
        assert "goes on from where it stands" in _words(seen)
        seen.button(key="deed_yes").click().run()
        assert _asked(store, spiked_run)[-1] == ("continue", {})

    def test_the_switch_asks_for_the_mode_in_two_steps(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        seen = page()
        switch = f"mode_{spiked_run.id}_on"
        seen.button_group(key=switch).set_value("off").run()
        assert "only raises alerts from the next step on" in _words(seen)
        seen.button(key="mode_no").click().run()
        assert seen.button_group(key=switch).value == "on"
        seen.button_group(key=switch).set_value("off").run()
        assert _asked(store, spiked_run) == []
        seen.button(key="set_mode").click().run()
        assert _asked(store, spiked_run) == [("set_mode", {"mode": "off"})]
        assert "Asked: off; the trainer has not answered yet." in _words(seen)

    def test_a_store_that_is_away_is_said_and_the_page_stays(
        self,
        page: Callable[[], AppTest],
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def away(*_: Any, **__: Any) -> None:
            raise MoescopeError("database is locked")

        seen = page()
        seen.button(key="pause").click().run()
        monkeypatch.setattr("moescope.dashboard.asks.ask", away)
        seen.button(key="deed_yes").click().run()
        assert not seen.exception
        assert [toast.value for toast in seen.toast] == ["database is locked"]


class TestTheWayOfACommand:
    def test_it_is_told_from_the_asking_to_the_answer(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        asked_s = time.time() - 120
        asked = ask(store, spiked_run.id, "checkpoint", {}, "ana", asked_s)
        seen = page()
        assert "asked by ana, 2 min ago" in _words(seen)
        assert "Asked 2 min ago, no answer: the trainer beats" in _words(seen)
        take(store, spiked_run.id)
        seen.run()
        assert "asked by ana, 2 min ago → taken" in _words(seen)
        assert "has taken it and is at it" in _words(seen)
        answer(store, asked.id, "refused", "the disk is full", asked_s + 1.5)
        seen.run()
        assert "→ taken → refused 1.5 s after it was asked" in _words(seen)
        assert "the disk is full" in _words(seen)
        assert "no answer" not in _words(seen)

    def test_a_command_that_a_silent_run_does_not_answer_says_why(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        ask(store, spiked_run.id, "checkpoint", {}, "ana", time.time() - 200)
        store.update_run(spiked_run.id, heartbeat_s=time.time() - 180)
        words = _words(page())
        assert "Asked 3 min 20 s ago, no answer: the trainer is silent" in words
        assert "its last heartbeat is 3 min old" in words

    def test_a_command_to_an_ended_run_waits_for_its_resume(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        ask(store, spiked_run.id, "checkpoint", {}, "ana", time.time())
        store.update_run(spiked_run.id, status="stopped", finished_s=time.time())
        assert "It is taken if the run is resumed" in _words(page())

    def test_text_of_an_answer_makes_no_markup(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        asked = ask(store, spiked_run.id, "checkpoint", {}, "<b>ana</b>", time.time())
        answer(store, asked.id, "done", "![x](http://x)", time.time())
        seen = page()
        drawn = "\n".join(str(m.value) for m in (*seen.markdown, *seen.caption))
        assert "![x]" not in drawn
        assert "<b>" not in drawn.replace(r"\<b", "")


class TestStates:
    def test_a_silent_run_takes_no_command_and_says_how_to_go_on(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        store.update_run(spiked_run.id, heartbeat_s=time.time() - 600)
        seen = page()
        assert "The last heartbeat is 10 min old" in _words(seen)
        for key in ("roll_back", "checkpoint", "damp", "pause", "stop"):
            assert seen.button(key=key).disabled
        assert seen.button_group(key=f"mode_{spiked_run.id}_on").disabled

    def test_an_ended_run_shows_its_states_and_takes_no_command(
        self, page: Callable[[], AppTest], store: Store, spiked_run: Run
    ) -> None:
        store.update_run(spiked_run.id, status="finished", finished_s=time.time())
        seen = page()
        assert "The run has finished" in _words(seen)
        assert "moescope train --resume amber-finch" in _words(seen)
        assert seen.button(key="roll_back").disabled
        assert len(seen.get("plotly_chart")) == 1

    def test_the_links_lead_to_what_belongs_to_the_run(
        self, page: Callable[[], AppTest], spiked_run: Run
    ) -> None:
        words = _words(page())
        for label in ("Run", "Rules", "Alerts"):
            assert f"link {label} {spiked_run.id}" in words

    def test_without_any_run_it_says_how_to_start_one(self, page: Callable[..., AppTest]) -> None:
        assert "moescope train" in _words(page(""))

    def test_an_unknown_run_is_told(self, page: Callable[..., AppTest]) -> None:
        assert "No such run" in _words(page("amber-finc"))

    def test_a_store_that_goes_away_is_said_and_not_thrown(
        self, page: Callable[[], AppTest], store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = page()

        def away(*_: Any, **__: Any) -> None:
            raise MoescopeError("database is locked")

        monkeypatch.setattr(type(store), "checkpoints", away)
        seen.run()
        assert not seen.exception
        assert "database is locked" in _words(seen)
