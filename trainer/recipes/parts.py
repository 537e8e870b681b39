"""What recipes of several families have in common."""

from typing import Any


def at_length(ring_gib: float = 64.0, quota_gib: float = 500.0) -> dict[str, Any]:
    """A run of weeks: slow averages (facts: model.md 6.2), many decoders, rarer looks."""
    return {
        "data.workers": 8,
        "optim.learning_rate": 1e-4,
        "optim.beta2": 0.999,
        "optim.ema_decay": 0.9999,
        "watch.probe_every": 1000,
        "policy.certify_after_steps": 200,
        "policy.window_steps": 10_000,
        "checkpoint.memory_every_steps": 100,
        "checkpoint.disk_every_steps": 1000,
        "checkpoint.ring_gib": ring_gib,
        "checkpoint.quota_gib": quota_gib,
    }
