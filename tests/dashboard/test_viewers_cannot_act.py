"""Whatever a viewer or a stranger sets off on any page, the store stays as it is."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from moescope.dashboard import asks
from moescope.dashboard.asker import Asker
from moescope.dashboard.sign_in import SHOWN_TOKEN
from moescope.platform import tables, trials
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Run, Study, Trial
from moescope.platform.settings import Settings
from moescope.platform.store import Store

# Streamlit copies the text of these functions: their imports go inside, and what annotates them is
# quoted, since nobody imports it there

pytestmark = pytest.mark.story


def _run(store: "Store") -> None:
    from moescope.dashboard.views import run

    run.render(store, run.picked(store, ""))


def _control(store: "Store") -> None:
    from moescope.dashboard.views import control, run

    control.render(store, run.picked(store, ""))


def _incident(store: "Store") -> None:
    from moescope.dashboard.views import incident

    incident.render(store, "alert-id-amber-finch", lambda *_: None, lambda *_: None)


def _fleet(store: "Store") -> None:
    from moescope.dashboard.views import fleet

    fleet.render(store, lambda run_id: None)


def _system(store: "Store") -> None:
    from moescope.dashboard.views import system_page
    from moescope.platform.settings import Settings

    system_page.render(store, Settings())


def _alerts(store: "Store") -> None:
    from moescope.dashboard.views import alerts

    alerts.render(store, lambda label, run_id: None)


def _rules(store: "Store") -> None:
    from moescope.dashboard.views import rules

    rules.render(store)


def _study(store: "Store") -> None:
    from moescope.dashboard.views import study

    study.render(store, "s")


WITH_CONTROLS = [_run, _control, _alerts, _incident, _rules, _study]
PAGES = [*WITH_CONTROLS, _fleet, _system]
MAY_BE_PRESSED = {"edit_", "rule_close"}
"""What is no deed: it opens or closes a part of the page."""


QUESTIONS = {
    "checkpoint": (_control, "deed_yes"),
    "damp": (_control, "deed_yes"),
    "pause": (_control, "deed_yes"),
    "stop": (_control, "deed_yes"),
    "roll_back": (_control, "rollback_yes_50"),
    "at_once_acknowledged": (_alerts, "at_once_yes_acknowledged_2"),
    "at_once_silenced": (_alerts, "at_once_yes_silenced_2"),
    "at_once_resolved": (_alerts, "at_once_yes_resolved_2"),
    "off_loss_spike": (_rules, "rule_yes"),
    "study_cancelled": (_study, "study_cancel_yes"),
}
"""{what opens a question: its page, and the answer that does it}"""


@pytest.fixture
def full(store: Store, spiked_run: Run, make: Any) -> Store:
    """A run that trains, two alerts that are open, one that is silenced, a study with a failed
    trial."""
    for name in ("late_data", "idle_device"):
        changes = {"id": name, "rule": name, "dedupe_key": name}
        store.put_alert(make.alert(spiked_run.id, **changes))
    assert store.set_alert_state("idle_device", "silenced", "ana", time.time(), time.time() + 3600)
    found = [Trial("s", key, 0, f"n={key}", {}, {}, {}, state="failed") for key in "ab"]
    trials.ask(store, Study("s", {}, "running", 1.0), [*found, Trial("s", "c", 2, "c", {}, {}, {})])
    return store


def _contents(store: Store) -> dict[str, Any]:
    shown = [t for t in tables.metadata.sorted_tables if t not in tables.OF_SAMPLES]
    return {
        table.name: store.database.read(lambda c, table=table: c.execute(select(table)).all())  # type: ignore[misc]
        for table in shown
    }


def _page(script: Callable[..., None], store: Store, token: str) -> AppTest:
    page = AppTest.from_function(script, args=(store,), default_timeout=30)
    page.session_state[SHOWN_TOKEN] = token
    page.run()
    assert not page.exception, page.exception
    return page


def _keys(page: AppTest) -> list[str]:
    """The buttons; of those that each rule has, the first two of a kind."""
    keys = [str(button.key) for button in page.button if button.key]
    of_rules = {kind: [key for key in keys if key.startswith(kind)] for kind in ("edit_", "off_")}
    return [key for key in keys if all(key not in found[2:] for found in of_rules.values())]


def _press(page: AppTest, key: str) -> None:
    """Presses a button, also one that is switched off: a message may say that it was."""
    button = page.button(key=key)
    button.proto.disabled = False
    button.click().run()


@pytest.mark.parametrize("script", PAGES, ids=lambda script: script.__name__)
@pytest.mark.parametrize("who", ["viewer", "nobody"])
def test_pressing_all_there_is_changes_nothing(
    full: Store, script: Callable[..., None], who: str
) -> None:
    token = Settings().read_viewer_token() if who == "viewer" else "a token of long ago"
    before = _contents(full)
    pressed = set()
    for key in _keys(_page(script, full, token)):
        page = _page(script, full, token)
        _press(page, key)
        pressed.add(key)
        for further in set(_keys(page)) - pressed:
            _press(page, further)
    for control in _page(script, full, token).segmented_control:
        page = _page(script, full, token)
        again = page.segmented_control(key=control.key)
        again.proto.disabled = False
        again.set_value(control.options[-1]).run()
        if "set_mode" in _keys(page):
            _press(page, "set_mode")
    assert _contents(full) == before


@pytest.mark.parametrize("script", WITH_CONTROLS, ids=lambda script: script.__name__)
def test_a_page_that_was_drawn_for_an_operator_acts_for_nobody_else(
    full: Store, script: Callable[..., None]
) -> None:
    """The messages of an operator's page, played back where the session is no operator's: the
    buttons are there, and their callbacks with all that they were given."""
    operator = Settings().read_token()
    keys = _keys(_page(script, full, operator))
    assert len(keys) >= 2
    before = _contents(full)
    for key in keys:
        page = _page(script, full, operator)
        page.session_state[SHOWN_TOKEN] = Settings().read_viewer_token()
        _press(page, key)
        assert not page.exception, page.exception
    assert _contents(full) == before


@pytest.mark.parametrize("key", QUESTIONS)
def test_a_question_that_an_operator_opened_is_answered_by_nobody_else(
    full: Store, key: str
) -> None:
    script, yes = QUESTIONS[key]
    before = _contents(full)
    page = _page(script, full, Settings().read_token())
    _press(page, key)
    page.session_state[SHOWN_TOKEN] = Settings().read_viewer_token()
    _press(page, yes)
    assert not page.exception, page.exception
    assert _contents(full) == before
    said = [toast.value.replace("\\", "") for toast in page.toast]
    # the page of a study asks while it is drawn: for a viewer the question is not there any more
    assert len(said) == (script is not _study)
    assert all("was not done: it takes an operator" in words for words in said)


@pytest.mark.parametrize("key", QUESTIONS)
def test_the_same_question_acts_for_an_operator(full: Store, key: str) -> None:
    script, yes = QUESTIONS[key]
    page = _page(script, full, Settings().read_token())
    _press(page, key)
    _press(page, yes)
    done = _contents(full)["deeds"]
    assert {(deed.who, deed.role) for deed in done} == {("operator", "operator")}
    assert len(done) == (2 if key.startswith("at_once") else 1)


def test_the_mode_is_set_by_an_operator_only(full: Store) -> None:
    for token, num in ((Settings().read_viewer_token(), 0), (Settings().read_token(), 1)):
        page = _page(_control, full, Settings().read_token())
        page.segmented_control(key="mode_id-amber-finch_on").set_value("off").run()
        page.session_state[SHOWN_TOKEN] = token
        _press(page, "set_mode")
        assert [deed.what for deed in _contents(full)["deeds"]] == ["set_mode"] * num


def test_the_same_buttons_act_for_an_operator(full: Store) -> None:
    operator = Settings().read_token()
    for script, key in (
        (_run, "acknowledged_late_data"),
        (_incident, "acknowledged_alert-id-amber-finch"),
        (_alerts, "end_silence_held_id-amber-finch_idle_device"),
        (_study, "study_retry"),
    ):
        before = _contents(full)
        _page(script, full, operator).button(key=key).click().run()
        assert _contents(full) != before, key
    assert [deed.what for deed in _contents(full)["deeds"]] == [
        "acknowledged",
        "acknowledged",
        "end silence",
        "retry",
    ]


def test_a_viewer_is_told_why_and_sees_what_a_rule_is(full: Store) -> None:
    viewer = Settings().read_viewer_token()
    for script in (_control, _rules, _study):
        captions = [caption.value for caption in _page(script, full, viewer).caption]
        assert "You are signed in as a viewer, who looks; operators act." in captions
    page = _page(_control, full, viewer)
    for key in ("checkpoint", "damp", "pause", "stop", "roll_back"):
        assert page.button(key=key).disabled
    assert _keys(_page(_alerts, full, viewer)) == []
    page = _page(_rules, full, viewer)
    page.button(key="edit_loss_spike").click().run()
    assert "name: loss_spike" in page.code[0].value
    assert not page.text_area
    assert [key for key in _keys(page) if not key.startswith(tuple(MAY_BE_PRESSED))] == []


def test_the_system_page_lists_who_did_what(full: Store) -> None:
    viewer = Settings().read_viewer_token()
    assert "Nothing yet" in " ".join(m.value for m in _page(_system, full, viewer).markdown)
    for run_id in ("id-amber-finch", "no <b>such</b> run"):
        with suppress(MoescopeError):
            asks.save_checkpoint(full, Asker("Ann", "operator"), run_id)
    page = _page(_system, full, viewer)
    (table,) = (found.value for found in page.dataframe if "outcome" in found.value.columns)
    assert list(table.columns)[:4] == ["when", "who", "role", "what"]
    assert table["who"].tolist() == ["Ann", "Ann"]
    assert table["role"].tolist() == ["operator", "operator"]
    assert table["about"].tolist() == ["run no <b>such</b> run", "run amber-finch"]
    assert table["outcome"].tolist()[1] == "asked"
    # a cell of a table is text; nothing of it stands where Markdown is read
    assert "<b>" not in " ".join(m.value for m in page.markdown)
