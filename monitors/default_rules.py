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
        threshold=3.5,
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
        parameters={"slack": 0.5, "lag": 96},
        threshold=14.0,
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
        delay_p99_steps=170,
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
    Rule(
        name="router_collapse",
        signal=catalogue.LOAD_ENTROPY_NATS,
        detector="collapse",
        threshold=0.5,
        patience=2,
        of_last=3,
        calm_steps=3,
        cooldown_steps=200,
        severity="warning",
        delay_p99_steps=30,
        message="a router has collapsed",
        meaning=(
            "In some layer both the entropy of the load and that of each token's scores have "
            "fallen to less than half of what they were: the router is certain, and of the same "
            "few experts for all tokens."
        ),
        advice=(
            "Go back before the onset if it came at once. Add `moe.z_loss_weight` or raise the "
            "balance (`moe.bias_update_speed`, `moe.balance_weight`), and lower the learning rate "
            "of the router."
        ),
    ),
    Rule(
        name="layer_deadlock",
        signal=catalogue.EXPERT_TOKENS,
        detector="deadlock",
        threshold=0.0,
        calm_steps=20,
        cooldown_steps=500,
        severity="warning",
        delay_p99_steps=200,
        message="layers are deadlocked",
        meaning=(
            "In the layers named the same few experts have got nearly all tokens for two hundred "
            "steps while other layers route on. It does not heal by itself in most runs, and the "
            "loss does not show it; it is found most often at both ends of the depth."
        ),
        advice=(
            "Compare the layers' depth profile with the routing by noise level and by modality. A "
            "more expressive router (`moe.router=mlp` or `cross_attention`) is what has cured it; "
            "raising the balance weight alone has not."
        ),
    ),
    Rule(
        name="experts_alike",
        signal=catalogue.EXPERT_OUTPUT_COSINE,
        detector="above",
        threshold=0.99,
        calm_steps=2,
        cooldown_steps=1000,
        severity="warning",
        delay_p99_steps=100,
        message="experts answer alike",
        meaning=(
            "On the probe's tokens the experts of a layer give nearly the same answers: the "
            "routing chooses between equals."
        ),
        advice=(
            "After upcycling, wait: clones need some thousand steps to part. Else try "
            "`moe.contrast_weight`, a more expressive `moe.router`, or `--drop-share` when "
            "upcycling."
        ),
    ),
    Rule(
        name="routing_flips",
        signal=catalogue.FLIP_RATE,
        detector="above",
        threshold=0.1,
        calm_steps=2,
        cooldown_steps=1000,
        severity="warning",
        delay_p99_steps=100,
        message="the routing hangs on rounding",
        meaning=(
            "For more than a tenth of the tokens the set of experts is another when the router "
            "computes in bf16: public large runs have 3 to 5 hundredths."
        ),
        advice=(
            "Keep the router in fp32 (`compute.has_exact_router=true`), and train and serve in "
            "the same precision. Large router logits are a common cause: look at "
            "`router/logit_absmax`, and add `moe.z_loss_weight`."
        ),
    ),
    Rule(
        name="lost_updates",
        signal=catalogue.UPDATE_LOST_SHARE,
        detector="above",
        threshold=0.3,
        patience=3,
        of_last=5,
        calm_steps=3,
        cooldown_steps=1000,
        severity="warning",
        delay_p99_steps=50,
        message="updates are lost to rounding",
        meaning=(
            "A large share of the weights of a block has gradients and does not move: the update "
            "is smaller than what their precision can tell apart. Training goes on and learns "
            "nothing there."
        ),
        advice=(
            "Keep the weights in fp32, or round stochastically; a higher learning rate only moves "
            "the point where it begins."
        ),
    ),
    Rule(
        name="frozen_experts",
        signal=catalogue.FROZEN_EXPERTS,
        detector="above",
        threshold=0.0,
        patience=3,
        of_last=3,
        calm_steps=2,
        cooldown_steps=1000,
        severity="warning",
        silenced_by=("lost_updates",),
        delay_p99_steps=40,
        message="experts do not learn",
        meaning=(
            "None of the weights of some expert has moved in three sampled updates, though the "
            "updates were applied: it is left out of the optimizer, has no tokens and no weight "
            "decay, or its updates are lost to rounding."
        ),
        advice=(
            "Compare with `router/dead_experts`: without tokens it is a matter of routing. Else "
            "see which parameters the optimizer has, and whether the expert's gradients are cut."
        ),
    ),
    Rule(
        name="activation_rise",
        signal=catalogue.ACTIVATION_ABSMAX,
        detector="rise",
        parameters={"is_log": 1, "floor": 0.2},
        threshold=8.0,
        patience=3,
        of_last=5,
        calm_steps=5,
        cooldown_steps=500,
        severity="warning",
        silenced_by=("loss_spike",),
        delay_p99_steps=50,
        message="activations have grown far beyond their own past",
        meaning=(
            "The largest activation of a block is more than five times what it was, sampled step "
            "after sampled step: the residual stream runs away; bf16 and attention feel it first."
        ),
        advice=(
            "Look at which block moved first, and at the attention logits. Lower the learning "
            "rate, bound the activations (`model.mlp=swiglu7`), or go back before the onset."
        ),
    ),
    Rule(
        name="activation_outliers",
        signal=catalogue.ACTIVATION_KURTOSIS,
        detector="rise",
        parameters={"is_log": 1, "floor": 0.15},
        threshold=8.0,
        patience=3,
        of_last=5,
        calm_steps=5,
        cooldown_steps=500,
        severity="warning",
        silenced_by=("activation_rise", "loss_spike"),
        delay_p99_steps=50,
        message="activations have heavier tails than they had",
        meaning=(
            "The kurtosis of a block's output is more than three times what it was: a few "
            "channels have begun to carry extreme values."
        ),
        advice=(
            "Nothing at once; it is an early sign. Watch the loss and the attention logits; where "
            "they follow, lower the learning rate or bound the activations."
        ),
    ),
    Rule(
        name="attention_logits",
        signal=catalogue.ATTENTION_LOGIT_BOUND,
        detector="above",
        threshold=100.0,
        patience=2,
        of_last=3,
        calm_steps=3,
        cooldown_steps=500,
        severity="warning",
        delay_p99_steps=30,
        message="attention logits may be large",
        meaning=(
            "The bound of the attention logits of a block is beyond 100, from which on softmax "
            "hardens on single tokens; it is what others clip at."
        ),
        advice=(
            "Use `model.qk_norm=head`, or `model.logit_soft_cap`; lower the learning rate of "
            "attention."
        ),
    ),
    Rule(
        name="update_ratio_rise",
        signal=catalogue.UPDATE_WEIGHT_RATIO,
        detector="rise",
        parameters={"is_log": 1, "floor": 0.15},
        threshold=8.0,
        patience=2,
        of_last=3,
        calm_steps=5,
        cooldown_steps=500,
        severity="warning",
        silenced_by=("loss_spike",),
        delay_p99_steps=30,
        message="updates have become large for the weights",
        meaning=(
            "A block's weights change by more than three times what they used to in a step; such "
            "updates come before spikes of loss and gradient."
        ),
        advice=(
            "Look at the gradient norm of the block, and whether the learning rate was changed; "
            "lower it, or `optim.beta2`, whose second moments may lag behind."
        ),
    ),
    Rule(
        name="probe_loss_rise",
        signal=catalogue.PROBE_LOSS,
        detector="rise",
        parameters={"is_log": 1, "floor": 0.01, "min_count": 5},
        threshold=5.0,
        patience=2,
        of_last=2,
        calm_steps=3,
        cooldown_steps=1000,
        severity="warning",
        silenced_by=("loss_spike", "loss_drift"),
        delay_p99_steps=200,
        message="the model has got worse on the probe",
        meaning=(
            "The loss of the fixed held-out clips, with the same noise each time, is higher than "
            "it was in two probes in a row; the training loss need not show it where the data has "
            "changed."
        ),
        advice=(
            "Compare it with the training loss. If both rise, the state is worse: go back before "
            "the onset. If only the probe rises, the training data has moved away from it."
        ),
    ),
    Rule(
        name="slow_steps",
        signal=catalogue.STEP_TIME_S,
        detector="multiple",
        threshold=2.5,
        patience=40,
        of_last=50,
        calm_steps=20,
        cooldown_steps=1000,
        severity="warning",
        delay_p99_steps=60,
        message="steps take far longer than they did",
        meaning=(
            "For some fifty steps most have taken more than two and a half times the median of the "
            "run so far."
        ),
        advice=(
            "See the split of the step time: waiting for data (more `data.workers`, a slower "
            "disk), a device that throttles, or another job on the machine."
        ),
    ),
)
"""Sources: facts, health.md section 4 (thresholds 4, 3 of 5, 20, dead and deadlocked experts) and
the tests' scores."""
