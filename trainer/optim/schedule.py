"""The learning rate of a step."""

import math

from ..config import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """Returns the learning rate of optimizer step `step` (from 0): a linear warm-up, and then what
    optim.schedule says.

    warm-up: lr * min(1, (step + 1) / warmup_steps).
    constant: stays; the averaged weights take the part of a decay.
    cosine: lr * (f + (1 - f) (1 + cos(pi x)) / 2), x from 0 after the warm-up to 1 behind the last
    step, f being final_share.
    wsd: stays until decay_steps before the end, then lr * (1 - (1 - f) x), x from 0 there to 1
    behind the last step. What comes before the decay does not depend on the number of steps, so
    that several decays can branch off from one run. Source: arXiv 2404.06395 (WSD), 2405.18392
    (linear decay).
    """
    o = config.optim
    if step < o.warmup_steps:
        return o.learning_rate * (step + 1) / o.warmup_steps
    if o.schedule == "constant":
        return o.learning_rate
    first = o.warmup_steps if o.schedule == "cosine" else config.steps - o.decay_steps
    if step < first:
        return o.learning_rate
    x = (step - first) / max(1, config.steps - first)
    left = (1 + math.cos(math.pi * x)) / 2 if o.schedule == "cosine" else 1 - x
    return o.learning_rate * (o.final_share + (1 - o.final_share) * left)


def decay_begins_at(config: RunConfig) -> int | None:
    """Returns the step at which the rate begins to fall, or None where it never does."""
    o = config.optim
    if o.schedule == "constant":
        return None
    return o.warmup_steps if o.schedule == "cosine" else config.steps - o.decay_steps
