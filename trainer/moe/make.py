"""Which layer of experts and which router a configuration asks for."""

from ...kernels.routing.reference import RoutingRule
from ..config import RunConfig
from ..model_config import MoeConfig
from .expert_choice import BatchChoiceRouter, ExpertChoiceRouter
from .experts import MoeLayer
from .latent import LatentMoe
from .router import CrossAttentionRouter, LinearRouter, MlpRouter, Router


def make_moe(config: RunConfig) -> MoeLayer | LatentMoe:
    """Makes the layer of experts of one MoE block."""
    width, moe = config.model.width, config.moe
    layer: MoeLayer | LatentMoe
    if moe.layer == "latent":
        layer = LatentMoe(width, config.model.layers, moe)
    else:
        layer = MoeLayer(width, moe, make_router(width, moe), config.model.activation_bound)
    layer.router.is_exact = config.compute.has_exact_router
    return layer


def make_router(width: int, moe: MoeConfig) -> Router:
    """Makes the router of one layer. A balancing bias is there where its speed is not 0."""
    num = moe.num_experts
    if moe.router == "expert_choice":
        return ExpertChoiceRouter(width, num, moe.num_chosen, "softmax", moe.routed_scale)
    if moe.router == "batch_choice":
        return BatchChoiceRouter(width, num, moe.num_chosen, "sigmoid", moe.routed_scale)
    rule = RoutingRule(
        moe.num_chosen,
        "sigmoid" if moe.router == "sigmoid" else "softmax",
        moe.is_normalised,
        moe.routed_scale,
        moe.num_groups,
        moe.num_chosen_groups,
    )
    has_bias = moe.bias_update_speed > 0
    if moe.router == "mlp":
        return MlpRouter(width, num, rule, moe.router_hidden, has_bias=has_bias)
    if moe.router == "cross_attention":
        return CrossAttentionRouter(width, num, rule, moe.router_heads, has_bias=has_bias)
    return LinearRouter(width, num, rule, has_bias=has_bias)
