"""What a recipe can say about the network: its family, its experts, and experts by noise level.

No torch here: a plan needs counts, not tensors.
"""

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from ..platform.frozen import Frozen

Family = Literal["stream", "class", "wan"]
MlpForm = Literal["silu", "gelu", "swiglu", "swiglu7", "gelu7"]


def is_gated(form: MlpForm) -> bool:
    """Whether an MLP of the form has a gate beside what it gates, and so three matrices."""
    return form in ("swiglu", "swiglu7")


def is_bounded(form: MlpForm) -> bool:
    """Whether what goes into the activation is clamped."""
    return form in ("swiglu7", "gelu7")


class ModelConfig(Frozen):
    family: Family = "stream"
    """stream: text, video and audio tokens in one sequence. class: pictures or clips of a class
    (DSMoE, JiT). wan: video tokens that read the caption through cross-attention."""
    width: PositiveInt = Field(default=128, le=65_536)
    layers: PositiveInt = Field(default=6, le=1024)
    heads: PositiveInt = Field(default=4, le=1024)
    kv_heads: NonNegativeInt = Field(default=0, le=1024)
    """Heads of keys and values, each shared by heads / kv_heads query heads (GQA); 0: as many as
    heads."""
    mlp: MlpForm = "silu"
    """Of the dense blocks: two matrices with SiLU or GELU (tanh) between them, or SwiGLU; with
    biases. swiglu7, gelu7: with a bound on what goes in (activation cutoff, as in MAGI and
    GPT-OSS)."""
    activation_bound: PositiveFloat = Field(default=7.0, le=1e6)
    """swiglu7, gelu7, also of experts: what goes in is clamped to it, gates from above only."""
    mlp_ratio: PositiveFloat = Field(default=4.0, le=64)
    """Hidden width of the dense blocks' MLP over the model width."""
    norm: Literal["layer", "rms"] = "layer"
    """Before attention and MLP. layer: LayerNorm without parameters. rms: RMSNorm with a gain."""
    qk_norm: Literal["head", "full", "none"] = "head"
    """RMSNorm of queries and keys: over each head, over the whole width before the heads are split,
    or none."""
    rotary: Literal["3d", "2d", "1d", "none"] = "3d"
    """Rotary positions. 3d: time, height, width. 2d: height, width. 1d: the place in the sequence.
    """
    has_place_table: bool = True
    """Whether a fixed table of sines and cosines of the absolute place is added to each token."""
    rope_base: PositiveFloat = Field(default=10_000.0, le=1e9)
    logit_soft_cap: NonNegativeFloat = Field(default=0.0, le=1e6)
    """Attention logits become cap * tanh(logit / cap); 0: none."""
    has_head_gate: bool = False
    """Whether each head's answer is multiplied by the sigmoid of a gate of the token's own."""
    patch_frames: PositiveInt = Field(default=2, le=4096)
    """Frames (of the latents, where there are any) per video token."""
    patch_size: PositiveInt = Field(default=8, le=8192)
    """Pixels (or latent cells) per side of a video token."""
    patch_text_bytes: PositiveInt = Field(default=4, le=65_536)
    """Caption bytes per text token."""
    patch_mel_steps: PositiveInt = Field(default=4, le=65_536)
    """Mel time steps per audio token; a token spans all bands."""
    patch_bottleneck: NonNegativeInt = Field(default=0, le=65_536)
    """class: width of the linear layer between a patch and its token; 0: none."""
    num_classes: NonNegativeInt = Field(default=0, le=1_000_000)
    """class: classes that a clip can be of; one more row stands for a class left out."""
    num_class_tokens: NonNegativeInt = Field(default=0, le=65_536)
    """class: tokens of the class in the sequence itself (in-context), with a learned place."""
    class_tokens_from: NonNegativeInt = Field(default=0, le=1024)
    """class: the block, counted from 0, before which the class tokens join the sequence."""
    has_variance_output: bool = False
    """class: whether there are outputs for a variance, too; the flow loss does not use them."""
    text_width: PositiveInt = Field(default=4096, le=65_536)
    """wan, and wherever data.captions is encoder: width of the text's vectors before they are
    brought to the model's width."""
    has_reference: bool = False
    """stream: whether the clip's first frame is given without noise, as tokens of the stream."""


class MoeConfig(Frozen):
    layer: Literal["routed", "latent"] = "routed"
    """routed: each token goes to its experts. latent: Multi-Head LatentMoE, where each of
    latent_heads parts of a token goes to experts of its head."""
    num_experts: NonNegativeInt = Field(default=8, le=4096)
    """Routed experts of each MoE block (latent: of each head); 0 makes every block dense."""
    every: PositiveInt = Field(default=2, le=1024)
    """Every how many blocks one is MoE: 1 all, 2 the odd ones counted from 0."""
    num_chosen: PositiveInt = Field(default=2, le=4096)
    """Experts each token is sent to; at most num_experts. Shared experts are not counted. Where
    experts choose, their number per token on average."""
    num_shared: NonNegativeInt = Field(default=1, le=1024)
    """Experts that see every token."""
    hidden: PositiveInt = Field(default=128, le=1_048_576)
    """Hidden width of an expert."""
    expert: MlpForm = "swiglu"
    """What an expert is, as model.mlp."""
    has_expert_bias: bool = False
    router: Literal[
        "sigmoid", "softmax", "mlp", "cross_attention", "expert_choice", "batch_choice"
    ] = "sigmoid"
    """sigmoid, softmax: a linear map and these scores. mlp: two layers and softmax.
    cross_attention: attention to what is told (the caption's tokens, and a reference picture's),
    then softmax. expert_choice: each expert
    picks its tokens of a sample. batch_choice: of the whole batch, as DiffMoE."""
    router_hidden: PositiveInt = Field(default=256, le=65_536)
    """mlp: width between the router's two layers."""
    router_heads: PositiveInt = Field(default=2, le=1024)
    """cross_attention: heads of the router's attention."""
    is_normalised: bool = True
    """Whether a token's weights are divided by their sum."""
    routed_scale: PositiveFloat = Field(default=2.0, le=1000)
    """Factor on the routed experts' sum after the weights were normalised."""
    num_groups: PositiveInt = Field(default=1, le=4096)
    """Groups of neighbouring experts; a token's experts come from num_chosen_groups of them."""
    num_chosen_groups: PositiveInt = Field(default=1, le=4096)
    bias_update_speed: NonNegativeFloat = Field(default=1e-3, le=1)
    """Step of the balancing bias per optimizer step (aux-loss-free); 0 switches it off."""
    balance_weight: NonNegativeFloat = Field(default=0.0, le=100)
    """Weight of the auxiliary balance loss E * sum f_e P_e, which is 1 in perfect balance."""
    balance_scope: Literal["micro_batch", "global_batch"] = "micro_batch"
    """Whose counts f_e are: of one forward on one rank, or of all ranks and all forwards so far of
    the optimizer step. In one process with one forward a step both are the same."""
    z_loss_weight: NonNegativeFloat = Field(default=0.0, le=100)
    """Weight of the mean squared log-sum-exp of the router's logits."""
    contrast_weight: NonNegativeFloat = Field(default=0.0, le=100)
    """Weight of the loss that keeps the experts of a layer apart."""
    latent_heads: PositiveInt = Field(default=4, le=1024)
    """latent: parts that a token is cut into."""
    latent_head_width: PositiveInt = Field(default=32, le=65_536)
    """latent: width of a part."""

    @property
    def experts_choose(self) -> bool:
        """Whether experts choose their tokens, and not tokens their experts."""
        return self.router in ("expert_choice", "batch_choice")

    @property
    def has_loss(self) -> bool:
        """Whether the layers of experts add to the training loss."""
        weights = (self.balance_weight, self.z_loss_weight, self.contrast_weight)
        return any(weights) or self.router == "batch_choice"


class NoiseExpertsConfig(Frozen):
    """Whole networks that share the noise levels among themselves, as in Wan2.2."""

    num_experts: PositiveInt = Field(default=1, le=16)
    """1: a single network for all noise levels."""
    boundaries: tuple[float, ...] = ()
    """Noise levels between neighbouring experts, ascending, one fewer than experts. A level at the
    boundary belongs to the expert of more noise."""
    transition: float = Field(default=0.0, ge=0, lt=1)
    """Width, in noise levels, of the zone around a boundary where both experts answer and are
    blended; 0: a hard switch. 0.12 is 12% of Wan's timesteps, which are noise levels times 1000;
    of a training's samples more lie in it where objective.shift crowds them there."""
    blend: Literal["linear", "smooth"] = "linear"
    """smooth: smoothstep, 3 w^2 - 2 w^3."""
    is_learned: bool = False
    """Whether the boundaries are trained; only blended samples move them."""
    shared_blocks: NonNegativeInt = Field(default=0, le=1024)
    """Blocks, from the first, that all experts share, with the embeddings; 0: nothing is shared."""
    guidance: tuple[float, ...] = ()
    """Guidance of each expert when clips are made, from the least noise on; empty: one for all."""
