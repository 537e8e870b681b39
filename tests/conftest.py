"""Fixtures for all tests, and the demand for PostgreSQL where continuous integration makes it."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

POSTGRES_URL = "postgresql://postgres@127.0.0.1:5432/test"


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the home, the store or the addresses of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("MOESCOPE_") and not name.startswith("MOESCOPE_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOESCOPE_HOME", str(tmp_path / "home"))


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Fills memory that nobody wrote with NaN, inside torch's operators too, for the length of a test.

    A test of tensor code must not pass by the luck of fresh zeros. torch fills its uninitialised memory in
    deterministic mode; it is imported here, so that tests without tensors do not wait for it.
    """
    import torch

    was_on = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(was_on)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where MOESCOPE_TEST_REQUIRE_POSTGRES is set, a skipped test of PostgreSQL is a failed one."""
    report = yield
    is_demanded = os.environ.get("MOESCOPE_TEST_REQUIRE_POSTGRES", "") not in ("", "0")
    if is_demanded and report.skipped and item.get_closest_marker("postgres"):
        report.outcome = "failed"
        url = os.environ.get("MOESCOPE_TEST_POSTGRES_URL", POSTGRES_URL)
        report.longrepr = f"PostgreSQL is demanded here, but {item.name} was skipped ({url})"
    return report
