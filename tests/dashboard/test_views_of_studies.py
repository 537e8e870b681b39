"""The pages of studies, in their good state and the others: none, begun, failed, gone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from moescope.platform import reports, trials
from moescope.platform.records import Study, StudyReport, Trial
from moescope.platform.store import Store

NAME = "ladder"


def _studies(store: "Store") -> None:
    import streamlit as st

    from moescope.dashboard.views import studies

    studies.render(store, lambda label, name: st.text(f"link {label}"))


def _study(store: "Store", name: str) -> None:
    from moescope.dashboard.views import study

    study.render(store, name)


def seen(script: Callable[..., None], *args: Any) -> AppTest:
    page = AppTest.from_function(script, args=args, default_timeout=20).run()
    assert not page.exception, page.exception
    return page


def words(page: AppTest) -> str:
    kinds = (page.markdown, page.caption, page.text, page.header, page.info, page.warning)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


@pytest.fixture
def study(store: Store) -> Study:
    """Four trials: one done, one that runs, one that waits, one given up."""
    asked = Study(NAME, {"question": "Does <b>it</b> scale?"}, "running", 1.0)
    cost = {"flops": 1e9, "active_params": 2e5, "tokens": 4000}
    rows = [Trial(NAME, f"k{i}", i, f"seed={i}", {}, {}, cost) for i in range(4)]
    trials.ask(store, asked, rows)
    claimed = [trials.claim(store, NAME, "w", f"run-{i}", 10.0, 1e12) for i in range(3)]
    done, failed = claimed[0], claimed[1]
    assert done is not None
    assert failed is not None
    result = {"loss": 1.25, "verdict": "rolled back", "seconds": 60.0}
    trials.finish(store, done, result, 70.0)
    trials.fail(store, failed, "ended by signal 9", "the end of <its> log", 80.0, is_final=True)
    return asked


def test_without_studies_it_says_how_to_begin_one(store: Store) -> None:
    assert "moescope study run" in words(seen(_studies, store))


def test_the_list_says_how_far_each_is_and_what_it_cost(store: Store, study: Study) -> None:
    said = words(seen(_studies, store))
    assert "link ladder" in said
    assert "**1** of 4 done" in said
    assert "**1** running · **1** waiting · **1** failed" in said
    assert "1G of 4G FLOPs · trained 1 min · about 2 min to come" in said
    assert "1 rolled back" in said
    assert "<b>" not in said


def test_a_study_without_a_report_says_when_it_comes(store: Store, study: Study) -> None:
    said = words(seen(_study, store, NAME))
    assert "The report is written when all trials have ended" in said


def test_a_study_that_is_gone_is_a_line(store: Store) -> None:
    assert "No study of this name" in words(seen(_study, store, "gone"))


def test_a_failure_shows_its_reason_and_the_end_of_its_log(store: Store, study: Study) -> None:
    page = seen(_study, store, NAME)
    (expander,) = page.expander
    assert "ended by signal 9" in expander.label
    assert expander.code[0].value == "the end of <its> log"


def test_its_report_is_drawn_with_what_does_not_count(
    store: Store, study: Study, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("<html>")
    content = {
        "numbers": {
            "headline": "Nothing <i>can</i> be told.",
            "excluded": [{"label": "seed=1", "reason": "diverged"}],
        },
        "figures": {"seeds": {"data": [{"type": "scatter", "x": [1], "y": [2]}], "layout": {}}},
        "titles": {"seeds": "Each seed"},
        "captions": {"seeds": "The same."},
    }
    reports.save(store, StudyReport(NAME, 90.0, str(tmp_path), content))
    page = seen(_study, store, NAME)
    said = words(page)
    assert "Nothing \\<i\\>can" in said
    assert "**Each seed**" in said
    assert len(page.get("plotly_chart")) == 1
    assert page.expander[0].label == "1 trial does not count"
    assert len(page.get("download_button")) == 1


def test_a_person_pauses_it_and_tries_what_failed_again(store: Store, study: Study) -> None:
    page = seen(_study, store, NAME)
    page.button(key="study_paused").click().run()
    assert trials.study(store, NAME).state == "paused"
    page.button(key="study_retry").click().run()
    states = [trial.state for trial in trials.trials(store, NAME)]
    assert states == ["done", "waiting", "running", "waiting"]


def test_cancelling_asks_once_more(store: Store, study: Study) -> None:
    page = seen(_study, store, NAME)
    page.button(key="study_cancelled").click().run()
    assert "Nothing is deleted" in words(page)
    assert trials.study(store, NAME).state == "running"
    page.button(key="study_cancel_yes").click().run()
    assert trials.study(store, NAME).state == "cancelled"


def chosen(store: Store, key: str) -> AppTest:
    page = seen(_study, store, NAME)
    return page.selectbox(key="study_one_trial").set_value(key).run()


def test_a_trial_that_waits_is_left_out_after_a_question_and_brought_back(
    store: Store, study: Study
) -> None:
    page = chosen(store, "k3")
    page.button(key="trial_skip").click().run()
    assert "Nobody trains it until it is brought back" in words(page)
    assert len(trials.trials(store, NAME)) == 4
    page.button(key="trial_yes").click().run()
    assert "seed\\=3 is left out." in words(page)
    assert "1 trial is left out, and not in the table" in words(page)
    assert [trial.key for trial in trials.trials(store, NAME)] == ["k0", "k1", "k2"]
    page.button(key="trial_back").click().run()
    assert "seed\\=3 is asked for again." in words(page)
    assert len(trials.trials(store, NAME)) == 4


def test_one_trial_is_tried_again_and_the_others_stay(store: Store, study: Study) -> None:
    page = chosen(store, "k0")
    page.button(key="trial_retry").click().run()
    assert "What it came to is forgotten" in words(page)
    page.button(key="trial_no").click().run()
    assert trials.trials(store, NAME)[0].state == "done"
    page.button(key="trial_retry").click().run()
    page.button(key="trial_yes").click().run()
    states = [trial.state for trial in trials.trials(store, NAME)]
    assert states == ["waiting", "failed", "running", "waiting"]


def test_a_trial_that_began_meanwhile_is_not_left_out(store: Store, study: Study) -> None:
    page = chosen(store, "k3")
    page.button(key="trial_skip").click().run()
    assert trials.claim(store, NAME, "w", "run-9", 10.0, 1e12) is not None
    page.button(key="trial_yes").click().run()
    assert "has changed meanwhile: nothing was done" in words(page)
    assert "It runs: cancel the study" in words(page)
