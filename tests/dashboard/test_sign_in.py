"""No data and no command without the token."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import moescope.dashboard
from moescope.dashboard.guesses import is_right
from moescope.platform.records import Run
from moescope.platform.settings import Settings

APP = str(Path(moescope.dashboard.__file__).parent / "app.py")
TOKEN = "the-right-token"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("MOESCOPE_TOKEN", TOKEN)
    return AppTest.from_file(APP, default_timeout=20)


def _all(app: AppTest) -> str:
    assert not app.exception, app.exception
    return "\n".join(str(getattr(element, "value", "")) for element in app.main)


def test_an_empty_token_admits_nobody() -> None:
    assert not is_right("", "")
    assert not is_right("x", "")
    assert not is_right("", "x")


@pytest.mark.parametrize(
    "given", ["the-right-toke", "the-right-token ", "THE-RIGHT-TOKEN", "ö\x00"]
)
def test_only_the_very_token_is_right(given: str) -> None:
    assert not is_right(given, TOKEN)
    assert is_right(TOKEN, TOKEN)


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
    assert "loss **0.9**" in said
    assert "token" not in app.query_params
    # it is kept in the session: the next run of the page needs no address
    assert "loss **0.9**" in _all(app.run())


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
    assert "loss **0.9**" in _all(app)


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
    assert "loss **0.9**" in _all(app.run())


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
