"""The verdict on an alert: data, state, precision, not reproducible, or no cause found."""

from dataclasses import dataclass, field
from typing import Literal

from .fidelity import Fidelity
from .record import Entry

Cause = Literal["data", "state", "precision", "not_reproducible"]
Shows = Literal["yes", "no", "unclear", "not measured"]
NO_CAUSE = "no_cause"
UNEXAMINED = "unexamined"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way in which the stretch was done again."""

    name: str
    words: str
    shows: Shows
    excursion: float
    course: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    text: str
    speaks_for: str
    """A cause, or `-` where it speaks for none."""


@dataclass(slots=True)
class Verdict:
    causes: list[Cause] = field(default_factory=list)
    is_firm: bool = True
    """False where a replay lay between showing it and not, or did not follow the record."""
    evidence: list[Evidence] = field(default_factory=list)
    arms: list[Arm] = field(default_factory=list)
    faithful: Fidelity | None = None
    is_replayed: bool = False

    @property
    def name(self) -> str:
        if self.causes:
            return " and ".join(self.causes)
        return NO_CAUSE if self.is_replayed else UNEXAMINED

    def add(self, cause: Cause, text: str) -> None:
        if cause not in self.causes:
            self.causes.append(cause)
        self.evidence.append(Evidence(text, cause))

    def note(self, text: str) -> None:
        self.evidence.append(Evidence(text, "-"))
