"""The catalogue of signals: the one table from which docs, dashboard and rules take their words.

A name that is not in it is an error, unless the user registers it (`user/...`, see `user_signal`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import MoescopeError, did_you_mean

Tier = Literal["step", "sampled", "slow", "system", "user"]
# moe_layer: a row for each router, from the first layer on; LatentMoE has one for each head
Dimension = Literal[
    "layer",
    "moe_layer",
    "expert",
    "other_expert",
    "modality",
    "sample",
    "timestep_bin",
    "noise_expert",
    "token_kind",
    "motion_bin",
    "region",
    "class",
]

MODALITIES = ("video", "audio")
"""Order of the modality dimension."""
TOKEN_KINDS = ("told", "video", "audio")
"""Order of the token_kind dimension. told: caption, class and reference picture."""
MOTION_BINS = ("stillest", "still", "moving", "fastest")
"""Order of the motion_bin dimension: quarters of the probe's video tokens."""
REGIONS = (
    *("top left", "top", "top right"),
    *("left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)
"""Order of the region dimension: thirds of the picture."""
ENTRY_NAMES: Mapping[str, tuple[str, ...]] = {
    "modality": MODALITIES,
    "token_kind": TOKEN_KINDS,
    "motion_bin": MOTION_BINS,
    "region": REGIONS,
}
"""Dimensions whose entries have names; those of the others are counted from 0."""
NUM_NOISE_BINS = 8
"""Of the timestep_bin dimension: parts of equal width of the noise level, from data to noise; of
the probe, parts of equal probability."""


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
LOSS_NOISE_BIN = "loss/noise_bin"
LOSS_SPIKE_SCORE = "loss/spike_score"
LOSS_DRIFT_SCORE = "loss/drift_score"
GRAD_NORM = "grad/norm"
GRAD_NORM_SCORE = "grad/norm_score"
GRAD_LAYER_NORM = "grad/layer_norm"
GRAD_UNDERFLOW_SHARE = "grad/underflow_share"
UPDATE_NORM = "update/norm"
UPDATE_WEIGHT_RATIO = "update/weight_ratio"
UPDATE_LOST_SHARE = "update/lost_share"
UPDATE_LOST_IN_BF16_SHARE = "update/lost_in_bf16_share"
GUARD_HELD = "guard/held"
LEARNING_RATE = "optim/learning_rate"
EXPERT_TOKENS = "router/expert_tokens"
EXPERT_LOAD = "router/expert_load"
MAX_VIOLATION = "router/max_violation"
MIN_VIOLATION = "router/min_violation"
AVG_VIOLATION = "router/avg_violation"
GLOBAL_MAX_VIOLATION = "router/global_max_violation"
GLOBAL_MIN_VIOLATION = "router/global_min_violation"
GLOBAL_AVG_VIOLATION = "router/global_avg_violation"
LOAD_CV = "router/load_cv"
EFFECTIVE_EXPERTS = "router/effective_experts"
ROUTER_ENTROPY_NATS = "router/entropy_nats"
MUTUAL_INFORMATION_NATS = "router/mutual_information_nats"
ROUTER_MARGIN = "router/margin"
ROUTER_LOGIT_ABSMAX = "router/logit_absmax"
ROUTER_BALANCE = "router/balance"
ROUTER_Z = "router/z"
LOAD_ENTROPY_NATS = "router/load_entropy_nats"
DEAD_EXPERTS = "router/dead_experts"
DEADLOCKED = "router/deadlocked"
BIAS_RANGE = "router/bias_range"
BIAS_FLIP_RATE = "router/bias_flip_rate"
FLIP_RATE = "router/flip_rate"
ROUTING_SATURATION = "router/saturation"
CO_ACTIVATION = "router/co_activation"
ROUTING_BY_TIMESTEP = "routing/by_timestep"
ROUTING_BY_KIND = "routing/by_kind"
ROUTING_BY_MOTION = "routing/by_motion"
ROUTING_BY_REGION = "routing/by_region"
ROUTING_BY_CLASS = "routing/by_class"
SHARED_TO_ROUTED = "expert/shared_to_routed"
FROZEN_EXPERTS = "expert/frozen"
EXPERT_WEIGHT_COSINE = "expert/weight_cosine"
EXPERT_OUTPUT_COSINE = "expert/output_cosine"
NOISE_EXPERT_SHARE = "noise_expert/share"
NOISE_EXPERT_LOSS = "noise_expert/loss"
NOISE_EXPERT_BOUNDARY = "noise_expert/boundary"
NOISE_EXPERT_BLENDED = "noise_expert/blended"
ACTIVATION_RMS = "activation/rms"
ACTIVATION_ABSMAX = "activation/absmax"
ACTIVATION_OUTLIER_RATIO = "activation/outlier_ratio"
ACTIVATION_KURTOSIS = "activation/kurtosis"
ACTIVATION_SATURATED_SHARE = "activation/saturated_share"
ACTIVATION_DEPTH_GROWTH = "activation/depth_growth"
ACTIVATION_MODALITY_RMS = "activation/modality_rms"
ACTIVATION_MODALITY_ABSMAX = "activation/modality_absmax"
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
SLOWEST_OVER_MEDIAN = "time/slowest_over_median"
TOKENS_PER_S = "speed/tokens_per_s"
MODEL_TFLOP_PER_S = "speed/model_tflop_per_s"
UTILISATION = "speed/utilisation"
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
_SAMPLED_WEIGHTS = (
    "of a sampled step: at most 1,024 elements of each matrix, read before and after its update"
)
_ROUTED_PROBE = "with the probe loss: the choices of its tokens are counted"
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
_ROUTES = "facts: health.md section 4, 17"
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
        LOSS_NOISE_BIN,
        "mse",
        (
            "modality",
            "timestep_bin",
        ),
        "sampled",
        "step",
        _HOST,
        "Mean loss of the samples since the last sampled step, by noise level: eight parts of "
        "equal width. A part that no sample fell into keeps its value; 0 before its first.",
        "These noise levels are learnt worse; compare with their own past.",
        "Better.",
        _HEALTH + ", 16",
    ),
    _spec(
        LOSS_SPIKE_SCORE,
        "sigma",
        (),
        "step",
        "step",
        _HOST,
        "Robust z-score of the step's loss residuals, each sample's timestep accounted for.",
        "Above 3.5 in three of five steps is a lasting spike: odd data or a broken state.",
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
        GRAD_LAYER_NORM,
        "norm",
        _LAYER,
        "sampled",
        "weights",
        "a norm of each gradient of the sampled step",
        "Gradient norm of each block before clipping.",
        "The block that moves first names the place of an incident.",
        "The block learns little.",
        _HEALTH + ", 4",
    ),
    _spec(
        GRAD_UNDERFLOW_SHARE,
        "share",
        _LAYER,
        "sampled",
        "weights",
        _SAMPLED_WEIGHTS,
        "Share of each block's gradients that are not 0 but would be in fp16.",
        "Small gradients would vanish in fp16: keep gradients in bf16 or fp32, or scale the loss.",
        "None is lost.",
        _HEALTH + ", 14",
    ),
    _spec(
        UPDATE_NORM,
        "norm",
        (),
        "sampled",
        "weights",
        _SAMPLED_WEIGHTS,
        "Norm of the step's change of all weights.",
        "Twice the usual comes before spikes of loss and gradient.",
        "0: the guard held the step back.",
        _HEALTH + ", 4",
    ),
    _spec(
        UPDATE_WEIGHT_RATIO,
        "1",
        _LAYER,
        "sampled",
        "weights",
        _SAMPLED_WEIGHTS,
        "Norm of the step's change of a block's weights over the norm of the weights.",
        "Above about 1e-2 the rate is too high for this block.",
        "Far below 1e-3 it learns nothing; under Muon the rate alone sets it.",
        _HEALTH + ", 5",
    ),
    _spec(
        UPDATE_LOST_SHARE,
        "share",
        _LAYER,
        "sampled",
        "weights",
        _SAMPLED_WEIGHTS,
        "Share of a block's weights that have a gradient and that the update left as they "
        "were, in their own precision.",
        "Updates are too small for the weights' precision and are lost: keep weights in fp32.",
        "Every update arrives.",
        _HEALTH + ", 14",
    ),
    _spec(
        UPDATE_LOST_IN_BF16_SHARE,
        "share",
        _LAYER,
        "sampled",
        "weights",
        _SAMPLED_WEIGHTS,
        "Share of a block's updates that would be lost if its weights were bf16.",
        "As expected late in a training: weights must stay fp32. No alarm where they are.",
        "Even bf16 weights would learn.",
        _HEALTH + ", 14",
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
        MIN_VIOLATION,
        "x mean",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "One minus the smallest relative load (MinVio).",
        "1: an expert was idle in this micro-batch.",
        "Balanced.",
        _HEALTH + ", 6",
    ),
    _spec(
        AVG_VIOLATION,
        "x mean",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Mean distance of the relative loads from 1 (AvgVio).",
        "Unbalanced routing; compare with the layer's own past.",
        "Balanced.",
        _HEALTH + ", 6",
    ),
    _spec(
        GLOBAL_MAX_VIOLATION,
        "x mean",
        _MOE,
        "sampled",
        "router",
        _HOST,
        "MaxVio of the whole step, all its micro-batches together.",
        "As MaxVio; what a balancing bias works on.",
        "Balanced.",
        "arXiv 2408.15664",
    ),
    _spec(
        GLOBAL_MIN_VIOLATION,
        "x mean",
        _MOE,
        "sampled",
        "router",
        _HOST,
        "MinVio of the whole step.",
        "1: an expert was idle in the whole step.",
        "Balanced.",
        _HEALTH + ", 6",
    ),
    _spec(
        GLOBAL_AVG_VIOLATION,
        "x mean",
        _MOE,
        "sampled",
        "router",
        _HOST,
        "AvgVio of the whole step.",
        "Unbalanced routing.",
        "Balanced.",
        _HEALTH + ", 6",
    ),
    _spec(
        LOAD_CV,
        "1",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Standard deviation of the experts' token counts (over E) over their mean.",
        "Unbalanced routing.",
        "Balanced.",
        _HEALTH + ", 7",
    ),
    _spec(
        EFFECTIVE_EXPERTS,
        "experts",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "exp of the load's entropy: as many experts with equal loads would be as uneven.",
        "Near E: balanced.",
        "Few experts do the work.",
        _HEALTH + ", 8",
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
        MUTUAL_INFORMATION_NATS,
        "nats",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Mutual information of token and expert: the entropy of the mean scores less the mean "
        "entropy of the scores.",
        "The choice depends on the token.",
        "0: the router ignores the token, be it undecided or certain of the same expert.",
        _HEALTH + ", 8",
    ),
    _spec(
        ROUTER_MARGIN,
        "1",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Mean distance between a token's two highest router logits.",
        "Choices are certain.",
        "Near 0 choices hang on rounding; see the flip rate.",
        _HEALTH + ", 12",
    ),
    _spec(
        ROUTER_LOGIT_ABSMAX,
        "1",
        _MOE,
        "sampled",
        "router",
        _PACKED,
        "Largest magnitude of a router logit.",
        "Growing logits saturate the scores and lose bits in bf16.",
        "Calm.",
        _HEALTH + ", 12",
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
        "step",
        "router",
        _HOST,
        "Experts that received nothing over the window.",
        "Capacity is lost; raise the bias speed or roll back.",
        "0: all are used.",
        _HEALTH + ", 9",
    ),
    _spec(
        DEADLOCKED,
        "0/1",
        _MOE,
        "step",
        "router",
        _HOST,
        "1 where a layer is deadlocked: for long the same few experts have got nearly everything.",
        "Selective deadlock: this layer has become a dense one; the depth profile tells a U.",
        "The layer routes.",
        _HEALTH + ", 10",
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
        BIAS_FLIP_RATE,
        "share",
        _MOE,
        "sampled",
        "router",
        _HOST,
        "Share of experts whose balancing bias turned round, from up to down or back, per "
        "step since the last sampled one.",
        "Near one half the bias dithers about balance; if the load is uneven all the same, "
        "its speed is too high.",
        "The bias runs after a load that it does not reach.",
        _HEALTH + ", 12",
    ),
    _spec(
        FLIP_RATE,
        "share",
        _MOE,
        "slow",
        "router",
        "with the probe loss: each router answers once more in bf16",
        "Share of the probe's tokens whose set of experts is another when the router computes "
        "in bf16 instead of fp32.",
        "Above a few hundredths the routing hangs on rounding: keep the router in fp32; train "
        "and serve in the same precision.",
        "Choices are safe from rounding.",
        _HEALTH + ", 13",
    ),
    _spec(
        ROUTING_SATURATION,
        "share",
        _MOE,
        "slow",
        "router",
        _ROUTED_PROBE,
        "Share of the probe tokens' choices that are what they were at the last checkpoint on "
        "disk.",
        "Near 1 the routing has settled.",
        "The routing still moves, or has been shaken.",
        _ROUTES,
    ),
    _spec(
        CO_ACTIVATION,
        "share",
        (
            "moe_layer",
            "expert",
            "other_expert",
        ),
        "slow",
        "router",
        _ROUTED_PROBE,
        "Of the tokens that an expert gets, the share that the other gets too; 1 on the "
        "diagonal of experts in use.",
        "These two always work together: one of them may be superfluous.",
        "They share no tokens.",
        _ROUTES,
    ),
    _spec(
        ROUTING_BY_TIMESTEP,
        "share",
        (
            "moe_layer",
            "timestep_bin",
            "expert",
        ),
        "slow",
        "routing",
        _ROUTED_PROBE,
        "Who goes where: of the choices of a sample at these noise levels, each expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
        _MOESCOPE,
    ),
    _spec(
        ROUTING_BY_KIND,
        "share",
        (
            "moe_layer",
            "token_kind",
            "expert",
        ),
        "slow",
        "routing",
        _ROUTED_PROBE,
        "Who goes where: of the choices of told, video and audio tokens, each expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
        _MOESCOPE,
    ),
    _spec(
        ROUTING_BY_MOTION,
        "share",
        (
            "moe_layer",
            "motion_bin",
            "expert",
        ),
        "slow",
        "routing",
        _ROUTED_PROBE,
        "Who goes where: of the choices of video tokens by how much their patch changes from "
        "frame to frame, each expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
        _MOESCOPE,
    ),
    _spec(
        ROUTING_BY_REGION,
        "share",
        (
            "moe_layer",
            "region",
            "expert",
        ),
        "slow",
        "routing",
        _ROUTED_PROBE,
        "Who goes where: of the choices of video tokens by their place in the picture, each "
        "expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
        _MOESCOPE,
    ),
    _spec(
        ROUTING_BY_CLASS,
        "share",
        (
            "moe_layer",
            "class",
            "expert",
        ),
        "slow",
        "routing",
        _ROUTED_PROBE,
        "Who goes where: of the choices of tokens by the class of their clip, in the order of "
        "the classes in the probe batch, each expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
        _MOESCOPE,
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
        FROZEN_EXPERTS,
        "experts",
        _MOE,
        "sampled",
        "router",
        "of a sampled step: 32 weights of each expert, read before and after its update",
        "Experts none of whose weights moved with an update that was applied.",
        "They learn nothing: left out of the optimizer, without tokens, or lost to rounding.",
        "0: all learn.",
    ),
    _spec(
        SHARED_TO_ROUTED,
        "x routed",
        _MOE,
        "sampled",
        "router",
        "two norms of the layer's answers of the sampled step",
        "Norm of what the shared experts add over that of what the routed ones add.",
        "The routed experts have become superfluous.",
        "The shared experts have.",
        "facts: model.md section 9",
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
        ACTIVATION_KURTOSIS,
        "1",
        _LAYER,
        "sampled",
        "activation",
        "two moments of at most 256 tokens of the sampled step",
        "Fourth moment over the squared second of each block's output; 3 is Gaussian.",
        "Heavy tails: a few channels carry extreme values.",
        "Evenly spread.",
        _HEALTH + ", 15",
    ),
    _spec(
        ACTIVATION_SATURATED_SHARE,
        "share",
        _LAYER,
        "sampled",
        "activation",
        "a comparison on at most 256 tokens of the sampled step",
        "Share of each block's output beyond half of what the products' precision can hold.",
        "About to overflow.",
        "0, as it should be.",
        _HEALTH + ", 14",
    ),
    _spec(
        ACTIVATION_DEPTH_GROWTH,
        "x first",
        (),
        "sampled",
        "activation",
        _PACKED,
        "RMS of the last block's output over that of the first.",
        "The residual stream grows over depth: deep blocks add too much.",
        "Near 1: calm.",
        _HEALTH + ", 15",
    ),
    _spec(
        ACTIVATION_MODALITY_RMS,
        "1",
        (
            "layer",
            "modality",
        ),
        "sampled",
        "activation",
        "two more passes over each block's output of the sampled step",
        "Root mean square of each block's output, of video and of audio tokens.",
        "One modality runs away from the other.",
        "Silent.",
        _HEALTH + ", 15",
    ),
    _spec(
        ACTIVATION_MODALITY_ABSMAX,
        "1",
        (
            "layer",
            "modality",
        ),
        "sampled",
        "activation",
        "with its RMS",
        "Largest magnitude in each block's output, of video and of audio tokens.",
        "Outliers; they belong to this modality.",
        "Calm.",
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
        MODEL_TFLOP_PER_S,
        "TFLOP/s",
        (),
        "step",
        "time",
        _HOST,
        "FLOPs of the model, active parameters and attention, without what is computed again, "
        "per second.",
        "Faster.",
        "Slower.",
    ),
    _spec(
        UTILISATION,
        "share",
        (),
        "step",
        "time",
        _HOST,
        "Model FLOP/s over the peak of the device (watch.peak_tflops where it is not known).",
        "The device computes.",
        "It waits for data, host or memory.",
    ),
    _spec(
        SLOWEST_OVER_MEDIAN,
        "x median",
        (),
        "sampled",
        "time",
        _HOST,
        "Slowest of the last 100 steps over their median.",
        "Stragglers: decoding, checkpoints, or a device that throttles.",
        "Steps are even.",
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
    if name == "user/":
        raise MoescopeError("signal user/ has no name: use user/NAME, as in user/reward")
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
