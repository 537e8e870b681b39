"""Each page in its good state and the designed others: empty, stale, no signals, no store."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from moescope.dashboard.views.steering import from_address, step_range
from moescope.dashboard.words import plain
from moescope.platform.commands import ask
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.store import Store

# Streamlit copies the text of these functions: their imports go inside, and what annotates them is
# quoted, since nobody imports it there


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
    told = [part.proto.bytes.decode() for part in page.get("bidi_component")]
    return [text for text in told if '"figure": ' in text]


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

    def test_an_alert_of_a_run_that_was_never_rolled_back_is_drawn(
        self, store: Store, make: Any
    ) -> None:
        run = make.run()
        store.add_run(run)
        store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
        store.write_frames([make.frame(run.id, 0, step, 1.0) for step in range(64)])
        store.put_alert(make.alert(run.id))
        assert '"name":"critical alert"' in _charts(_seen(_run, store, run.id))[0]

    def test_steps_that_only_the_abandoned_branch_has_are_drawn(
        self, store: Store, make: Any
    ) -> None:
        run = make.run()
        store.add_run(run)
        store.add_segment(Segment(run.id, 0, 0, "start", run.created_s))
        store.write_frames([make.frame(run.id, 0, step, 1.0) for step in range(91)])
        store.put_alert(make.alert(run.id, onset_step=80, fired_step=83))
        store.add_segment(Segment(run.id, 1, 50, "rollback", time.time(), 0, 49))
        page = AppTest.from_function(_run, args=(store, run.id), default_timeout=20)
        page.query_params["steps"] = "70-90"
        page.run()
        assert not page.exception, page.exception
        assert '"name":"abandoned branch"' in _charts(page)[0]

    def test_help_comes_from_the_catalogue(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        (heading,) = [m for m in page.markdown if m.value.startswith("**Gradient norm**")]
        assert "Global gradient norm before clipping." in heading.proto.help

    def test_a_run_without_signals_says_that_it_waits(self, store: Store, make: Any) -> None:
        store.add_run(make.run())
        page = _seen(_run, store, "amber-finch")
        assert "No signal of this run has arrived yet" in _words(page)
        assert _charts(page) == []

    def test_a_silent_run_shows_the_age(self, store: Store, spiked_run: Run) -> None:
        store.update_run(spiked_run.id, heartbeat_s=time.time() - 600)
        assert "No heartbeat for 10 min" in _words(_seen(_run, store, spiked_run.id))

    def test_an_ended_run_keeps_its_charts(self, store: Store, spiked_run: Run) -> None:
        store.update_run(spiked_run.id, status="finished", finished_s=time.time())
        assert len(_charts(_seen(_run, store, spiked_run.id))) == 12

    def test_it_says_how_far_the_run_acts_by_itself_and_what_was_asked_last(
        self, store: Store, spiked_run: Run
    ) -> None:
        ask(store, spiked_run.id, "pause", {}, "ana", time.time())
        page = _seen(_run, store, spiked_run.id)
        words = _words(page)
        assert "Automatic action" in words
        assert ":green-badge[:material/autorenew: on]" in words
        assert "1 without answer" in words
        assert "pause: asked 0 s ago" in words
        # what changes a run is asked for on a page of its own
        assert [b.key for b in page.button if "roll" in str(b.key)] == []

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

    def test_every_layer_is_drawn_over_time(self, store: Store, spiked_run: Run) -> None:
        page = _seen(_run, store, spiked_run.id)
        page.button_group(key="experts").set_value("all layers over time").run()
        assert not page.exception
        (layers,) = [c for c in _charts(page) if "of every MoE layer over the steps" in c]
        assert '"type":"heatmap"' in layers

    def test_the_head_says_in_words_how_it_is(self, store: Store, spiked_run: Run) -> None:
        words = _words(_seen(_run, store, spiked_run.id)).replace("\\", "")
        assert "Loss spike since step 60; rolled back" in words

    def test_its_configuration_is_shown_beside_another_run(
        self, store: Store, spiked_run: Run, make: Any
    ) -> None:
        store.add_run(make.run("other", config={"steps": 600, "seed": 3}))
        page = _seen(_run, store, spiked_run.id)
        page.selectbox(key="configuration_of").select("id-other").run()
        (rows,) = [d.value for d in page.dataframe if "key" in d.value.columns]
        assert rows.to_dict("records") == [{"key": "seed", "this run": "-", "other": "3"}]

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
    assert step_range("from … to", 20, 10, 5000) == (10, 20)


def test_without_a_store_the_page_says_what_to_do() -> None:
    words = _words(_seen(_no_store, "sqlite:////nowhere/store.db", ""))
    assert "No store yet" in words
    assert "sqlite:////nowhere/store.db" in words


def test_a_store_that_cannot_be_opened_is_said_in_one_line() -> None:
    words = _words(_seen(_no_store, "postgresql://x/y", "no such host: x"))
    assert "cannot be opened" in words
    assert "no such host: x" in words
