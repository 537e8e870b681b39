"""The numbers of what a watched run keeps; the fields mean what they mean in a recipe's
`checkpoint`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchKeeping:
    """Of `states.keeping.Keeper`."""

    memory_every_steps: int = 10
    ring_gib: float = 2.0
    disk_every_steps: int = 100
    keep: int = 4
    quota_gib: float = 50.0
    min_free_gib: float = 0.5
