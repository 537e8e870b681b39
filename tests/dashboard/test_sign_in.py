"""No data and no command without the token."""

import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import moescope.dashboard
from moescope.dashboard import sign_in
from moescope.dashboard.guesses import of_all_sessions
from moescope.dashboard.sign_in import NAME, SHOWN_TOKEN
from moescope.platform.records import Run
from moescope.platform.settings import Settings
from moescope.platform.store import Store

APP = str(Path(moescope.dashboard.__file__).parent / "app.py")
TOKEN, VIEWER_TOKEN = "the-right-token", "the-token-to-look"
LOSS = '"text": "0.9"'
"""As the list of runs is sent it."""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("MOESCOPE_TOKEN", TOKEN)
    monkeypatch.setenv("MOESCOPE_VIEWER_TOKEN", VIEWER_TOKEN)
    monkeypatch.setattr(sign_in, "EVERYBODYS", of_all_sessions())
    return AppTest.from_file(APP, default_timeout=20)


def _all(app: AppTest) -> str:
    assert not app.exception, app.exception
    said = [str(getattr(element, "value", "")) for element in app.main]
    return "\n".join([*said, *(table.proto.json for table in app.get("bidi_component"))])


def test_without_the_token_nothing_of_a_run_is_shown(app: AppTest, spiked_run: Run) -> None:
    said = _all(app.run())
    assert "wants a token" in said
    assert spiked_run.name not in said
    assert [button.label for button in app.button] == ["Sign in"]


def test_the_token_in_the_address_admits_and_leaves_the_address(
    app: AppTest, spiked_run: Run
) -> None:
    app.query_params["token"] = TOKEN
    said = _all(app.run())
    assert "Runs" in said
    assert LOSS in said
    assert "token" not in app.query_params
    # it is kept in the session: the next run of the page needs no address
    assert LOSS in _all(app.run())


def test_a_wrong_token_in_the_address_is_told(app: AppTest, spiked_run: Run) -> None:
    app.query_params["token"] = "wrong"
    said = _all(app.run())
    assert "not a token" in said
    assert "loss" not in said


def test_the_token_can_be_typed(app: AppTest, spiked_run: Run) -> None:
    app.run()
    app.text_input(key="moescope_typed_token").input("wrong")
    app.button[0].click().run()
    assert "not a token" in _all(app)
    app.text_input(key="moescope_typed_token").input(f" {TOKEN} ")
    app.button[0].click().run()
    assert LOSS in _all(app)


def test_a_changed_token_ends_what_was_admitted_before(
    app: AppTest, spiked_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.query_params["token"] = TOKEN
    assert "loss" in _all(app.run())
    monkeypatch.setenv("MOESCOPE_TOKEN", "another")
    assert "wants a token" in _all(app.run())


def test_without_a_token_in_the_environment_the_one_in_home_counts(
    app: AppTest, spiked_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOESCOPE_TOKEN")
    app.query_params["token"] = Settings().read_token()
    assert LOSS in _all(app.run())


def test_without_a_store_the_router_makes_none_and_says_so(app: AppTest, tmp_path: Path) -> None:
    app.query_params["token"] = TOKEN
    assert "No store yet" in _all(app.run())
    assert not (tmp_path / "home" / "store.db").exists()


def test_a_store_that_cannot_be_opened_is_one_line(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOESCOPE_STORE", "oracle://x")
    app.query_params["token"] = TOKEN
    assert "cannot be opened" in _all(app.run())


def _who(app: AppTest) -> str:
    """The label of the button in the bar above."""
    (label,) = [
        popover.proto.popover.label
        for popover in app.get("popover")
        if popover.proto.popover.label not in ("Views", "Note and tags")
    ]
    return str(label)


def test_the_viewers_token_admits_a_viewer_and_the_operators_an_operator(
    app: AppTest, spiked_run: Run
) -> None:
    app.query_params["token"] = VIEWER_TOKEN
    assert LOSS in _all(app.run())
    assert _who(app) == "Viewer"
    # an operator's address, opened in the same session
    app.query_params["token"] = TOKEN
    assert _who(app.run()) == "Operator"
    app.query_params["token"] = "wrong"
    assert _who(app.run()) == "Operator"


def test_a_role_that_a_session_claims_is_none(app: AppTest, spiked_run: Run) -> None:
    for key in (SHOWN_TOKEN, NAME, "role", "moescope_is_admitted"):
        app.session_state[key] = "operator"
    assert "wants a token" in _all(app.run())


def test_the_two_tokens_must_differ(
    app: AppTest, spiked_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOESCOPE_VIEWER_TOKEN", TOKEN)
    app.query_params["token"] = TOKEN
    assert "whoever may look may act" in _all(app.run())


def test_after_five_wrong_tokens_a_session_waits_and_is_told_how_long(
    app: AppTest, spiked_run: Run
) -> None:
    app.run()
    for _ in range(5):
        app.text_input(key="moescope_typed_token").input("wrong")
        app.button[0].click().run()
        assert "not a token" in _all(app)
    app.text_input(key="moescope_typed_token").input(TOKEN)
    app.button[0].click().run()
    said = _all(app)
    assert "Too many wrong tokens" in said
    assert "the next one is in 10 s" in said
    # somebody else's session is not held up by that
    other = AppTest.from_file(APP, default_timeout=20)
    other.query_params["token"] = TOKEN
    assert LOSS in _all(other.run())


def test_a_name_is_kept_and_recorded_with_what_is_done(
    app: AppTest, store: Store, spiked_run: Run
) -> None:
    app.query_params["token"] = TOKEN
    app.run()
    app.text_input(key="moescope_typed_name").input(" Ann (operator) ").run()
    assert app.session_state[NAME] == "Ann operator"
    assert _who(app.run()) == "Ann operator"


def test_signing_out_ends_it(app: AppTest, spiked_run: Run) -> None:
    app.query_params["token"] = TOKEN
    app.run()
    app.button(key="sign_out").click().run()
    assert "wants a token" in _all(app)
    assert "loss" not in _all(app.run())


def test_every_page_can_be_asked_for_before_signing_in() -> None:
    pages = re.findall(r'url_path="(\w+)"', Path(APP).read_text())
    addresses = re.search(r"ADDRESSES = \(([^)]*)\)", Path(APP).read_text())
    assert addresses is not None
    assert set(re.findall(r'"(\w+)"', addresses[1])) == set(pages), "name it in ADDRESSES"
