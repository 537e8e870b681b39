"""Parameters of the parts that networks of all families are made of."""

from ..config import RunConfig
from ..model_config import MlpForm, ModelConfig, MoeConfig, is_gated

TEXT_VOCABULARY = 257
"""256 bytes and the padding."""
NUM_GRAM_ROWS = 2 * 1024
"""Hashed byte n-grams of two lengths."""
SINUSOIDS = 256


def linear(inputs: int, outputs: int) -> int:
    """A matrix and its biases."""
    return inputs * outputs + outputs


def text_parameters(width: int) -> int:
    """Embeddings of bytes and of hashed byte n-grams."""
    return (TEXT_VOCABULARY + NUM_GRAM_ROWS) * width


def attention_parameters(m: ModelConfig) -> int:
    """Query, key, value and output with biases; gains of the QK-norm; a row of gates per head."""
    head = m.width // m.heads
    key_value = (m.kv_heads or m.heads) * head
    rows = m.width + 2 * key_value + (m.heads if m.has_head_gate else 0)
    gains = {"head": 2 * head, "full": m.width + key_value, "none": 0}[m.qk_norm]
    return linear(m.width, rows) + linear(m.width, m.width) + gains


def mlp_parameters(width: int, hidden: int, form: MlpForm, has_bias: bool) -> int:
    """An MLP of one hidden layer; SwiGLU has a gate beside it."""
    rows = 2 * hidden if is_gated(form) else hidden
    return width * rows + hidden * width + (rows + width if has_bias else 0)


def router_parameters(width: int, e: MoeConfig) -> int:
    """The router of one layer of routed experts."""
    if e.router == "mlp":
        return linear(width, e.router_hidden) + linear(e.router_hidden, e.num_experts)
    if e.router == "cross_attention":
        return 4 * linear(width, width) + linear(width, e.num_experts)
    if e.router == "batch_choice":
        return width * e.num_experts + linear(width, width) + linear(width, e.num_experts)
    return width * e.num_experts


def moe_parts(config: RunConfig) -> dict[str, int]:
    """Returns the parameters of all layers of experts by part."""
    e, width, num = config.moe, config.model.width, len(config.moe_blocks)
    if e.layer == "latent":
        inner = e.latent_heads * e.latent_head_width
        expert = 2 * e.latent_head_width * e.hidden
        return {
            "routed_experts": num * e.latent_heads * e.num_experts * expert,
            "shared_experts": 0,
            "routers": num * inner * e.num_experts,
            "latent_projections": num * 2 * width * inner,
        }
    expert = mlp_parameters(width, e.hidden, e.expert, e.has_expert_bias)
    shared = mlp_parameters(width, e.num_shared * e.hidden, e.expert, e.has_expert_bias)
    return {
        "routed_experts": num * e.num_experts * expert,
        "shared_experts": num * shared if e.num_shared else 0,
        "routers": num * router_parameters(width, e),
    }


def block_parts(config: RunConfig) -> dict[str, int]:
    """Returns the parameters of attention, dense MLPs and layers of experts of all blocks."""
    m = config.model
    dense = mlp_parameters(m.width, config.mlp_hidden, m.mlp, has_bias=True)
    return {
        "attention": m.layers * attention_parameters(m),
        "dense_mlp": (m.layers - len(config.moe_blocks)) * dense,
        **moe_parts(config),
    }
