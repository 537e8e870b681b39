"""What the leading service does for studies; its launchers are played here, the store is real."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moescope.platform import reports, trials
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import parsed
from moescope.platform.records import Study, StudyReport, Trial
from moescope.platform.settings import Settings
from moescope.platform.store import Store
from moescope.studies import service_ticks
from moescope.studies.service_ticks import StudyTicks
from moescope.studies.spec import StudySpec


class Played:
    """A launcher that notes what it is asked."""

    def __init__(self, study: str, slots: int) -> None:
        self.study, self.slots = study, slots
        self.wanted: list[int] = []
        self.is_stopped = False
        self.is_away = False
        self.num_workers = 0

    @property
    def is_idle(self) -> bool:
        return self.num_workers == 0

    def look(self, num_wanted: int) -> list[str]:
        if self.is_away:
            raise MoescopeError("Slurm does not answer")
        self.wanted.append(num_wanted)
        return []

    def stop(self) -> None:
        self.is_stopped = True


@pytest.fixture
def launchers(monkeypatch: pytest.MonkeyPatch) -> list[Played]:
    made: list[Played] = []

    def make(store: Any, settings: Any, study: str, launch: Any, log: Any) -> Played:
        made.append(Played(study, launch.slots))
        return made[-1]

    monkeypatch.setattr(service_ticks, "launcher_for", make)
    return made


@pytest.fixture
def ticks(store: Store, tmp_path: Path) -> StudyTicks:
    return StudyTicks(Settings(home=tmp_path), store, "me", clock=lambda: 100.0)


def asked(store: Store, name: str, *, is_served: bool = True, slots: int = 1) -> None:
    spec = parsed(
        StudySpec,
        {
            "name": name,
            "kind": "seeds",
            "seeds": [0, 1],
            "budget": {"tokens": [1e6]},
            "launch": {"slots": slots},
        },
        "study",
    )
    study = Study(name, spec.model_dump(mode="json"), "running", 1.0, is_served)
    trials.ask(store, study, [Trial(name, f"k{i}", i, f"t{i}", {}, {}, {}) for i in range(2)])


def test_it_sees_to_the_studies_that_it_was_handed_and_no_others(
    store: Store, ticks: StudyTicks, launchers: list[Played]
) -> None:
    asked(store, "a")
    asked(store, "mine", is_served=False)
    ticks.tick()
    ticks.tick()
    (one,) = launchers
    assert (one.study, one.wanted) == ("a", [2, 2])
    ticks.stop()
    assert one.is_stopped


def test_workers_of_an_older_launch_are_ended_too(
    store: Store, ticks: StudyTicks, launchers: list[Played]
) -> None:
    asked(store, "a")
    ticks.tick()
    launchers[0].num_workers = 1
    asked(store, "a", slots=2)
    ticks.tick()
    assert [one.slots for one in launchers] == [1, 2]
    ticks.tick()
    assert launchers[0].wanted == [2, 0]
    ticks.stop()
    assert [one.is_stopped for one in launchers] == [True, True]


def test_one_study_whose_engine_is_away_holds_no_other_up(
    store: Store, ticks: StudyTicks, launchers: list[Played]
) -> None:
    asked(store, "a")
    asked(store, "b")
    ticks.tick()
    away = next(one for one in launchers if one.study == "b")
    away.is_away = True
    ticks.tick()
    assert next(one for one in launchers if one.study == "a").wanted == [2, 2]
    away.is_away = False
    ticks.tick()
    assert away.wanted == [2, 2]


def test_when_all_has_ended_a_report_is_made_once(
    store: Store, ticks: StudyTicks, launchers: list[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    asked(store, "a")
    for number in range(2):
        trial = trials.claim(store, "a", "w", f"r{number}", 10.0, 30.0)
        assert trial is not None
        trials.finish(store, trial, {"loss": 1.0}, 20.0 + number)
    ticks.tick()
    (process,) = ticks._reports.values()
    words = process.args
    assert isinstance(words, list)
    assert words[1:5] == ["-m", "moescope.studies", "report", "a"]
    assert not any("sqlite" in word or "postgres" in word for word in words)
    process.wait()
    reports.save(store, StudyReport("a", 22.0, "", {}))
    ticks.tick()
    assert ticks._reports == {}
    assert launchers == []
    ticks.stop()


def test_a_report_that_fails_is_tried_again_later(
    store: Store, tmp_path: Path, launchers: list[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    now = [100.0]
    ticks = StudyTicks(Settings(home=tmp_path), store, "me", clock=lambda: now[0])
    asked(store, "a")
    for number in range(2):
        trial = trials.claim(store, "a", "w", f"r{number}", 10.0, 30.0)
        assert trial is not None
        trials.finish(store, trial, {"loss": 1.0}, 20.0)
    ticks.tick()
    first = ticks._reports["a"]
    first.wait()
    until_s = time.monotonic() + 5
    while "a" in ticks._reports:
        assert time.monotonic() < until_s
        ticks.tick()
    now[0] += service_ticks.REPORT_AGAIN_S + 1
    ticks.tick()
    assert ticks._reports["a"] is not first
    ticks._reports["a"].wait()
