"""The trial table, on each store: every trial once, whoever dies."""

import threading
from typing import Any

import pytest

from moescope.platform import trials
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Study, Trial
from moescope.platform.store import Store, open_store

NAME, LEASE_S = "s", 30.0


def planned(number: int, **fields: Any) -> list[Trial]:
    return [Trial(NAME, f"k{i}", i, f"trial {i}", {}, {}, {}, **fields) for i in range(number)]


def asked(store: Store, wanted: list[Trial]) -> tuple[int, int]:
    return trials.ask(store, Study(NAME, {}, "running", 1.0), wanted)


def claimed(store: Store, now_s: float, worker: str = "w") -> Trial | None:
    return trials.claim(store, NAME, worker, f"run-{worker}-{now_s}", now_s, LEASE_S)


def sure(trial: Trial | None) -> Trial:
    assert trial is not None
    return trial


def test_trials_are_claimed_in_the_order_of_the_plan_and_done_once(store: Store) -> None:
    assert asked(store, planned(3)) == (3, 0)
    for number in range(3):
        trial = sure(claimed(store, 10.0))
        assert (trial.key, trial.state, trial.num_attempts) == (f"k{number}", "running", 1)
        assert trials.finish(store, trial, {"loss": number}, 11.0)
        assert not trials.finish(store, trial, {"loss": -1}, 12.0)
    assert claimed(store, 1e9) is None
    assert [trial.result for trial in trials.trials(store, NAME)] == [
        {"loss": 0},
        {"loss": 1},
        {"loss": 2},
    ]


def test_a_claim_that_is_not_prolonged_goes_to_another_with_the_run_that_was_begun(
    store: Store,
) -> None:
    asked(store, planned(1))
    dead = sure(claimed(store, 0.0, "dead"))
    assert claimed(store, 29.0, "other") is None
    assert trials.beat(store, dead, 29.0, LEASE_S)
    assert claimed(store, 31.0, "other") is None
    other = sure(claimed(store, 60.0, "other"))
    assert other.run_id == dead.run_id
    assert not trials.beat(store, dead, 61.0, LEASE_S)
    assert not trials.fail(store, dead, "late", "", 61.0)
    assert trials.finish(store, other, {}, 62.0)
    first, second = trials.attempts(store, NAME, "k0")
    assert first.exit_reason == "worker dead was heard no more"
    assert (second.exit_reason, second.ended_s) == ("done", 62.0)


def test_a_failure_is_tried_again_later_each_time_and_not_for_ever(store: Store) -> None:
    asked(store, planned(1))
    now_s, waits = 0.0, []
    for _ in range(trials.MOST_FAILURES):
        trial = sure(claimed(store, now_s))
        assert trials.fail(store, trial, "ended with code 1", "the end", now_s)
        (after,) = trials.trials(store, NAME)
        waits.append(after.not_before_s - now_s)
        assert claimed(store, after.not_before_s - 0.1) is None
        now_s = after.not_before_s
    assert waits == [5.0, 10.0, 20.0, 40.0]
    assert (after.state, after.result) == ("failed", {"reason": "ended with code 1"})
    assert claimed(store, 1e9) is None
    assert [a.log_tail for a in trials.attempts(store, NAME, "k0")] == ["the end"] * 4
    assert trials.retry(store, NAME) == 1
    assert sure(claimed(store, now_s)).num_attempts == 5


def test_a_worker_that_dies_of_a_trial_dies_of_it_a_bounded_number_of_times(
    store: Store,
) -> None:
    asked(store, planned(1))
    now_s, number = 0.0, 0
    while claimed(store, now_s) is not None:
        number += 1
        now_s += 1000.0
    assert number == trials.MOST_FAILURES
    assert trials.trials(store, NAME)[0].state == "failed"


def test_what_was_stopped_on_purpose_is_no_failure(store: Store) -> None:
    asked(store, planned(1))
    for _ in range(6):
        assert trials.release(store, sure(claimed(store, 0.0)), "stopped", 1.0)
    assert trials.trials(store, NAME)[0].num_failures == 0


def test_a_branch_waits_for_its_trunk(store: Store) -> None:
    trunk, branch = planned(1)[0], Trial(NAME, "b", 1, "b", {}, {}, {}, trunk="k0", branch_at=5)
    asked(store, [branch, trunk])
    first = sure(claimed(store, 0.0))
    assert first.key == "k0"
    assert claimed(store, 0.0) is None
    trials.finish(store, first, {}, 1.0)
    assert sure(claimed(store, 2.0)).key == "b"


def test_a_changed_study_adds_and_retires_and_repeats_nothing(store: Store) -> None:
    asked(store, planned(3))
    done, running = sure(claimed(store, 0.0)), sure(claimed(store, 0.0))
    trials.finish(store, done, {"loss": 1.0}, 1.0)
    new = Trial(NAME, "new", 0, "new", {}, {}, {})
    assert asked(store, [new, planned(3)[2]]) == (1, 2)
    assert [trial.key for trial in trials.trials(store, NAME)] == ["new", "k2"]
    assert not trials.beat(store, running, 2.0, LEASE_S)
    assert asked(store, planned(3)) == (0, 1)
    back = trials.trials(store, NAME)
    assert [trial.key for trial in back] == ["k0", "k1", "k2"]
    assert (back[0].state, back[0].result) == ("done", {"loss": 1.0})


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_a_study_that_rests_starts_nothing(store: Store, state: Any) -> None:
    asked(store, planned(2))
    running = sure(claimed(store, 0.0))
    trials.set_state(store, NAME, state)
    assert claimed(store, 1.0) is None
    assert trials.beat(store, running, 1.0, LEASE_S) is (state == "paused")
    trials.set_state(store, NAME, "running")
    assert claimed(store, 1.0) is not None


def test_an_unknown_study_has_near_names(store: Store) -> None:
    trials.ask(store, Study("experts-and-width", {}, "running", 1.0), [])
    with pytest.raises(
        MoescopeError, match="unknown study experts-and-widht; did you mean experts-and-width"
    ):
        trials.study(store, "experts-and-widht")


def test_four_workers_share_trials_and_none_is_done_twice(store: Store, store_url: str) -> None:
    asked(store, planned(120))
    done: list[str] = []

    def work(worker: str) -> None:
        with open_store(store_url) as own:
            while (trial := claimed(own, 0.0, worker)) is not None:
                assert trials.finish(own, trial, {}, 1.0)
                done.append(trial.key)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted({f"k{i}" for i in range(120)})
    counts = {len(trials.attempts(store, NAME, key)) for key in done}
    assert counts == {1}


def test_a_study_that_a_service_sees_to_stays_so(store: Store) -> None:
    trials.ask(store, Study(NAME, {}, "running", 1.0, is_served=True), planned(1))
    asked(store, planned(1))
    assert trials.study(store, NAME).is_served


def test_a_done_trial_is_tried_again_where_a_person_names_it(store: Store) -> None:
    asked(store, planned(2))
    for _ in range(2):
        trials.finish(store, sure(claimed(store, 0.0)), {"verdict": "stopped early"}, 1.0)
    assert trials.retry(store, NAME) == 0
    assert trials.retry(store, NAME, "trial 1") == 1
    assert [trial.state for trial in trials.trials(store, NAME)] == ["done", "waiting"]


def test_ten_thousand_trials_are_asked_for_at_once(store: Store) -> None:
    assert asked(store, planned(10_000)) == (10_000, 0)
    assert asked(store, planned(10_000)[:1]) == (0, 9_999)
    assert asked(store, planned(2)) == (0, 0)
    assert len(trials.trials(store, NAME)) == 2
