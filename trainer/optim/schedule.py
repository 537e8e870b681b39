"""The learning rate of a step."""

from ..config import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """Returns the learning rate of optimizer step `step` (from 0): a linear warm-up, then constant.

    lr * min(1, (step + 1) / warmup_steps). The averaged weights take the part of a decay.
    """
    rate, warmup = config.optim.learning_rate, config.optim.warmup_steps
    return rate * min(1.0, (step + 1) / warmup) if warmup else rate
