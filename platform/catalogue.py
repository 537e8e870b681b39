"""The catalogue of signals: the one table from which docs, dashboard and rules take their words.

A name that is not in it is an error, unless the user registers it (`user/...`, see `user_signal`).
"""

from dataclasses import dataclass
from typing import Literal

from .errors import MoescopeError, did_you_mean

Tier = Literal["step", "sampled", "slow", "system", "user"]
# moe_layer: a row for each router, from the first layer on; LatentMoE has one for each head
Dimension = Literal[
    "layer", "moe_layer", "expert", "modality", "sample", "timestep_bin", "noise_expert"
]

MODALITIES = ("video", "audio")
"""Order of the modality dimension."""


@dataclass(frozen=True, slots=True)
class SignalSpec:
    name: str
    """`room/what_unit`: the unit is the last word of the name where it is not a plain number."""
    unit: str
    dimensions: tuple[Dimension, ...]
    tier: Tier
    group: str
    """Scalars of one group are measured together and share a row of the store."""
    cost: str
    """What measuring it costs."""
    help: str
    """What it is."""
    high: str
    """What a high value means and what to do."""
    low: str
    """What a low value means."""
    source: str
    is_lossless: bool = False
    """Lossless signals survive any fault of a sink; others may be coalesced, which is counted."""

    @property
    def is_scalar(self) -> bool:
        return not self.dimensions


LOSS_TOTAL = "loss/total"
LOSS_VIDEO = "loss/video"
LOSS_AUDIO = "loss/audio"
LOSS_PER_SAMPLE = "loss/per_sample"
LOSS_SIGMA = "loss/sigma"
LOSS_EXPERTS = "loss/experts"
LOSS_SPIKE_SCORE = "loss/spike_score"
LOSS_DRIFT_SCORE = "loss/drift_score"
GRAD_NORM = "grad/norm"
GRAD_NORM_SCORE = "grad/norm_score"
GUARD_HELD = "guard/held"
LEARNING_RATE = "optim/learning_rate"
EXPERT_TOKENS = "router/expert_tokens"
EXPERT_LOAD = "router/expert_load"
MAX_VIOLATION = "router/max_violation"
ROUTER_ENTROPY_NATS = "router/entropy_nats"
ROUTER_BALANCE = "router/balance"
ROUTER_Z = "router/z"
LOAD_ENTROPY_NATS = "router/load_entropy_nats"
DEAD_EXPERTS = "router/dead_experts"
BIAS_RANGE = "router/bias_range"
EXPERT_WEIGHT_COSINE = "expert/weight_cosine"
EXPERT_OUTPUT_COSINE = "expert/output_cosine"
NOISE_EXPERT_SHARE = "noise_expert/share"
NOISE_EXPERT_LOSS = "noise_expert/loss"
NOISE_EXPERT_BOUNDARY = "noise_expert/boundary"
NOISE_EXPERT_BLENDED = "noise_expert/blended"
ACTIVATION_RMS = "activation/rms"
ACTIVATION_ABSMAX = "activation/absmax"
ACTIVATION_OUTLIER_RATIO = "activation/outlier_ratio"
ACTIVATION_CLAMPED_SHARE = "activation/clamped_share"
ATTENTION_LOGIT_BOUND = "attention/logit_bound"
PROBE_LOSS = "probe/loss"
PROBE_LOSS_BIN = "probe/loss_bin"
STEP_TIME_S = "time/step_s"
DATA_WAIT_S = "time/data_wait_s"
FORWARD_S = "time/forward_s"
BACKWARD_S = "time/backward_s"
OPTIMIZER_S = "time/optimizer_s"
MONITOR_S = "time/monitor_s"
TOKENS_PER_S = "speed/tokens_per_s"
CPU_SHARE = "system/cpu_share"
MEMORY_GIB = "system/memory_gib"
GPU_SHARE = "system/gpu_share"
GPU_MEMORY_GIB = "system/gpu_memory_gib"
DATA_BATCH = "data/batch"
BAD_CLIPS = "data/bad_clips"
SINK_COALESCED = "sink/coalesced"
SINK_LAG_S = "sink/lag_s"

_FREE = "nothing: the step computes it anyway"
_HOST = "a few microseconds on the host"
_PACKED = "part of the one packed copy of a sampled step; nothing between samples"
_PROBED = (
    "with the probe loss: every expert answers for 64 tokens, 1 % of the probe's time for `tiny`"
)
_MOESCOPE = "moescope"


def _spec(
    name: str,
    unit: str,
    dimensions: tuple[Dimension, ...],
    tier: Tier,
    group: str,
    cost: str,
    help: str,
    high: str,
    low: str,
    source: str = _MOESCOPE,
) -> SignalSpec:
    # scalars are small and tell the story of a run: they are never dropped
    return SignalSpec(
        name,
        unit,
        dimensions,
        tier,
        group,
        cost,
        help,
        high,
        low,
        source,
        is_lossless=not dimensions,
    )


_LAYER: tuple[Dimension, ...] = ("layer",)
_MOE: tuple[Dimension, ...] = ("moe_layer",)
_MOE_EXPERT: tuple[Dimension, ...] = ("moe_layer", "expert")
_SAMPLES: tuple[Dimension, ...] = ("modality", "sample")
_NOISE_EXPERT: tuple[Dimension, ...] = ("noise_expert",)
_HEALTH = "facts: health.md section 4"

_SPECS = (
    _spec(
        LOSS_TOTAL,
        "mse",
        (),
        "step",
        "step",
        _FREE,
        "Training loss: squared error of the predicted flow, modalities weighted.",
        "Worse; look at the spike score, since the raw value also moves with the drawn timesteps.",
        "Better.",
    ),
    _spec(
        LOSS_VIDEO,
        "mse",
        (),
        "step",
        "step",
        _FREE,
        "Flow loss of the video tokens.",
        "Worse.",
        "Better.",
    ),
    _spec(
        LOSS_AUDIO,
        "mse",
        (),
        "step",
        "step",
        _FREE,
        "Flow loss of the audio tokens.",
        "Worse.",
        "Better.",
    ),
    _spec(
        LOSS_PER_SAMPLE,
        "mse",
        _SAMPLES,
        "step",
        "step",
        _FREE,
        "Flow loss of each sample of the batch, per modality.",
        "A clip that the model cannot explain, or a small sigma.",
        "An easy clip.",
    ),
    _spec(
        LOSS_SIGMA,
        "share",
        _SAMPLES,
        "step",
        "step",
        _FREE,
        "Noise level of each sample: 0 is data, 1 is noise.",
        "More noise.",
        "Less noise.",
    ),
    _spec(
        LOSS_EXPERTS,
        "1",
        (),
        "step",
        "step",
        _FREE,
        "What the layers of experts add to the loss: balance, z and contrast losses, weighted.",
        "Unbalanced routing, large logits or experts that are alike.",
        "Little to mend; 0 where no such loss is on.",
        "facts: model.md section 4",
    ),
    _spec(
        LOSS_SPIKE_SCORE,
        "sigma",
        (),
        "step",
        "step",
        _HOST,
        "Robust z-score of the step's loss residuals, each sample's timestep accounted for.",
        "Above 4 in three of five steps is a lasting spike: odd data or a broken state.",
        "Usual.",
        _HEALTH + ", 1 and 16",
    ),
    _spec(
        LOSS_DRIFT_SCORE,
        "sigma",
        (),
        "step",
        "step",
        _HOST,
        "One-sided lagged CUSUM of the loss residuals.",
        "Above its limit the run has grown worse slowly.",
        "No drift.",
        _HEALTH + ", 3",
    ),
    _spec(
        GRAD_NORM,
        "norm",
        (),
        "step",
        "step",
        _FREE,
        "Global gradient norm before clipping.",
        "Often rises one to four steps before the loss.",
        "Vanishing gradients or a saturated router.",
        _HEALTH + ", 4",
    ),
    _spec(
        GRAD_NORM_SCORE,
        "sigma",
        (),
        "step",
        "step",
        _HOST,
        "Robust z-score of the logarithm of the gradient norm.",
        "An unusual gradient.",
        "Usual.",
        _HEALTH + ", 4",
    ),
    _spec(
        GUARD_HELD,
        "0/1",
        (),
        "step",
        "step",
        _FREE,
        "1 where the guard held the update back on the device.",
        "The step was non-finite or extreme and changed nothing.",
        "The update was applied.",
    ),
    _spec(
        LEARNING_RATE,
        "1",
        (),
        "step",
        "step",
        _HOST,
        "Learning rate of the step, damping included.",
        "Larger updates.",
        "Smaller updates.",
    ),
    _spec(
        EXPERT_TOKENS,
        "tokens",
        _MOE_EXPERT,
        "step",
        "router",
        _FREE,
        "Tokens routed to each expert in this step.",
        "A popular expert.",
        "0 over many steps: a dead expert.",
    ),
    _spec(
        EXPERT_LOAD,
        "x mean",
        _MOE_EXPERT,
        "sampled",
        "router",
        _PACKED,
        "Load of each expert relative to the layer's mean load.",
        "Overloaded; near the number of experts over K it is a monopoly.",
        "0 is idle.",
        _HEALTH + ", 6",
    ),
    _spec(
        MAX_VIOLATION,
        "x mean",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Largest relative load minus one (MaxVio).",
        "Unbalanced routing; compare with the layer's own past.",
        "Balanced.",
        "arXiv 2408.15664",
    ),
    _spec(
        ROUTER_ENTROPY_NATS,
        "nats",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Mean entropy of each token's normalised router scores.",
        "Near ln E the router does not decide: soft saturation.",
        "Near 0 it is certain; with low load entropy it has collapsed.",
        _HEALTH + ", 8",
    ),
    _spec(
        ROUTER_BALANCE,
        "1",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Auxiliary balance loss without its weight: experts times the sum of load share x score.",
        "Towards the number of experts: one has the load and the scores.",
        "1: balanced.",
        "facts: model.md section 4",
    ),
    _spec(
        ROUTER_Z,
        "1",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Mean squared log-sum-exp of the router's logits.",
        "Large logits: saturated scores, and rounding in bf16.",
        "Small logits.",
        "facts: model.md section 4",
    ),
    _spec(
        LOAD_ENTROPY_NATS,
        "nats",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Entropy of the experts' load shares.",
        "Near ln E: balanced.",
        "Few experts do the work.",
        _HEALTH + ", 8",
    ),
    _spec(
        DEAD_EXPERTS,
        "experts",
        _MOE,
        "sampled",
        "router",
        _HOST,
        "Experts that received nothing over the window.",
        "Capacity is lost; raise the bias speed or roll back.",
        "0: all are used.",
        _HEALTH + ", 9",
    ),
    _spec(
        BIAS_RANGE,
        "1",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Largest minus smallest balancing bias of a layer's router.",
        "From 1 on the bias overrules sigmoid scores.",
        "Little correction is needed.",
        "facts: model.md section 4",
    ),
    _spec(
        EXPERT_WEIGHT_COSINE,
        "cosine",
        _MOE,
        "slow",
        "expert",
        _PROBED,
        "Mean cosine between two experts' weights (W_in and W_out as one vector, no biases).",
        "1: clones, as after upcycling; it falls slowly and says little above 0.99.",
        "0: as different as new experts; experts may still answer alike, see the answers' cosine.",
        _HEALTH + ", 11",
    ),
    _spec(
        EXPERT_OUTPUT_COSINE,
        "cosine",
        _MOE,
        "slow",
        "expert",
        _PROBED,
        "Mean cosine between what two experts answer to the same 64 tokens of the probe batch.",
        "Above 0.99 the experts are homogenised: the routing chooses between equals. Try "
        "moe.contrast_weight, a more expressive moe.router, or --drop-share when upcycling.",
        "Experts answer differently: they have specialised.",
        "arXiv 2605.19378; " + _HEALTH + ", 11",
    ),
    _spec(
        NOISE_EXPERT_SHARE,
        "share",
        _NOISE_EXPERT,
        "step",
        "noise_expert",
        _FREE,
        "Mean weight that each expert by noise level had on the step's samples; they sum to 1.",
        "Most noise levels are this expert's: it learns most of the steps.",
        "0: no sample of the step was its own, and it learnt nothing from it.",
        "facts: model.md 3.5",
    ),
    _spec(
        NOISE_EXPERT_LOSS,
        "mse",
        _NOISE_EXPERT,
        "step",
        "noise_expert",
        _FREE,
        "Video loss of each expert's samples, weighted as its answers are. Without a sample in the "
        "step it stays as it was; before its first one it is the mean of all samples.",
        "This expert is worse; compare with its own past, as each has noise levels of its own.",
        "Better.",
        "facts: model.md 3.5",
    ),
    _spec(
        NOISE_EXPERT_BOUNDARY,
        "noise level",
        _NOISE_EXPERT,
        "step",
        "noise_expert",
        _FREE,
        "Noise level from which on each expert is in charge; 0 for the first.",
        "A learned boundary gives the expert less; near 1 it has nothing left.",
        "It gives the expert more; at its lower neighbour's that one has nothing left.",
        "facts: model.md 3.5",
    ),
    _spec(
        NOISE_EXPERT_BLENDED,
        "share",
        (),
        "step",
        "noise_expert",
        _FREE,
        "Share of the step's samples that more than one expert answered for.",
        "Wide transitions: more work per step, and more that a learned boundary sees.",
        "0: a hard switch, or no sample near a boundary.",
        "facts: model.md 3.5",
    ),
    _spec(
        ACTIVATION_RMS,
        "1",
        _LAYER,
        "sampled",
        "activation",
        _PACKED,
        "Root mean square of each block's output (residual stream).",
        "Growth over depth or time is an early sign of instability.",
        "A silent block.",
        _HEALTH + ", 15",
    ),
    _spec(
        ACTIVATION_ABSMAX,
        "1",
        _LAYER,
        "sampled",
        "activation",
        _PACKED,
        "Largest magnitude in each block's output.",
        "Outliers; dangerous in bf16.",
        "Calm.",
        _HEALTH + ", 15",
    ),
    _spec(
        ACTIVATION_OUTLIER_RATIO,
        "x rms",
        _LAYER,
        "sampled",
        "activation",
        _PACKED,
        "Largest magnitude over root mean square.",
        "A few channels carry extreme values.",
        "Evenly spread.",
        _HEALTH + ", 15",
    ),
    _spec(
        ACTIVATION_CLAMPED_SHARE,
        "share",
        _LAYER,
        "sampled",
        "activation",
        "a comparison of each pre-activation of the sampled step",
        "Share of each block's pre-activations beyond their bound (swiglu7, gelu7).",
        "The bound does the work that training should: activations want to grow.",
        "The bound is idle, as it should be.",
        "facts: model.md section 8",
    ),
    _spec(
        ATTENTION_LOGIT_BOUND,
        "1",
        _LAYER,
        "sampled",
        "activation",
        "two norms of each query and key of the sampled step",
        "Largest query norm times largest key norm over sqrt(d), per block: no attention logit is "
        "larger.",
        "Attention may harden on single tokens, which comes before many a divergence.",
        "Attention stays soft.",
        "arXiv 2309.14322, section 3.1",
    ),
    _spec(
        PROBE_LOSS,
        "mse",
        (),
        "slow",
        "probe",
        "one forward of the probe batch every probe_every steps",
        "Loss of a fixed batch of held-out clips with fixed noise and fixed timesteps.",
        "Worse: the model itself, not the data, has changed.",
        "Better.",
    ),
    _spec(
        PROBE_LOSS_BIN,
        "mse",
        ("timestep_bin",),
        "slow",
        "probe",
        "with the probe loss",
        "Probe loss per timestep bin, from data to noise.",
        "That noise range got worse.",
        "Better.",
    ),
    _spec(
        STEP_TIME_S, "s", (), "step", "time", _HOST, "Wall time of the step.", "Slower.", "Faster."
    ),
    _spec(
        DATA_WAIT_S,
        "s",
        (),
        "step",
        "time",
        _HOST,
        "Time the step waited for decoded clips.",
        "Decoding cannot keep up: more data.workers.",
        "Data is ahead.",
    ),
    _spec(
        FORWARD_S,
        "s",
        (),
        "step",
        "time",
        _HOST,
        "Time of the forward pass (launch time on a GPU).",
        "Slower.",
        "Faster.",
    ),
    _spec(
        BACKWARD_S,
        "s",
        (),
        "step",
        "time",
        _HOST,
        "Time of the backward pass (launch time on a GPU).",
        "Slower.",
        "Faster.",
    ),
    _spec(
        OPTIMIZER_S,
        "s",
        (),
        "step",
        "time",
        _HOST,
        "Time of clipping, guard, update and EMA.",
        "Slower.",
        "Faster.",
    ),
    _spec(
        MONITOR_S,
        "s",
        (),
        "step",
        "time",
        _HOST,
        "Time that watching took from the training thread.",
        "Watching is dear: raise sample_every.",
        "Cheap.",
    ),
    _spec(
        TOKENS_PER_S,
        "tokens/s",
        (),
        "step",
        "time",
        _HOST,
        "Stream tokens trained per second.",
        "Faster.",
        "Slower.",
    ),
    _spec(
        CPU_SHARE,
        "share",
        (),
        "system",
        "system",
        _HOST,
        "Share of the machine's processors that this process used.",
        "Busy.",
        "Waiting.",
    ),
    _spec(
        MEMORY_GIB,
        "GiB",
        (),
        "system",
        "system",
        _HOST,
        "Resident memory of the trainer.",
        "Growth over time is a leak.",
        "Small.",
    ),
    _spec(
        GPU_SHARE,
        "share",
        (),
        "system",
        "system",
        _HOST,
        "Share of the last second the GPU computed.",
        "Busy.",
        "Waiting for data or host.",
    ),
    _spec(
        GPU_MEMORY_GIB,
        "GiB",
        (),
        "system",
        "system",
        _HOST,
        "GPU memory in use by the trainer.",
        "Near the limit.",
        "Room for a larger batch.",
    ),
    _spec(
        DATA_BATCH,
        "batch",
        (),
        "step",
        "step",
        _HOST,
        "Index of the step's batch in the data order.",
        "Further.",
        "A rollback went back.",
    ),
    _spec(
        BAD_CLIPS,
        "clips",
        (),
        "step",
        "step",
        _HOST,
        "Files passed over so far because they could not be decoded.",
        "Look at the run's log for their names.",
        "All clips are usable.",
    ),
    _spec(
        SINK_COALESCED,
        "samples",
        (),
        "system",
        "system",
        _HOST,
        "Vector samples left out so far because a sink fell behind.",
        "The store is too slow or away; scalars and alerts are still kept.",
        "Nothing was left out.",
    ),
    _spec(
        SINK_LAG_S,
        "s",
        (),
        "system",
        "system",
        _HOST,
        "Age of the oldest sample that the slowest sink has not yet taken.",
        "A sink hangs or is away; the journal keeps everything lossless.",
        "Sinks keep up.",
    ),
)

CATALOGUE: dict[str, SignalSpec] = {spec.name: spec for spec in _SPECS}


def signal_spec(name: str) -> SignalSpec:
    """Returns what is known of a signal. Raises MoescopeError for a name that nobody defined."""
    if name.startswith("user/"):
        return user_signal(name)
    if name not in CATALOGUE:
        raise MoescopeError(f"unknown signal {name}{did_you_mean(name, CATALOGUE)}")
    return CATALOGUE[name]


def user_signal(name: str) -> SignalSpec:
    """Describes a scalar that a user logs with `run.log({...})`; its name starts with `user/`."""
    return SignalSpec(
        name,
        "1",
        (),
        "user",
        "user",
        _HOST,
        "Logged by the user.",
        "",
        "",
        "run.log",
        is_lossless=True,
    )
