"""The numbers of a watched run's policy and of what it keeps; the fields mean what they mean in a
recipe's `policy` and `checkpoint`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """Of monitors' `Policy`."""

    grace_steps: int = 2
    margin_steps: int = 2
    certify_after_steps: int = 20
    most_rollbacks: int = 4
    window_steps: int = 1000
    cooldown_steps: int = 10
    most_skipped_batches: int = 400
    damp_scale: float = 0.5
    damp_steps: int = 50
    harden_factor: float = 1.25
    most_hardened: float = 2.0
    relax_steps: int = 200


@dataclass(frozen=True, slots=True)
class WatchKeeping:
    """Of `states.keeping.Keeper`."""

    memory_every_steps: int = 10
    ring_gib: float = 2.0
    disk_every_steps: int = 100
    keep: int = 4
    quota_gib: float = 50.0
    min_free_gib: float = 0.5
