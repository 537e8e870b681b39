"""The catalogue of signals: the one table from which docs, dashboard and rules take their words.

Here are the names, by which all code calls a signal; the words of each are in `signals/`. A name
that is not in it is an error, unless the user registers it (`user/...`, see `user_signal`).
"""

from collections.abc import Mapping

from .errors import MoescopeError, did_you_mean
from .signals import (
    activations,
    expert_load,
    experts,
    losses,
    machine,
    routers,
    step_time,
    updates,
    who_goes_where,
)
from .signals.spec import HOST, SignalSpec

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
ACTIVATION_MODALITY_OUTLIER_RATIO = "activation/modality_outlier_ratio"
ACTIVATION_MODALITY_KURTOSIS = "activation/modality_kurtosis"
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
STEP_TOKENS = "step/tokens"
STEP_FLOPS = "step/model_flops"
UTILISATION = "speed/utilisation"
CPU_SHARE = "system/cpu_share"
MEMORY_GIB = "system/memory_gib"
GPU_SHARE = "system/gpu_share"
GPU_MEMORY_GIB = "system/gpu_memory_gib"
DATA_BATCH = "data/batch"
BAD_CLIPS = "data/bad_clips"
SINK_COALESCED = "sink/coalesced"
SINK_LAG_S = "sink/lag_s"
SINK_LOST = "sink/lost"
SINK_REFUSED = "sink/refused"

_KINDS = (
    losses,
    updates,
    expert_load,
    routers,
    who_goes_where,
    experts,
    activations,
    step_time,
    machine,
)

CATALOGUE: dict[str, SignalSpec] = {spec.name: spec for kind in _KINDS for spec in kind.SPECS}


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
        HOST,
        "Logged by the user.",
        "",
        "",
        "run.log",
        is_lossless=True,
    )
