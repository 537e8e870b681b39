"""Rules for a trainer that has one loss and perhaps a gradient norm: one table.

The losses are judged by their logarithms, so that thresholds do not depend on the level; a loss
that may be zero or negative is judged by `non_finite_loss` alone.
"""

from ..platform import catalogue
from .rules import Rule

_LOSS_SPREAD = {"is_log": 1, "window": 256, "level_rate": 0.03, "floor": 0.004}

PLAIN_RULES: tuple[Rule, ...] = (
    Rule(
        name="non_finite_loss",
        signal=catalogue.LOSS_TOTAL,
        detector="non_finite",
        threshold=0.0,
        cooldown_steps=20,
        severity="critical",
        delay_p99_steps=0,
        message="the loss is not a finite number",
        meaning=(
            "A loss was NaN or infinite: a broken sample, an overflow in low precision, or "
            "weights that have already left the finite range."
        ),
        advice=(
            "Do not apply this step. Where it comes back, look at its batch, and train in fp32 to "
            "tell overflow from data."
        ),
    ),
    Rule(
        name="non_finite_gradient",
        signal=catalogue.GRAD_NORM,
        detector="non_finite",
        threshold=0.0,
        cooldown_steps=20,
        severity="warning",
        silenced_by=("non_finite_loss",),
        delay_p99_steps=0,
        message="the gradient norm is not a finite number",
        meaning="The loss was finite and its gradient was not: an overflow in the backward pass.",
        advice=(
            "Do not apply this step. Where several come within a hundred steps, lower the "
            "learning rate."
        ),
    ),
    Rule(
        name="loss_divergence",
        signal=catalogue.LOSS_TOTAL,
        detector="divergence",
        threshold=1.5,
        cooldown_steps=100,
        severity="critical",
        delay_p99_steps=3,
        message="the loss is above where the training began",
        meaning=(
            "The training is worse than a model that knows nothing, and stays so: it has "
            "diverged, most often because the learning rate or its warm-up is too steep."
        ),
        advice=(
            "Start anew with a longer warm-up or a lower rate; a checkpoint of this stretch is "
            "worth nothing."
        ),
    ),
    Rule(
        name="loss_spike",
        signal=catalogue.LOSS_TOTAL,
        detector="spike",
        parameters=_LOSS_SPREAD,
        threshold=4.0,
        patience=3,
        of_last=5,
        raised=3.0,
        cooldown_steps=20,
        severity="critical",
        silenced_by=("loss_divergence",),
        delay_p99_steps=8,
        message="the loss stays far above its usual range",
        meaning=(
            "Three of five losses are more than four sigmas high: a spike, not one odd batch."
        ),
        advice=(
            "Give it some tens of steps: many spikes heal. If it does not, go back to a "
            "checkpoint before its onset and pass over these batches."
        ),
    ),
    Rule(
        name="loss_burst",
        signal=catalogue.LOSS_TOTAL,
        detector="burst",
        parameters=_LOSS_SPREAD,
        threshold=2.5,
        raised=0.0,
        cooldown_steps=50,
        severity="warning",
        silenced_by=("loss_divergence", "loss_spike"),
        delay_p99_steps=8,
        message="several losses close together are high",
        meaning=(
            "None of them need be extreme, but so many together are no accident: a small spike, "
            "or the edge of a large one."
        ),
        advice="Look whether it heals; if bursts keep coming, lower the learning rate.",
    ),
    Rule(
        name="loss_level",
        signal=catalogue.LOSS_TOTAL,
        detector="level_shift",
        parameters={"is_log": 1},
        threshold=4.6,
        raised=1.0,
        calm_steps=20,
        cooldown_steps=100,
        severity="warning",
        silenced_by=("loss_divergence", "loss_spike", "loss_burst"),
        delay_p99_steps=100,
        message="the loss has settled on a higher level",
        meaning=(
            "The median of the last 32 losses is above that of a hundred older ones: other data, "
            "another setting, or harm that stays."
        ),
        advice=(
            "If data or settings were changed at its onset, nothing is wrong; if not, go back to "
            "a checkpoint before it."
        ),
    ),
    Rule(
        name="loss_drift",
        signal=catalogue.LOSS_TOTAL,
        detector="drift",
        parameters={"is_log": 1},
        threshold=8.5,
        calm_steps=10,
        cooldown_steps=100,
        severity="warning",
        silenced_by=("loss_divergence", "loss_spike", "loss_burst", "loss_level"),
        delay_p99_steps=100,
        message="the loss rises slowly",
        meaning="Small excesses add up over tens of steps: a slow divergence.",
        advice="Lower the learning rate, or go back to a checkpoint before the onset.",
    ),
    Rule(
        name="odd_batch",
        signal=catalogue.LOSS_TOTAL,
        detector="spike",
        parameters=_LOSS_SPREAD,
        threshold=5.0,
        calm_steps=1,
        severity="info",
        delay_p99_steps=0,
        message="one batch has an unusually high loss",
        meaning=(
            "One odd batch: most often the data, and the same for every run that reads it in this "
            "order."
        ),
        advice="Nothing; where the same places come back, look at their data.",
    ),
    Rule(
        name="gradient_spike",
        signal=catalogue.GRAD_NORM,
        detector="spike",
        parameters={"is_log": 1},
        threshold=7.5,
        patience=3,
        of_last=5,
        raised=3.0,
        cooldown_steps=50,
        severity="warning",
        silenced_by=("non_finite_loss", "non_finite_gradient", "loss_spike"),
        delay_p99_steps=8,
        message="gradients stay far above their usual size",
        meaning="Gradient norms are often high some steps before the loss is.",
        advice="Watch the loss; clip the gradients if they are not clipped.",
    ),
)
"""Thresholds of the losses: 1.15 times the highest score of any healthy curve of the tuning part,
rounded up (`make score` says them anew; docs/detectors.md). That of `loss_divergence` is by reason:
no healthy training is half as high again as at its start for three steps."""
