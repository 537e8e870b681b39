"""Which keys of a configuration do nothing in it, and why."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..platform.errors import MoescopeError
from ..platform.frozen import leaves
from .model_config import is_bounded

if TYPE_CHECKING:
    from .config import RunConfig


def refuse_keys_without_effect(config: "RunConfig", keys: Iterable[str]) -> None:
    """Raises MoescopeError where one of the keys that somebody set does nothing here.

    A key that was set to its default or to 0 is taken: it undoes what a recipe has set.
    """
    values, defaults = dict(leaves(config)), dict(leaves(type(config)()))
    for key in keys:
        value = values[key]
        is_zero = value == 0 and not isinstance(value, bool)
        undoes = (is_zero or value == defaults[key]) and key != "recipe"
        reason = "" if undoes else _without_effect(config, key)
        if reason:
            raise MoescopeError(f"{key} has no effect: {reason}")


def _without_effect(config: "RunConfig", key: str) -> str:
    if key == "recipe":
        return "it only says which recipe this is: name another recipe instead"
    room, _, name = key.partition(".")
    if room == "moe":
        return _moe_key_without_effect(config, name)
    if room in ("model", "data", "objective"):
        return _model_key_without_effect(config, key)
    if room == "noise_experts" and name != "num_experts":
        if config.noise_experts.num_experts == 1:
            return "noise_experts.num_experts is 1"
        if name == "blend" and not config.noise_experts.transition:
            return "noise_experts.transition is 0"
        if name == "guidance" and not config.has_text and config.model.family != "class":
            return "data.num_text_bytes is 0, so that there is nothing to be guided by"
    if key == "compute.has_exact_router":
        if not config.moe_blocks:
            return "there is no MoE block, and so no router"
        if config.compute.precision == "fp32":
            return "compute.precision is fp32"
    if room == "optim":
        return _optim_key_without_effect(config, name)
    if key == "watch.num_probe_clips" and not config.watch.probe_every:
        return "watch.probe_every is 0"
    if key == "watch.sample_prompts":
        if not config.watch.are_checkpoints_sampled:
            return "watch.are_checkpoints_sampled is false"
        if not config.has_text and config.model.family != "class":
            return "the model reads neither captions nor classes"
    if room == "guard" and name != "is_on" and not config.guard.is_on:
        return "guard.is_on is false"
    if room == "policy" and name != "mode" and config.policy.mode == "off":
        return "policy.mode is off"
    if key == "checkpoint.memory_every_steps" and not config.checkpoint.ring_gib:
        return "checkpoint.ring_gib is 0"
    return ""


def _moe_key_without_effect(config: "RunConfig", name: str) -> str:
    e = config.moe
    if name != "num_experts" and not config.moe_blocks:
        return "moe.num_experts is 0 or model.layers is 1, so that there is no MoE block"
    if name in ("latent_heads", "latent_head_width") and e.layer != "latent":
        return "moe.layer is not latent"
    if name == "router_hidden" and e.router != "mlp":
        return "moe.router is not mlp"
    if name == "router_heads" and e.router != "cross_attention":
        return "moe.router is not cross_attention"
    if name == "balance_scope" and not e.balance_weight:
        return "moe.balance_weight is 0"
    if name == "balance_scope" and config.compute.num_micro_batches == 1:
        return "compute.num_micro_batches is 1, so that a step has one forward"
    if name == "num_chosen_groups" and e.num_groups == 1:
        return "moe.num_groups is 1"
    if name in ("num_groups", "num_chosen_groups") and e.num_groups == e.num_chosen_groups:
        return "every group is chosen (moe.num_chosen_groups equals moe.num_groups)"
    if name == "router" and e.num_experts == 1 and e.is_normalised and not e.experts_choose:
        return "there is one expert, whose normalised weight is 1 whatever the router says"
    if name in ("bias_update_speed", "balance_weight", "balance_scope") and (
        e.num_chosen == e.num_experts
    ):
        return "every token goes to every expert (moe.num_chosen equals moe.num_experts)"
    if e.layer == "latent" and name in (
        "expert",
        "has_expert_bias",
        "is_normalised",
        "routed_scale",
        "num_groups",
        "num_chosen_groups",
    ):
        return "LatentMoE fixes it (moe.layer is latent)"
    if name == "is_normalised" and e.experts_choose:
        return f"with moe.router {e.router} a token's weights are the scores as they are"
    return ""


def _optim_key_without_effect(config: "RunConfig", name: str) -> str:
    o = config.optim
    if "muon" in name and o.optimizer != "muon":
        return "optim.optimizer is not muon"
    if name == "is_router_on_muon" and not config.moe_blocks:
        return "there is no MoE block, and so no router"
    if name == "decay_steps" and o.schedule != "wsd":
        return "optim.schedule is not wsd"
    if name == "final_share" and o.schedule == "constant":
        return "optim.schedule is constant"
    return ""


_OF_FAMILY = {
    "model.patch_bottleneck": "class",
    "model.num_classes": "class",
    "model.num_class_tokens": "class",
    "model.class_tokens_from": "class",
    "model.has_variance_output": "class",
    "model.has_reference": "stream",
}
_OF_AUDIO = (
    "data.num_mels",
    "model.patch_mel_steps",
    "objective.audio_weight",
    "objective.are_modalities_tied",
)
_OF_LATENTS = ("data.latent_size", "data.latent_frames", "data.latent_channels")


def _model_key_without_effect(config: "RunConfig", key: str) -> str:
    m, d = config.model, config.data
    family = _OF_FAMILY.get(key, m.family)
    if family != m.family:
        return f"it belongs to the {family} family, and model.family is {m.family}"
    if key in _OF_AUDIO and not config.has_audio:
        return "data.num_mel_steps is 0, so that there is no sound"
    reads_bytes = d.captions == "bytes"
    if key == "model.patch_text_bytes" and reads_bytes and not config.has_text:
        return "data.num_text_bytes is 0, so that no caption is read"
    if key in ("model.patch_text_bytes", "data.num_text_bytes") and not reads_bytes:
        return "data.captions is encoder"
    if key in ("data.num_text_tokens", "data.text_encoder") and reads_bytes:
        return "data.captions is bytes"
    if key == "data.vae" and d.latents != "vae":
        return f"data.latents is {d.latents}"
    if key == "model.text_width" and m.family != "wan" and reads_bytes:
        return "it belongs to the wan family, or to data.captions encoder"
    if key == "data.caption_drop" and not config.has_text and m.family != "class":
        return "data.num_text_bytes is 0, so that no caption is read"
    if key == "data.reference_drop" and not m.has_reference:
        return "model.has_reference is false"
    if key in _OF_LATENTS and d.latents == "none":
        return "data.latents is none"
    o = config.objective
    if key in ("objective.logit_mean", "objective.logit_std") and o.timesteps != "logit_normal":
        return "objective.timesteps is not logit_normal"
    if key == "objective.mode_scale" and o.timesteps != "mode":
        return "objective.timesteps is not mode"
    if key == "model.class_tokens_from" and not m.num_class_tokens:
        return "model.num_class_tokens is 0"
    if key == "model.kv_heads" and m.kv_heads == m.heads:
        return "it equals model.heads, which 0 means, too"
    if key == "model.rope_base" and m.rotary == "none":
        return "model.rotary is none"
    if key == "model.activation_bound" and not _has_bound(config):
        return "neither model.mlp nor moe.expert is swiglu7 or gelu7, in a block that there is"
    if key == "model.norm" and m.family == "wan":
        return "the wan family has its own norms"
    if key in ("model.mlp", "model.mlp_ratio") and len(config.moe_blocks) == m.layers:
        return "every block is MoE"
    return ""


def _has_bound(config: "RunConfig") -> bool:
    m, e = config.model, config.moe
    has_dense = len(config.moe_blocks) < m.layers
    has_experts = bool(config.moe_blocks) and e.layer == "routed"
    return (has_dense and is_bounded(m.mlp)) or (has_experts and is_bounded(e.expert))
