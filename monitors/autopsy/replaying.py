"""What an autopsy asks of a replay; the trainer, which monitors never import, hands its own in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .record import Entry

State = Literal["before", "at"]
"""before: the newest sound state from before the onset. at: the state at the alarm."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One step to be done again."""

    step: int
    batch: int
    learning_rate: float | None
    """None: what the configuration says."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which steps are done again, from where and how."""

    state: State
    turns: tuple[Turn, ...]
    is_trained: bool = True
    """False: only the losses of the batches are computed, and the flip rate of
    the routers; the state stays as it is."""
    is_fp32: bool = False
    """Whether all is computed in fp32, whatever the run has."""
    taps_from: int = 0
    """Step from which on the sampled tier is measured, too."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How much of a part's weights lies on the coarse grid of a narrower format; of formats the
    narrowest comes first."""

    part: str
    dtype: str
    share_before: float
    share_at: float


class Replay(Protocol):
    """Does steps of a run again from saved states; changes nothing of the run."""

    @property
    def precision(self) -> str:
        """What products and router are computed in, in words; "fp32" where that is all."""
        ...

    @property
    def has_exact_router(self) -> bool:
        """Whether routers compute in fp32, whatever the products are computed in."""
        ...

    @property
    def states(self) -> dict[State, int]:
        """{state: the step that comes next in it} of the states that there are."""
        ...

    def learning_rate(self, step: int) -> float:
        """What the configuration says."""
        ...

    def do(self, plan: Plan) -> Sequence[Entry]:
        """Returns what was measured in each of the turns: equal plans give the
        same bits. Raises MoescopeError where a state or its data are gone."""
        ...

    def roundings(self) -> Sequence[Rounding]:
        """Compares the weights of both states; empty where one of them is not there."""
        ...
