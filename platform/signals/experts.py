"""What experts have become: alike, frozen, superfluous; and the experts by noise level."""

from .spec import FREE, HEALTH, MOE, Dimension, spec

_PROBED = (
    "with the probe loss: every expert answers for 64 tokens, 1 % of the probe's time for `tiny`"
)
_NOISE_EXPERT: tuple[Dimension, ...] = ("noise_expert",)

SPECS = (
    spec(
        "expert/weight_cosine",
        "cosine",
        MOE,
        "slow",
        "expert",
        _PROBED,
        "Mean cosine between two experts' weights (W_in and W_out as one vector, no biases).",
        "1: clones, as after upcycling; it falls slowly and says little above 0.99.",
        "0: as different as new experts; experts may still answer alike, see the answers' cosine.",
        HEALTH + ", 11",
    ),
    spec(
        "expert/output_cosine",
        "cosine",
        MOE,
        "slow",
        "expert",
        _PROBED,
        "Mean cosine between what two experts answer to the same 64 tokens of the probe batch.",
        "Above 0.99 the experts are homogenised: the routing chooses between equals. Try "
        "moe.contrast_weight, a more expressive moe.router, or --drop-share when upcycling.",
        "Experts answer differently: they have specialised.",
        "arXiv 2605.19378; " + HEALTH + ", 11",
    ),
    spec(
        "expert/frozen",
        "experts",
        MOE,
        "sampled",
        "router",
        "of a sampled step: 32 weights of each expert, read before and after its update",
        "Experts none of whose weights moved with an update that was applied.",
        "They learn nothing: left out of the optimizer, without tokens, or lost to rounding.",
        "0: all learn.",
    ),
    spec(
        "expert/shared_to_routed",
        "x routed",
        MOE,
        "sampled",
        "router",
        "two norms of the layer's answers of the sampled step",
        "Norm of what the shared experts add over that of what the routed ones add.",
        "The routed experts have become superfluous.",
        "The shared experts have.",
        "facts: model.md section 9",
    ),
    spec(
        "noise_expert/share",
        "share",
        _NOISE_EXPERT,
        "step",
        "noise_expert",
        FREE,
        "Mean weight that each expert by noise level had on the step's samples; they sum to 1.",
        "Most noise levels are this expert's: it learns most of the steps.",
        "0: no sample of the step was its own, and it learnt nothing from it.",
        "facts: model.md 3.5",
    ),
    spec(
        "noise_expert/loss",
        "mse",
        _NOISE_EXPERT,
        "step",
        "noise_expert",
        FREE,
        "Video loss of each expert's samples, weighted as its answers are. Without a sample in the "
        "step it stays as it was; before its first one it is the mean of all samples.",
        "This expert is worse; compare with its own past, as each has noise levels of its own.",
        "Better.",
        "facts: model.md 3.5",
    ),
    spec(
        "noise_expert/boundary",
        "noise level",
        _NOISE_EXPERT,
        "step",
        "noise_expert",
        FREE,
        "Noise level from which on each expert is in charge; 0 for the first.",
        "A learned boundary gives the expert less; near 1 it has nothing left.",
        "It gives the expert more; at its lower neighbour's that one has nothing left.",
        "facts: model.md 3.5",
    ),
    spec(
        "noise_expert/blended",
        "share",
        (),
        "step",
        "noise_expert",
        FREE,
        "Share of the step's samples that more than one expert answered for.",
        "Wide transitions: more work per step, and more that a learned boundary sees.",
        "0: a hard switch, or no sample near a boundary.",
        "facts: model.md 3.5",
    ),
)
