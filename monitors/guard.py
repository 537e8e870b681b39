"""The gate inside the step: holds back updates that are non-finite or extreme, on the device,
without a host sync.

It never judges mere spikes: those are the policy's business, a step later and with all signals at
hand.
"""

import math

import torch
from torch import Tensor

WARMUP_STEPS = 20
"""Accepted steps before the running level is trusted: the first gradients of a run fall by an order
of magnitude."""
LEVEL_RATE = 0.1
"""Weight of the newest accepted step in the running level: a memory of about ten steps."""


class Guard:
    """Answers 1 for a step that must change nothing, as a 0-d fp32 tensor on the device.

    held = not finite(loss, norm)  or  (norm > extreme_factor * level and held in a row <
    most_in_a_row) log(level) follows log(norm) of applied steps exponentially (LEVEL_RATE), from
    WARMUP_STEPS applied steps on. A non-finite update is never applied, however many come. Extremes
    are held at most `most_in_a_row` times in a row; then the guard lets go and takes the new norm
    as its level: a guard that never yields would stop a training for good.

    The answer goes to `optimizer.found_inf` of a fused optimizer, whose kernels then change neither
    weights nor moments nor step counters; it selects, and never multiplies a NaN by zero.
    """

    def __init__(
        self, device: torch.device | str, extreme_factor: float = 50.0, most_in_a_row: int = 3
    ) -> None:
        self._log_factor = math.log(extreme_factor)
        self._most_in_a_row = most_in_a_row
        self._log_level = torch.zeros((), dtype=torch.float32, device=device)
        self._num_applied = torch.zeros((), dtype=torch.float32, device=device)
        self._num_in_a_row = torch.zeros((), dtype=torch.float32, device=device)

    @torch.no_grad()
    def hold(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Returns found_inf, 0. or 1., and updates the level in place. loss, grad_norm: 0-d, on the
        device."""
        norm = grad_norm.detach().float().reshape(())
        is_finite = torch.isfinite(norm) & torch.isfinite(loss.detach()).all()
        # 1.0 is any finite stand-in: what was non-finite is selected away below
        log_norm = torch.where(is_finite, norm, 1.0).clamp_min(1e-30).log()
        is_high = (
            is_finite
            & (self._num_applied >= WARMUP_STEPS)
            & (log_norm > self._log_level + self._log_factor)
        )
        is_held_extreme = is_high & (self._num_in_a_row < self._most_in_a_row)
        is_let_go = is_high & ~is_held_extreme
        is_applied = is_finite & ~is_held_extreme
        rate = torch.clamp_min(1.0 / (self._num_applied + 1.0), LEVEL_RATE)
        # one gradient of zero must not drag the level far below: a step moves it by at most a
        # factor e^2 * rate
        moved = self._log_level + rate * torch.where(
            self._num_applied == 0,
            log_norm - self._log_level,
            (log_norm - self._log_level).clamp(-2.0, 2.0),
        )
        self._log_level = torch.where(
            is_let_go, log_norm, torch.where(is_applied, moved, self._log_level)
        )
        self._num_in_a_row = torch.where(
            is_held_extreme, self._num_in_a_row + 1, torch.where(is_finite, 0.0, self._num_in_a_row)
        )
        self._num_applied = self._num_applied + is_applied
        return (~is_applied).float()

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "log_level": self._log_level.clone(),
            "num_applied": self._num_applied.clone(),
            "num_in_a_row": self._num_in_a_row.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        device = self._log_level.device
        # a tensor of its own: hold() rebinds, but a caller may go on writing into what it handed
        # over
        self._log_level = state["log_level"].to(device, torch.float32).clone()
        self._num_applied = state["num_applied"].to(device, torch.float32).clone()
        self._num_in_a_row = state["num_in_a_row"].to(device, torch.float32).clone()
