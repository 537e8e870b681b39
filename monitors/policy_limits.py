"""The numbers of a policy where no recipe tells them: of a watched run, of a stored one that lost
its own. They are the defaults of our own trainer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Fits `Policy`; the fields mean what they mean in a recipe's `policy`."""

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
