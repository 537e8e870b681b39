"""Who asks: the name and role under which a deed is done and recorded."""

from dataclasses import dataclass
from typing import Literal

from ..platform.errors import MoescopeError

Role = Literal["operator", "viewer", "nobody"]
"""Operators look and act, viewers look; nobody has shown no token."""

MOST_OF_A_NAME = 40


class NotAllowed(MoescopeError):
    """Whoever asks has not the role for it; nothing was done."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who sits at a session: the role is the token's, the name is what a person said."""

    name: str
    role: Role

    @property
    def may_act(self) -> bool:
        return self.role == "operator"

    @property
    def why_not(self) -> str:
        """Why this asker's controls are off; empty for an operator."""
        if self.role == "viewer":
            return "You are signed in as a viewer, who looks; operators act."
        return "" if self.may_act else "Nobody is signed in here; operators act."

    def __str__(self) -> str:
        """As it is recorded: `ann (operator)`."""
        return f"{self.name} ({self.role})" if self.name else self.role


NOBODY = Asker("", "nobody")


def cleaned_name(typed: str) -> str:
    """One short line that cannot be taken for a role.

    >>> cleaned_name("  Ann  (operator)\\n")
    'Ann operator'
    """
    kept = "".join(c if c.isprintable() and c not in "()<>" else " " for c in typed)
    return " ".join(kept.split())[:MOST_OF_A_NAME].strip()


def refuse_who_may_not(who: Asker, what: str) -> None:
    """Raises NotAllowed unless an operator asks. what: what was asked for, in a word."""
    if not who.may_act:
        raise NotAllowed(f"{what} was not done: it takes an operator. {who.why_not}")
