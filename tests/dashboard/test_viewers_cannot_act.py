"""Whatever a viewer or a stranger sets off on any page, the store stays as it is."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from moescope.dashboard.sign_in import SHOWN_TOKEN
from moescope.platform import tables, trials
from moescope.platform.records import Run, Study, Trial
from moescope.platform.settings import Settings
from moescope.platform.store import Store

# Streamlit copies the text of these functions: their imports go inside, and what annotates them is
# quoted, since nobody imports it there


def _run(store: "Store") -> None:
    from moescope.dashboard.views import run

    run.render(store, run.picked(store, ""))


def _alerts(store: "Store") -> None:
    from moescope.dashboard.views import alerts

    alerts.render(store, lambda label, run_id: None)


def _rules(store: "Store") -> None:
    from moescope.dashboard.views import rules

    rules.render(store)


def _study(store: "Store") -> None:
    from moescope.dashboard.views import study

    study.render(store, "s")


PAGES = [_run, _alerts, _rules, _study]
MAY_BE_PRESSED = {"edit_", "rule_close"}
"""What is no deed: it opens or closes a part of the page."""


@pytest.fixture
def full(store: Store, spiked_run: Run) -> Store:
    """A run that trains, an alert that is open, a study with a failed trial."""
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


@pytest.mark.parametrize("script", PAGES, ids=lambda script: script.__name__)
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
    assert _contents(full) == before


def test_the_same_buttons_act_for_an_operator(full: Store) -> None:
    operator = Settings().read_token()
    for script, key in (
        (_run, "save_checkpoint"),
        (_alerts, "acknowledged_alert-id-amber-finch"),
        (_study, "study_retry"),
    ):
        before = _contents(full)
        _page(script, full, operator).button(key=key).click().run()
        assert _contents(full) != before, key
    assert [deed.what for deed in _contents(full)["deeds"]] == [
        "checkpoint",
        "acknowledged",
        "retry",
    ]


def test_a_viewer_is_told_why_and_sees_what_a_rule_is(full: Store) -> None:
    viewer = Settings().read_viewer_token()
    for script in (_run, _rules, _study):
        captions = [caption.value for caption in _page(script, full, viewer).caption]
        assert "You are signed in as a viewer, who looks; operators act." in captions
    assert _page(_run, full, viewer).button(key="roll_back").disabled
    page = _page(_rules, full, viewer)
    page.button(key="edit_loss_spike").click().run()
    assert "name: loss_spike" in page.code[0].value
    assert [key for key in _keys(page) if not key.startswith(tuple(MAY_BE_PRESSED))] == []
