"""A trial that a person skipped stays skipped, whatever its study asks for, until it is brought
back."""

from dataclasses import replace

import pytest

from moescope.platform import trials
from moescope.platform.records import Study, Trial
from moescope.platform.skipped_trials import skip, skipped, unskip
from moescope.platform.store import Store

NAME = "s"
STUDY = Study(NAME, {}, "running", 1.0)
TRUNK = Trial(NAME, "trunk", 0, "trunk", {}, {}, {})
BRANCH = replace(TRUNK, key="branch", position=1, label="branch", trunk="trunk", branch_at=5)
ALONE = replace(TRUNK, key="alone", position=2, label="alone")
PLAN = [TRUNK, BRANCH, ALONE]


@pytest.fixture(autouse=True)
def _asked(store: Store) -> None:
    trials.ask(store, STUDY, PLAN)


def keys(found: list[Trial]) -> list[str]:
    return [trial.key for trial in found]


def test_a_skipped_trial_is_not_claimed_and_its_study_is_over_without_it(store: Store) -> None:
    assert skip(store, NAME, "alone", "ann") == 1
    assert skip(store, NAME, "trunk", "ann") == 2
    assert trials.claim(store, NAME, "w", "r", 10.0, 30.0) is None
    assert trials.is_over(store, NAME)
    assert keys(skipped(store, NAME)) == ["trunk", "branch", "alone"]


def test_it_stays_skipped_when_its_study_is_asked_for_again(store: Store) -> None:
    skip(store, NAME, "alone", "ann")
    assert trials.ask(store, STUDY, PLAN) == (0, 0)
    assert keys(trials.trials(store, NAME)) == ["trunk", "branch"]


def test_brought_back_it_is_as_it_was(store: Store) -> None:
    before = trials.trials(store, NAME)
    skip(store, NAME, "trunk", "ann")
    assert unskip(store, NAME, "trunk") == 2
    assert trials.trials(store, NAME) == before
    assert skipped(store, NAME) == []


def test_a_branch_brings_its_trunk_back_which_it_needs(store: Store) -> None:
    skip(store, NAME, "trunk", "ann")
    assert unskip(store, NAME, "branch") == 2
    assert keys(trials.trials(store, NAME)) == ["trunk", "branch", "alone"]


def test_what_runs_or_is_done_is_not_skipped(store: Store) -> None:
    trial = trials.claim(store, NAME, "w", "r", 10.0, 30.0)
    assert trial is not None
    assert skip(store, NAME, trial.key, "ann") == 0
    trials.finish(store, trial, {"loss": 1.0}, 11.0)
    assert skip(store, NAME, trial.key, "ann") == 0
    assert keys(trials.trials(store, NAME)) == ["trunk", "branch", "alone"]


def test_a_failure_keeps_its_reason_while_it_is_skipped(store: Store) -> None:
    trial = trials.claim(store, NAME, "w", "r", 10.0, 30.0)
    assert trial is not None
    trials.fail(store, trial, "ended by signal 9", "", 11.0, is_final=True)
    skip(store, NAME, trial.key, "ann")
    unskip(store, NAME, trial.key)
    (back,) = [one for one in trials.trials(store, NAME) if one.key == trial.key]
    assert (back.state, back.result) == ("failed", {"reason": "ended by signal 9"})


def test_what_the_plan_has_no_more_does_not_come_back_as_skipped(store: Store) -> None:
    trials.ask(store, STUDY, [TRUNK, BRANCH])
    assert skipped(store, NAME) == []
    assert unskip(store, NAME, "alone") == 0
