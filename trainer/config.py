"""What a recipe can say.

Every key of seed, steps, data, model, moe, objective and optim changes what is computed; the keys
of watch, guard, policy and checkpoint change how the run is looked after.

No torch here: a plan needs counts, not tensors.
"""

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ..platform.errors import MoescopeError
from ..platform.frozen import Frozen


class DataConfig(Frozen):
    folder: str = ""
    """Folder of mp4, webm, mov clips, searched in depth; captions beside or in captions.jsonl."""
    order: Literal["shuffled", "by_folder"] = "shuffled"
    """shuffled: each pass over all clips in a new order. by_folder: sub-folders in the order of
    their names, as data was delivered, shuffled within each."""
    windows_per_clip: PositiveInt = 1
    """How often a clip is drawn in one pass, each time with another crop in space and time."""
    batch: PositiveInt = 16
    """Samples per optimizer step."""
    num_frames: PositiveInt = 8
    """Frames of a sample."""
    frames_per_s: PositiveFloat = 8.0
    """Frame rate of a sample; clips of other rates are read at the nearest frames."""
    height: PositiveInt = 32
    """Pixels; clips are scaled to cover height x width and cropped."""
    width: PositiveInt = 32
    num_mels: PositiveInt = 32
    """Bands of the log-mel audio; the sample's audio spans the same time as its frames."""
    num_mel_steps: PositiveInt = 32
    """Time steps of the log-mel audio."""
    num_text_bytes: PositiveInt = 48
    """UTF-8 bytes kept of a caption; the rest is cut, a shorter one is padded."""
    caption_drop: float = Field(default=0.1, ge=0, le=1)
    """Share of samples whose caption is left out, for guidance."""
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the clips held out for the probe, chosen by the hash of their name."""
    workers: PositiveInt = 1
    """Processes that decode ahead of the step."""


class ModelConfig(Frozen):
    width: PositiveInt = 128
    layers: PositiveInt = 6
    heads: PositiveInt = 4
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of the dense blocks' MLP over the model width."""
    patch_frames: PositiveInt = 2
    """Frames per video token."""
    patch_size: PositiveInt = 8
    """Pixels per side of a video token."""
    patch_text_bytes: PositiveInt = 4
    """Caption bytes per text token."""
    patch_mel_steps: PositiveInt = 4
    """Mel time steps per audio token; a token spans all bands."""
    rope_base: PositiveFloat = 10_000.0


class MoeConfig(Frozen):
    num_experts: NonNegativeInt = 8
    """Routed experts of each MoE block; 0 makes every block dense."""
    num_chosen: PositiveInt = 2
    """Experts each token is sent to; at most num_experts. Shared experts are not counted."""
    num_shared: NonNegativeInt = 1
    """Experts that see every token."""
    hidden: PositiveInt = 128
    """Hidden width of an expert."""
    routed_scale: PositiveFloat = 2.0
    """Factor on the routed experts' sum after the weights were normalised."""
    bias_update_speed: NonNegativeFloat = 1e-3
    """Step of the balancing bias per optimizer step (aux-loss-free); 0 switches balancing off."""


class ObjectiveConfig(Frozen):
    timesteps: Literal["stratified", "uniform"] = "stratified"
    """stratified: one noise level from each of batch equal strata."""
    shift: PositiveFloat = 3.0
    """Moves the drawn noise levels towards noise: sigma * shift / (1 + (shift - 1) * sigma).
    1 leaves them uniform."""
    are_modalities_tied: bool = False
    """Whether video and audio share a sample's noise level; if not, each can guide the other."""
    audio_weight: NonNegativeFloat = 0.5
    """Weight of the audio loss beside the video loss of weight 1."""


class OptimConfig(Frozen):
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: NonNegativeInt = 40
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01
    clip_norm: PositiveFloat = 1.0
    ema_decay: float = Field(default=0.99, ge=0, lt=1)


class WatchConfig(Frozen):
    sample_every: PositiveInt = 10
    """Steps between sampled-tier measurements; those hooks are absent in between."""
    probe_every: NonNegativeInt = 100
    """Steps between probe batches (slow tier); 0 switches them off."""
    num_probe_clips: PositiveInt = 8
    """Held-out clips of the fixed probe batch, or as many as there are."""


class GuardConfig(Frozen):
    is_on: bool = True
    extreme_factor: float = Field(default=50.0, gt=1)
    """A gradient norm above this multiple of its running level is extreme and is held back."""
    most_in_a_row: PositiveInt = 3
    """After that many extreme steps in a row the guard lets go; never of non-finite ones."""


class PolicyConfig(Frozen):
    mode: Literal["on", "advisory", "off"] = "on"
    """on: carried out. advisory: decided and shown, nothing done. off: alerts only."""
    grace_steps: NonNegativeInt = 2
    """Steps that a lasting spike may heal by itself before a rollback."""
    margin_steps: NonNegativeInt = 2
    """States younger than the onset less this are not trusted."""
    certify_after_steps: PositiveInt = 20
    """Healthy steps after a checkpoint that certify it; no less than the slowest rollback rule's
    detection delay."""
    most_rollbacks: PositiveInt = 4
    """Rollbacks within window_steps; one more halts the run and calls for help."""
    window_steps: PositiveInt = 1000
    cooldown_steps: NonNegativeInt = 10
    """Steps after an action in which no further one is taken, unless the state is non-finite."""
    most_skipped_batches: PositiveInt = 400
    """Batches that one incident may pass over before the run halts."""
    damp_scale: float = Field(default=0.5, gt=0, lt=1)
    """Learning-rate factor of a damped stretch."""
    damp_steps: PositiveInt = 50


class CheckpointConfig(Frozen):
    memory_every_steps: PositiveInt = 10
    """Steps between snapshots into host memory, from which a rollback takes about a step's time."""
    ring_gib: NonNegativeFloat = 2.0
    """Host memory for snapshots; 0 switches the ring off."""
    disk_every_steps: PositiveInt = 100
    keep: PositiveInt = 4
    """Certified checkpoints kept on disk beside the newest."""
    quota_gib: PositiveFloat = 50.0
    """Disk that the run's checkpoints may take."""
    min_free_gib: NonNegativeFloat = 0.5
    """Below that much free disk no checkpoint is written, which raises an alert."""


class RunConfig(Frozen):
    """One training run."""

    recipe: str = "tiny"
    project: str = "default"
    seed: NonNegativeInt = 0
    steps: PositiveInt = 600
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    moe: MoeConfig = MoeConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    watch: WatchConfig = WatchConfig()
    guard: GuardConfig = GuardConfig()
    policy: PolicyConfig = PolicyConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        m, d, e = self.model, self.data, self.moe
        for what, whole, part in (
            ("model.width", m.width, m.heads),
            ("data.num_frames", d.num_frames, m.patch_frames),
            ("data.height", d.height, m.patch_size),
            ("data.width", d.width, m.patch_size),
            ("data.num_text_bytes", d.num_text_bytes, m.patch_text_bytes),
            ("data.num_mel_steps", d.num_mel_steps, m.patch_mel_steps),
        ):
            if whole % part:
                near = max(part, whole // part * part)
                raise ValueError(
                    f"{what} is {whole}, but it must be a multiple of {part}: "
                    f"use {near} or {near + part}"
                )
        if (m.width // m.heads) % 8:
            raise ValueError(
                f"model.width / model.heads is {m.width // m.heads}, "
                "but 3-axis RoPE needs a multiple of 8"
            )
        if e.num_experts and e.num_chosen > e.num_experts:
            raise ValueError(
                f"moe.num_chosen is {e.num_chosen}, but moe.num_experts is {e.num_experts}: "
                "choose at most as many"
            )
        return self

    @property
    def moe_blocks(self) -> tuple[int, ...]:
        """Indices of the MoE blocks, counted from 0: the odd ones (facts: model.md 1.1)."""
        return tuple(range(1, self.model.layers, 2)) if self.moe.num_experts else ()

    @property
    def tokens_per_sample(self) -> int:
        d, m = self.data, self.model
        video = (
            (d.num_frames // m.patch_frames)
            * (d.height // m.patch_size)
            * (d.width // m.patch_size)
        )
        text, audio = d.num_text_bytes // m.patch_text_bytes, d.num_mel_steps // m.patch_mel_steps
        return text + video + audio


def refuse_keys_without_effect(config: RunConfig, keys: Iterable[str]) -> None:
    """Raises MoescopeError where one of the keys that somebody set does nothing here."""
    for key in keys:
        reason = _without_effect(config, key)
        if reason:
            raise MoescopeError(f"{key} has no effect: {reason}")


def _without_effect(config: RunConfig, key: str) -> str:
    if key == "recipe":
        return "it only says which recipe this is: name another recipe instead"
    if key.startswith("moe.") and key != "moe.num_experts" and not config.moe_blocks:
        return "moe.num_experts is 0 or model.layers is 1, so that there is no MoE block"
    if key == "moe.bias_update_speed" and config.moe.num_chosen == config.moe.num_experts:
        return "every token goes to every expert (moe.num_chosen equals moe.num_experts)"
    if key == "watch.num_probe_clips" and not config.watch.probe_every:
        return "watch.probe_every is 0"
    if key.startswith("guard.") and key != "guard.is_on" and not config.guard.is_on:
        return "guard.is_on is false"
    if key.startswith("policy.") and key != "policy.mode" and config.policy.mode == "off":
        return "policy.mode is off"
    if key == "checkpoint.memory_every_steps" and not config.checkpoint.ring_gib:
        return "checkpoint.ring_gib is 0"
    return ""
