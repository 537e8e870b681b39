"""What every launcher promises."""

from typing import Protocol


class Launcher(Protocol):
    """Sees to it that a study has workers; which trial each takes, the trial table decides.

    A launcher may die, or two may serve one study: no trial is lost and none runs twice. Called
    from one thread.
    """

    def look(self, num_wanted: int) -> list[str]:
        """Starts workers where fewer than `num_wanted` are there or on their way, up to the study's
        slots. Called every second or so; returns what a person should know and has not been told,
        a line each. Raises MoescopeError where its engine cannot be reached; a later call may
        succeed."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether there is nobody whom `stop` would end."""
        ...

    def stop(self) -> None:
        """Lets the workers that it can reach save and give their trials back, and returns when
        they have."""
        ...
