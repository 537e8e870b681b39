"""Leases: one holder at a time, for as long as it beats."""

import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moescope.platform.leases import all_leases, beat, claim, holder, release
from moescope.platform.store import Store, open_store


def test_a_lease_has_one_holder_until_it_is_over(store: Store) -> None:
    assert holder(store, "lead", 0.0) is None
    assert claim(store, "lead", "a", 0.0, 10.0)
    assert not claim(store, "lead", "b", 9.9, 10.0)
    assert holder(store, "lead", 9.9) == "a"
    assert holder(store, "lead", 10.0) is None
    assert claim(store, "lead", "b", 10.0, 10.0)
    assert holder(store, "lead", 10.0) == "b"


def test_a_holder_that_beats_keeps_its_lease(store: Store) -> None:
    claim(store, "lead", "a", 0.0, 10.0)
    assert beat(store, "lead", "a", 9.0, 10.0)
    assert not claim(store, "lead", "b", 18.0, 10.0)
    assert claim(store, "lead", "a", 18.0, 10.0)


def test_a_beat_that_comes_too_late_says_so(store: Store) -> None:
    claim(store, "lead", "a", 0.0, 10.0)
    claim(store, "lead", "b", 11.0, 10.0)
    assert not beat(store, "lead", "a", 12.0, 10.0)
    assert holder(store, "lead", 12.0) == "b"
    # late, but nobody wanted it meanwhile
    assert beat(store, "lead", "b", 30.0, 10.0)


def test_only_its_holder_releases_a_lease(store: Store) -> None:
    claim(store, "lead", "a", 0.0, 10.0)
    release(store, "lead", "b")
    assert holder(store, "lead", 1.0) == "a"
    release(store, "lead", "a")
    release(store, "lead", "a")
    assert claim(store, "lead", "b", 1.0, 10.0)


def test_of_many_who_claim_at_once_one_succeeds(store: Store, store_url: str) -> None:
    succeeded: list[str] = []
    start = threading.Barrier(4)

    def work(name: str) -> None:
        with open_store(store_url) as mine:
            start.wait()
            if claim(mine, "lead", name, 0.0, 10.0):
                succeeded.append(name)

    threads = [threading.Thread(target=work, args=(f"p{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [holder(store, "lead", 1.0)] == succeeded


moves = st.lists(
    st.tuples(
        st.sampled_from(["claim", "beat", "release"]), st.sampled_from("ab"), st.integers(0, 8)
    ),
    max_size=12,
)


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(moves)
def test_who_is_told_that_it_holds_the_lease_holds_it(
    store: Store, given_moves: list[tuple[str, str, int]]
) -> None:
    for name in "ab":
        release(store, "lead", name)
    now_s = 0.0
    for move, who, wait_s in given_moves:
        now_s += wait_s
        before = holder(store, "lead", now_s)
        if move == "release":
            release(store, "lead", who)
            assert holder(store, "lead", now_s) == (None if before == who else before)
        elif move == "claim":
            assert claim(store, "lead", who, now_s, 5.0) == (before in (None, who))
            assert holder(store, "lead", now_s) == (before or who)
        elif beat(store, "lead", who, now_s, 5.0):
            assert holder(store, "lead", now_s) == who
        else:
            assert before != who


def test_all_leases_are_told_as_they_stand_over_or_not(store: Store) -> None:
    assert all_leases(store) == []
    claim(store, "b", "me", 10.0, 5.0)
    claim(store, "a", "you", 20.0, 5.0)
    beat(store, "a", "you", 22.0, 5.0)
    assert all_leases(store) == [("a", "you", 20.0, 27.0), ("b", "me", 10.0, 15.0)]
