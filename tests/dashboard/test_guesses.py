"""Wrong tokens cost time; whose guesses they were decides for whom."""

import pytest

from moescope.dashboard.guesses import (
    STRONG_CHARACTERS,
    Guesses,
    Judgement,
    Tokens,
    is_right,
    judged,
    of_a_session,
    of_all_sessions,
    role_of,
)

STRONG = Tokens("o" * STRONG_CHARACTERS, "v" * STRONG_CHARACTERS)
WEAK = Tokens("open", "look")


def test_an_empty_token_admits_nobody() -> None:
    assert not is_right("", "")
    assert not is_right("x", "")
    assert not is_right("", "x")
    assert role_of("", Tokens("", "")) == "nobody"


@pytest.mark.parametrize(
    "given", ["the-right-toke", "the-right-token ", "THE-RIGHT-TOKEN", "ö\x00"]
)
def test_only_the_very_token_is_right(given: str) -> None:
    assert not is_right(given, "the-right-token")
    assert is_right("the-right-token", "the-right-token")


def test_the_role_is_that_of_the_token() -> None:
    assert role_of(WEAK.operator, WEAK) == "operator"
    assert role_of(WEAK.viewer, WEAK) == "viewer"
    assert role_of("other", WEAK) == "nobody"


def test_five_guesses_are_free_then_there_is_one_every_ten_seconds() -> None:
    mine = of_a_session()
    for _ in range(5):
        assert mine.wait_s(100.0) == 0
        mine.add(100.0)
    assert mine.wait_s(100.0) == 10
    assert mine.wait_s(104.0) == pytest.approx(6)
    assert mine.wait_s(110.0) == 0
    mine.add(110.0)
    assert mine.wait_s(110.0) == 10


def test_a_wait_is_never_longer_than_one_guess_costs() -> None:
    guesses = Guesses(num_free=3, every_s=7.0)
    for _ in range(1000):
        guesses.add(0.0)
    assert guesses.wait_s(0.0) == 7
    assert guesses.wait_s(7.0) == 0


def test_in_time_all_is_forgotten() -> None:
    mine = of_a_session()
    for _ in range(5):
        mine.add(0.0)
    for _ in range(5):
        assert mine.wait_s(60.0) == 0
        mine.add(60.0)


def test_while_a_session_waits_nothing_of_it_is_looked_at_not_even_the_right_token() -> None:
    mine, all_of_them = of_a_session(), of_all_sessions()
    for _ in range(5):
        assert judged("wrong", STRONG, mine, all_of_them, 0.0) == Judgement("nobody")
    assert judged(STRONG.operator, STRONG, mine, all_of_them, 0.0) == Judgement("nobody", 10.0)
    assert judged(STRONG.operator, STRONG, mine, all_of_them, 10.0) == Judgement("operator")


def test_a_new_session_is_no_new_chance_once_all_have_guessed_too_often() -> None:
    all_of_them = of_all_sessions()
    for _ in range(30):
        assert judged("wrong", STRONG, of_a_session(), all_of_them, 0.0) == Judgement("nobody")
    assert judged("wrong", STRONG, of_a_session(), all_of_them, 0.0) == Judgement("nobody", 2.0)
    # what was not looked at costs nothing: the wait does not grow
    assert judged("wrong", STRONG, of_a_session(), all_of_them, 2.0) == Judgement("nobody")


def test_others_guesses_lock_out_nobody_who_has_a_token_that_cannot_be_guessed() -> None:
    all_of_them = of_all_sessions()
    for now_s in range(100):
        judged("wrong", STRONG, of_a_session(), all_of_them, now_s)
    right = [
        judged(token, STRONG, of_a_session(), all_of_them, 99.0)
        for token in (STRONG.operator, STRONG.viewer)
    ]
    assert right == [Judgement("operator"), Judgement("viewer")]


def test_a_short_token_is_not_looked_at_while_all_have_guessed_too_often() -> None:
    all_of_them = of_all_sessions()
    for _ in range(30):
        judged("wrong", WEAK, of_a_session(), all_of_them, 0.0)
    for given in ("open", "wrong"):  # whether it was right is not told
        assert judged(given, WEAK, of_a_session(), all_of_them, 1.0) == Judgement("nobody", 1.0)
    assert judged("open", WEAK, of_a_session(), all_of_them, 2.0) == Judgement("operator")


def test_a_clock_that_stands_still_or_goes_back_frees_no_guess() -> None:
    mine = of_a_session()
    for _ in range(5):
        mine.add(50.0)
    assert mine.wait_s(10.0) == 10
