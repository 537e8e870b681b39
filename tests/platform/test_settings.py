"""The tokens: made once, for their owner's eyes, and never the same."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moescope.platform.errors import MoescopeError
from moescope.platform.settings import Settings


def test_each_token_is_made_once_in_a_file_of_its_owner() -> None:
    settings = Settings()
    token, viewer_token = settings.read_token(), settings.read_viewer_token()
    assert (Settings().read_token(), Settings().read_viewer_token()) == (token, viewer_token)
    assert token != viewer_token
    assert min(len(token), len(viewer_token)) == 32
    for name in ("token", "viewer-token"):
        assert stat.S_IMODE((settings.home_path / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in settings.home_path.iterdir()) == ["token", "viewer-token"]


def test_a_file_that_others_may_read_is_closed_to_them() -> None:
    settings = Settings()
    token = settings.read_token()
    (settings.home_path / "token").chmod(0o644)
    assert settings.read_token() == token
    assert stat.S_IMODE((settings.home_path / "token").stat().st_mode) == 0o600


def test_of_many_who_make_it_at_once_all_read_the_same() -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: Settings().read_token(), range(64)))
    assert len(set(found)) == 1
    assert len(found[0]) == 32


def test_those_of_the_environment_win_and_leave_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESCOPE_TOKEN", "one")
    monkeypatch.setenv("MOESCOPE_VIEWER_TOKEN", "other")
    settings = Settings()
    assert (settings.read_token(), settings.read_viewer_token()) == ("one", "other")
    assert not Path(settings.home_path, "token").exists()


def test_one_token_for_both_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESCOPE_VIEWER_TOKEN", Settings().read_token())
    with pytest.raises(MoescopeError, match="whoever may look may act: change MOESCOPE_VIEWER_TO"):
        Settings().read_viewer_token()
