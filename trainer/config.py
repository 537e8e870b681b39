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

# upper bounds are far above what is of use: a slip of the finger is told at once, not by a machine
# that has run out of memory
MOST_STEPS = 1_000_000_000
MOST_GIB = 1_000_000.0
MOST_BATCH_GIB = 64.0
"""Of the videos of one batch, as float32."""
MOST_SPAN_S = 600.0
"""Of a sample, whose sound is held at its full rate while it is read."""


class DataConfig(Frozen):
    folder: str = ""
    """Folder of mp4, webm, mov clips, searched in depth; captions beside or in captions.jsonl."""
    order: Literal["shuffled", "by_folder"] = "shuffled"
    """shuffled: each pass over all clips in a new order. by_folder: sub-folders in the order of
    their names, as data was delivered, shuffled within each."""
    windows_per_clip: PositiveInt = Field(default=1, le=10_000)
    """How often a clip is drawn in one pass, each time with another crop in space and time."""
    batch: PositiveInt = Field(default=16, le=65_536)
    """Samples per optimizer step."""
    num_frames: PositiveInt = Field(default=8, le=4096)
    """Frames of a sample."""
    frames_per_s: PositiveFloat = Field(default=8.0, le=1000)
    """Frame rate of a sample; clips of other rates are read at the nearest frames."""
    height: PositiveInt = Field(default=32, le=8192)
    """Pixels; clips are scaled to cover height x width and cropped."""
    width: PositiveInt = Field(default=32, le=8192)
    num_mels: PositiveInt = Field(default=32, le=1024)
    """Bands of the log-mel audio; the sample's audio spans the same time as its frames."""
    num_mel_steps: PositiveInt = Field(default=32, le=65_536)
    """Time steps of the log-mel audio."""
    num_text_bytes: PositiveInt = Field(default=48, le=65_536)
    """UTF-8 bytes kept of a caption; the rest is cut, a shorter one is padded."""
    caption_drop: float = Field(default=0.1, ge=0, le=1)
    """Share of samples whose caption is left out, for guidance."""
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the clips held out for the probe, chosen by the hash of their name."""
    workers: PositiveInt = Field(default=1, le=256)
    """Processes that decode ahead of the step."""


class ModelConfig(Frozen):
    width: PositiveInt = Field(default=128, le=65_536)
    layers: PositiveInt = Field(default=6, le=1024)
    heads: PositiveInt = Field(default=4, le=1024)
    mlp_ratio: PositiveFloat = Field(default=4.0, le=64)
    """Hidden width of the dense blocks' MLP over the model width."""
    patch_frames: PositiveInt = Field(default=2, le=4096)
    """Frames per video token."""
    patch_size: PositiveInt = Field(default=8, le=8192)
    """Pixels per side of a video token."""
    patch_text_bytes: PositiveInt = Field(default=4, le=65_536)
    """Caption bytes per text token."""
    patch_mel_steps: PositiveInt = Field(default=4, le=65_536)
    """Mel time steps per audio token; a token spans all bands."""
    rope_base: PositiveFloat = Field(default=10_000.0, le=1e9)


class MoeConfig(Frozen):
    num_experts: NonNegativeInt = Field(default=8, le=4096)
    """Routed experts of each MoE block; 0 makes every block dense."""
    num_chosen: PositiveInt = Field(default=2, le=4096)
    """Experts each token is sent to; at most num_experts. Shared experts are not counted."""
    num_shared: NonNegativeInt = Field(default=1, le=1024)
    """Experts that see every token."""
    hidden: PositiveInt = Field(default=128, le=1_048_576)
    """Hidden width of an expert."""
    routed_scale: PositiveFloat = Field(default=2.0, le=1000)
    """Factor on the routed experts' sum after the weights were normalised."""
    bias_update_speed: NonNegativeFloat = Field(default=1e-3, le=1)
    """Step of the balancing bias per optimizer step (aux-loss-free); 0 switches balancing off."""


class ObjectiveConfig(Frozen):
    timesteps: Literal["stratified", "uniform"] = "stratified"
    """stratified: one noise level from each of batch equal strata."""
    shift: PositiveFloat = Field(default=3.0, le=1000)
    """Moves the drawn noise levels towards noise: sigma * shift / (1 + (shift - 1) * sigma).
    1 leaves them uniform."""
    are_modalities_tied: bool = False
    """Whether video and audio share a sample's noise level; if not, each can guide the other."""
    audio_weight: NonNegativeFloat = Field(default=0.5, le=1000)
    """Weight of the audio loss beside the video loss of weight 1."""


class OptimConfig(Frozen):
    learning_rate: PositiveFloat = Field(default=1e-3, le=10)
    warmup_steps: NonNegativeInt = Field(default=40, le=MOST_STEPS)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    eps: PositiveFloat = Field(default=1e-8, le=1)
    weight_decay: NonNegativeFloat = Field(default=0.01, le=100)
    clip_norm: PositiveFloat = Field(default=1.0, le=1e9)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)


class WatchConfig(Frozen):
    sample_every: PositiveInt = Field(default=10, le=MOST_STEPS)
    """Steps between sampled-tier measurements; those hooks are absent in between."""
    probe_every: NonNegativeInt = Field(default=100, le=MOST_STEPS)
    """Steps between probe batches (slow tier); 0 switches them off."""
    num_probe_clips: PositiveInt = Field(default=8, le=4096)
    """Held-out clips of the fixed probe batch, or as many as there are."""


class GuardConfig(Frozen):
    is_on: bool = True
    extreme_factor: float = Field(default=50.0, gt=1, le=1e9)
    """A gradient norm above this multiple of its running level is extreme and is held back."""
    most_in_a_row: PositiveInt = Field(default=3, le=MOST_STEPS)
    """After that many extreme steps in a row the guard lets go; never of non-finite ones."""


class PolicyConfig(Frozen):
    mode: Literal["on", "advisory", "off"] = "on"
    """on: carried out. advisory: decided and shown, nothing done. off: alerts only."""
    grace_steps: NonNegativeInt = Field(default=2, le=MOST_STEPS)
    """Steps that a lasting spike may heal by itself before a rollback."""
    margin_steps: NonNegativeInt = Field(default=2, le=MOST_STEPS)
    """States younger than the onset less this are not trusted."""
    certify_after_steps: PositiveInt = Field(default=20, le=MOST_STEPS)
    """Healthy steps after a checkpoint that certify it; no less than the slowest rollback rule's
    detection delay."""
    most_rollbacks: PositiveInt = Field(default=4, le=MOST_STEPS)
    """Rollbacks within window_steps; one more halts the run and calls for help."""
    window_steps: PositiveInt = Field(default=1000, le=MOST_STEPS)
    cooldown_steps: NonNegativeInt = Field(default=10, le=MOST_STEPS)
    """Steps after an action in which no further one is taken, unless the state is non-finite."""
    most_skipped_batches: PositiveInt = Field(default=400, le=MOST_STEPS)
    """Batches that one incident may pass over before the run halts."""
    damp_scale: float = Field(default=0.5, gt=0, lt=1)
    """Learning-rate factor of a damped stretch."""
    damp_steps: PositiveInt = Field(default=50, le=MOST_STEPS)


class CheckpointConfig(Frozen):
    memory_every_steps: PositiveInt = Field(default=10, le=MOST_STEPS)
    """Steps between snapshots into host memory, from which a rollback takes about a step's time."""
    ring_gib: NonNegativeFloat = Field(default=2.0, le=MOST_GIB)
    """Host memory for snapshots; 0 switches the ring off."""
    disk_every_steps: PositiveInt = Field(default=100, le=MOST_STEPS)
    keep: PositiveInt = Field(default=4, le=100_000)
    """Certified checkpoints kept on disk beside the newest."""
    quota_gib: PositiveFloat = Field(default=50.0, le=MOST_GIB)
    """Disk that the run's checkpoints may take."""
    min_free_gib: NonNegativeFloat = Field(default=0.5, le=MOST_GIB)
    """Below that much free disk no checkpoint is written, which raises an alert."""


class RunConfig(Frozen):
    """One training run."""

    recipe: str = "tiny"
    project: str = "default"
    seed: NonNegativeInt = Field(default=0, le=2**63 - 1)
    steps: PositiveInt = Field(default=600, le=MOST_STEPS)
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
        batch_gib = d.batch * 3 * d.num_frames * d.height * d.width * 4 / 2**30
        if batch_gib > MOST_BATCH_GIB:
            raise ValueError(
                f"data.batch is {d.batch}, so that its videos take {batch_gib:.0f} GiB, but at "
                f"most {MOST_BATCH_GIB:.0f} GiB can be: lower it, or data.num_frames, data.height "
                "or data.width"
            )
        span_s = d.num_frames / d.frames_per_s
        if span_s > MOST_SPAN_S:
            raise ValueError(
                f"data.num_frames / data.frames_per_s is {span_s:.0f} s, but a sample lasts at "
                f"most {MOST_SPAN_S:.0f} s: raise data.frames_per_s"
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
