"""The rules that every run starts with: one table."""

from ..platform import catalogue
from .rules import Rule

DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(
        name="non_finite_loss",
        signal=catalogue.LOSS_TOTAL,
        detector="non_finite",
        threshold=0.0,
        cooldown_steps=20,
        severity="warning",
        delay_p99_steps=0,
        message="the loss is not a finite number",
        meaning=(
            "A loss was NaN or infinite: a broken sample, an overflow in low precision, or "
            "weights that have already left the finite range."
        ),
        advice=(
            "One step is what the guard is for: it changed nothing. Where it comes back, look at"
            " the clips of the batch that the alert names, and train with "
            "`compute.precision=fp32` to tell overflow from data."
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
        meaning=(
            "The forward pass was finite and the backward pass was not: an overflow in the "
            "gradient, most often in attention or in a norm of a near-zero vector."
        ),
        advice=(
            "A single one needs nothing. Where several come within a hundred steps, look at the "
            "attention logits and activation maxima before it, and lower the learning rate."
        ),
    ),
    # the guard holds such steps back, so that one changes nothing; more in a row than it holds
    # extremes are not an accident of the data
    Rule(
        name="non_finite_lasting",
        signal=catalogue.GRAD_NORM,
        detector="non_finite",
        threshold=0.0,
        patience=4,
        of_last=4,
        cooldown_steps=20,
        severity="critical",
        action="rollback",
        is_immediate=True,
        delay_p99_steps=4,
        message="gradients stay non-finite",
        meaning=(
            "Gradients stayed non-finite for longer than the guard holds steps back: the state "
            "itself, not one batch, is spoiled."
        ),
        advice=(
            "Read the rollback's answer on the run's page. If it happens again after the "
            "rollback, the cause is in the state or the code: train the same stretch with "
            "`compute.precision=fp32`, and lower the learning rate."
        ),
    ),
    Rule(
        name="loss_spike",
        signal=catalogue.LOSS_PER_SAMPLE,
        detector="spike",
        threshold=4.0,
        patience=3,
        of_last=5,
        raised=3.0,
        cooldown_steps=20,
        severity="critical",
        action="rollback",
        delay_p99_steps=12,
        message="the loss stays far above its usual range",
        meaning=(
            "Several steps in a row lie far above what the losses were, with the noise level of "
            "each sample accounted for: bad data that lasts, or a state that has left its "
            "valley."
        ),
        advice=(
            "Usually nothing: the run has gone back and vets the data. See on its page which "
            "batches were passed over, and look at those clips. Where the same place comes back,"
            " lower the learning rate or take the clips out."
        ),
    ),
    Rule(
        name="odd_batch",
        signal=catalogue.LOSS_PER_SAMPLE,
        detector="spike",
        threshold=5.0,
        calm_steps=1,
        severity="info",
        delay_p99_steps=0,
        message="one batch has an unusually high loss",
        meaning=(
            "A single batch has a far higher loss than its neighbours: a hard or a broken clip."
        ),
        advice=("Nothing. It is a mark on the chart, to be compared with what comes after it."),
    ),
    Rule(
        name="odd_batches",
        signal=catalogue.LOSS_PER_SAMPLE,
        detector="spike",
        threshold=5.0,
        patience=6,
        of_last=50,
        calm_steps=50,
        cooldown_steps=200,
        severity="warning",
        action="skip_data",
        silenced_by=("loss_spike",),
        delay_p99_steps=50,
        message="odd batches keep coming, one here, one there",
        meaning=(
            "Single batches with a far higher loss keep coming: a share of the data is broken or"
            " unlike the rest."
        ),
        advice=(
            "Look at the clips of the batches that were passed over, and at `data/bad_clips`; "
            "take the broken ones out of the folder."
        ),
    ),
    Rule(
        name="loss_drift",
        signal=catalogue.LOSS_PER_SAMPLE,
        detector="drift",
        threshold=20.0,
        calm_steps=10,
        cooldown_steps=100,
        severity="warning",
        action="damp",
        silenced_by=("loss_spike",),
        delay_p99_steps=150,
        message="the loss rises slowly",
        meaning=(
            "The loss rises slowly against its own recent course, without a jump: too high a "
            "learning rate, data that changes by and by, or experts that drift apart."
        ),
        advice=(
            "Look at the validation loss, router entropy and expert loads since the onset. Where"
            " only the data has changed, nothing is wrong; else lower the learning rate or go "
            "back before the onset."
        ),
    ),
    Rule(
        name="gradient_spike",
        signal=catalogue.GRAD_NORM,
        detector="spike",
        parameters={"is_log": 1},
        threshold=6.0,
        patience=3,
        of_last=5,
        raised=3.0,
        cooldown_steps=50,
        severity="warning",
        silenced_by=("non_finite_loss", "non_finite_gradient", "loss_spike"),
        delay_p99_steps=8,
        message="gradients stay far above their usual size",
        meaning=(
            "Gradients are far above their usual size for several steps; that often comes a few "
            "steps before the loss leaves its range."
        ),
        advice=(
            "Watch the loss. If spikes get more frequent, lower the learning rate or "
            "`optim.clip_norm`."
        ),
    ),
    Rule(
        name="dead_experts",
        signal=catalogue.EXPERT_TOKENS,
        detector="dead_experts",
        threshold=0.0,
        calm_steps=20,
        cooldown_steps=200,
        severity="warning",
        delay_p99_steps=60,
        message="experts receive no tokens",
        meaning=(
            "Some experts have received no token for so long that chance does not explain it: "
            "the router does not choose them, and without tokens they do not learn."
        ),
        advice=(
            "See on the page of the run in which layers. A few in early training come back by "
            "themselves; else raise `moe.bias_update_speed` or `moe.balance_weight`, or go back "
            "before the onset."
        ),
    ),
    Rule(
        name="expert_monopoly",
        signal=catalogue.EXPERT_TOKENS,
        detector="monopoly",
        threshold=0.9,
        patience=50,
        of_last=50,
        calm_steps=20,
        cooldown_steps=200,
        severity="warning",
        delay_p99_steps=150,
        message="few experts do nearly all the work",
        meaning=(
            "In some layer as many experts as a token may have do nearly all the work: the layer"
            " has become a dense one, and the others' parameters are wasted."
        ),
        advice=(
            "Look at the router's entropy and biases of that layer. Raise "
            "`moe.bias_update_speed` or `moe.balance_weight`; where it began at one step, go "
            "back before it."
        ),
    ),
)
"""Sources: facts, health.md section 4 (thresholds 4, 3 of 5, 20, dead and deadlocked experts) and
the tests' scores."""
