"""Huge pages are asked for, unless the environment says otherwise."""

import os

import pytest

from moescope.kernels.host_memory import use_huge_pages

SETTING = "THP_MEM_ALLOC_ENABLE"


def test_large_tensors_ask_for_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "before")
    monkeypatch.delenv(SETTING)
    use_huge_pages()
    assert os.environ[SETTING] == "1"


def test_what_the_environment_says_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "0")
    use_huge_pages()
    assert os.environ[SETTING] == "0"
