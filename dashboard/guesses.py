"""Wrong tokens are counted: how many may be tried, and how long to wait for the next.

Of one session five at once, then one every ten seconds, right or wrong. Of all sessions together
thirty at once, then one every two seconds. The second limit must not become a way to lock others
out, so it does not hold for a right token that nobody could have guessed: with 128 bits and more,
as each that was made here has, further tries gain nothing. A short one that somebody chose has no
other protection, and whoever floods the dashboard keeps its owner out for as long as that lasts.
"""

import hmac
from dataclasses import dataclass
from threading import Lock

from .asker import Role

STRONG_CHARACTERS = 22
"""128 bits, at the six that a character of `secrets.token_urlsafe` carries; those made here have 32
characters."""


class Guesses:
    """Counts wrong guesses: so many at once, then one every so many seconds.

    Any thread may call; moments are of one clock that only goes forward.
    """

    def __init__(self, num_free: int, every_s: float) -> None:
        self._num_free = num_free
        self._every_s = every_s
        self._num = 0.0
        self._at_s = 0.0
        self._lock = Lock()

    def wait_s(self, now_s: float) -> float:
        """How long until the next guess is looked at; 0: now."""
        with self._lock:
            return max(0.0, (self._left(now_s) - self._num_free + 1) * self._every_s)

    def add(self, now_s: float) -> None:
        """Notes a wrong guess."""
        with self._lock:
            self._num, self._at_s = min(self._left(now_s) + 1, self._num_free), now_s

    def _left(self, now_s: float) -> float:
        """The wrong guesses that are not forgotten: one is, every so many seconds."""
        return max(0.0, self._num - max(0.0, now_s - self._at_s) / self._every_s)


def of_a_session() -> Guesses:
    return Guesses(num_free=5, every_s=10.0)


def of_all_sessions() -> Guesses:
    return Guesses(num_free=30, every_s=2.0)


@dataclass(frozen=True, slots=True)
class Tokens:
    operator: str
    viewer: str


@dataclass(frozen=True, slots=True)
class Judgement:
    role: Role
    """nobody: it was wrong, or not looked at."""
    wait_s: float = 0.0
    """Above 0: it was not looked at, and the next is not before then."""


def is_right(given: str, token: str) -> bool:
    """Compares in constant time; an empty token admits nobody."""
    return hmac.compare_digest(given.encode(), token.encode()) and bool(token)


def role_of(given: str, tokens: Tokens) -> Role:
    """Compares with both tokens, whichever is right: the time tells nothing of them."""
    is_operator, is_viewer = is_right(given, tokens.operator), is_right(given, tokens.viewer)
    if is_operator:
        return "operator"
    return "viewer" if is_viewer else "nobody"


def judged(
    given: str, tokens: Tokens, mine: Guesses, everybodys: Guesses, now_s: float
) -> Judgement:
    """Says whose token this is, within the limits of this session and of all."""
    if (wait_s := mine.wait_s(now_s)) > 0:
        return Judgement("nobody", wait_s)
    role = role_of(given, tokens)
    wait_s = everybodys.wait_s(now_s)
    if role != "nobody" and (wait_s <= 0 or len(given) >= STRONG_CHARACTERS):
        return Judgement(role)
    if wait_s > 0:
        return Judgement("nobody", wait_s)
    mine.add(now_s)
    everybodys.add(now_s)
    return Judgement("nobody")
