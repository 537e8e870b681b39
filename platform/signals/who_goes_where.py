"""Who goes where: each expert's share of the probe's tokens, by what the tokens are."""

from .spec import ROUTED_PROBE, spec

SPECS = (
    spec(
        "routing/by_timestep",
        "share",
        (
            "moe_layer",
            "timestep_bin",
            "expert",
        ),
        "slow",
        "routing",
        ROUTED_PROBE,
        "Who goes where: of the choices of a sample at these noise levels, each expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
    ),
    spec(
        "routing/by_kind",
        "share",
        (
            "moe_layer",
            "token_kind",
            "expert",
        ),
        "slow",
        "routing",
        ROUTED_PROBE,
        "Who goes where: of the choices of told, video and audio tokens, each expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
    ),
    spec(
        "routing/by_motion",
        "share",
        (
            "moe_layer",
            "motion_bin",
            "expert",
        ),
        "slow",
        "routing",
        ROUTED_PROBE,
        "Who goes where: of the choices of video tokens by how much their patch changes from "
        "frame to frame, each expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
    ),
    spec(
        "routing/by_region",
        "share",
        (
            "moe_layer",
            "region",
            "expert",
        ),
        "slow",
        "routing",
        ROUTED_PROBE,
        "Who goes where: of the choices of video tokens by their place in the picture, each "
        "expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
    ),
    spec(
        "routing/by_class",
        "share",
        (
            "moe_layer",
            "class",
            "expert",
        ),
        "slow",
        "routing",
        ROUTED_PROBE,
        "Who goes where: of the choices of tokens by the class of their clip, in the order of "
        "the classes in the probe batch, each expert's share.",
        "A specialist for these tokens.",
        "Never theirs.",
    ),
)
