"""What a recipe can say.

Every key of seed, steps, data, model, moe, noise_experts, objective and optim changes what is
computed; the keys of watch, guard, policy and checkpoint change how the run is looked after.
What does not go together is told by `coherence.py`, what does nothing by `without_effect.py`.

No torch here: a plan needs counts, not tensors.
"""

import math
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ..platform.frozen import Frozen
from ..platform.precision import Precision
from .coherence import misfits
from .model_config import ModelConfig, MoeConfig, NoiseExpertsConfig

# upper bounds are far above what is of use: a slip of the finger is told at once, not by a machine
# that has run out of memory
MOST_STEPS = 1_000_000_000
MOST_GIB = 1_000_000.0
COLOURS = 3

Device = Literal["auto", "cpu", "cuda"]


class DataConfig(Frozen):
    folder: str = ""
    """Folder of mp4, webm, mov clips or jpg, png, webp pictures (clips of one frame), searched in
    depth. Captions lie beside or in captions.jsonl, which may give classes, too; else a clip is of
    the class of its top sub-folder."""
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
    num_mel_steps: NonNegativeInt = Field(default=32, le=65_536)
    """Time steps of the log-mel audio; 0: sound is not read."""
    captions: Literal["bytes", "encoder"] = "bytes"
    """How the model reads captions. bytes: with embeddings of its own. encoder: as vectors of a
    text encoder, model.text_width wide, which `moescope data encode` has written."""
    num_text_bytes: NonNegativeInt = Field(default=48, le=65_536)
    """bytes: UTF-8 bytes kept of a caption; the rest is cut, a shorter one is padded. 0: none."""
    num_text_tokens: PositiveInt = Field(default=128, le=65_536)
    """encoder: tokens kept of a caption."""
    text_encoder: str = ""
    """encoder: local folder of the text encoder (T5, UMT5) and its tokenizer. Empty: the one that
    the data was encoded with."""
    latents: Literal["none", "cosine", "vae"] = "none"
    """What the model sees of the pictures. none: pixels. cosine: the lowest frequencies of each
    block of pixels, a fixed linear code that needs no VAE. vae: latents of a VAE, which `moescope
    data encode` has written."""
    vae: str = ""
    """vae: local folder of the VAE (AutoencoderKLWan, AutoencoderKL). Empty: the one that the data
    was encoded with."""
    latent_size: PositiveInt = Field(default=8, le=256)
    """Pixels per side of a latent cell."""
    latent_frames: PositiveInt = Field(default=1, le=256)
    """Frames of a latent cell. vae: of all but the first, which has one frame."""
    latent_channels: PositiveInt = Field(default=4, le=4096)
    """Numbers kept of a cell."""
    caption_drop: float = Field(default=0.1, ge=0, le=1)
    """Share of samples whose caption, or class, is left out, for guidance."""
    reference_drop: float = Field(default=0.1, ge=0, le=1)
    """Share of samples whose reference picture is left out (model.has_reference)."""
    flip_share: float = Field(default=0.0, ge=0, le=1)
    """Share of samples that are mirrored; captions that say left or right would lie."""
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the clips held out for the probe, chosen by the hash of their name."""
    workers: NonNegativeInt = Field(default=1, le=256)
    """Processes that decode ahead of the step. 0: the trainer decodes itself when it needs a batch,
    for small runs of clips that are known; a clip that crashes its decoder ends the run then."""


class ObjectiveConfig(Frozen):
    timesteps: Literal["uniform", "logit_normal", "mode"] = "uniform"
    """The law of noise levels before the shift. logit_normal: sigmoid(logit_mean + logit_std * n),
    n normal. mode: SD3's, heavier in the middle or at the ends."""
    is_stratified: bool = True
    """Whether a batch has one noise level from each of data.batch parts of equal probability."""
    logit_mean: float = Field(default=0.0, ge=-10, le=10)
    """logit_normal: above 0 there is more noise than data."""
    logit_std: PositiveFloat = Field(default=1.0, le=10)
    mode_scale: float = Field(default=1.29, ge=-1, le=1.75)
    """mode: above 0 the middle is drawn more often, below 0 the ends. At its bounds, -1 and 2 / (pi
    - 2), a part of the levels is never drawn."""
    loss_weight: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    """How a sample's loss is weighed by its noise level. sigma_sqrt: 1 / sigma^2, as if it were an
    error of the data over the noise's. cosmap: highest in the middle."""
    shift: PositiveFloat = Field(default=3.0, le=1000)
    """Moves the drawn noise levels towards noise: sigma * shift / (1 + (shift - 1) * sigma).
    1 leaves them as they are drawn."""
    shift_tokens: NonNegativeInt = Field(default=0, le=2**40)
    """Tokens of a sample for which shift is meant: with other numbers of tokens it is shift *
    sqrt(tokens / shift_tokens), so that a finer resolution is trained at more noise. 0: shift as it
    is."""
    are_modalities_tied: bool = False
    """Whether video and audio share a sample's noise level; if not, each can guide the other."""
    audio_weight: NonNegativeFloat = Field(default=0.5, le=1000)
    """Weight of the audio loss beside the video loss of weight 1."""
    prediction: Literal["flow", "data"] = "flow"
    """What the network answers with. data: the clean clip, from which the flow follows, as in JiT
    (x-prediction with v-loss)."""


class OptimConfig(Frozen):
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: of the matrices inside the blocks, each expert's by itself; AdamW for the rest. Both
    share learning_rate and weight_decay, as Muon's updates are of AdamW's size."""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    is_router_on_muon: bool = False
    """Whether the routers' matrices are on Muon, too."""
    is_modulation_on_muon: bool = False
    """Whether the matrices of adaLN are on Muon, too."""
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    """Of the learning rate after its warm-up. cosine: falls until the last step. wsd: constant, and
    a linear decay in the last decay_steps; runs of other lengths may branch off before it."""
    decay_steps: PositiveInt = Field(default=100, le=MOST_STEPS)
    """wsd: steps of the decay."""
    final_share: float = Field(default=0.0, ge=0, lt=1)
    """cosine, wsd: what is left of the learning rate behind the last step."""
    learning_rate: PositiveFloat = Field(default=1e-3, le=10)
    warmup_steps: NonNegativeInt = Field(default=40, le=MOST_STEPS)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    eps: PositiveFloat = Field(default=1e-8, le=1)
    weight_decay: NonNegativeFloat = Field(default=0.01, le=100)
    clip_norm: PositiveFloat = Field(default=1.0, le=1e9)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)


class ComputeConfig(Frozen):
    precision: Precision = "auto"
    """Of the matrix products of attention, MLPs and experts; all else is fp32. auto: bf16 on a GPU,
    fp32 on a CPU."""
    has_exact_router: bool = True
    """Whether routers are fp32 where products are bf16. Without it close choices are lost: for
    studies of what that does."""
    is_compiled: bool = False
    """Whether blocks go through torch.compile, the layers of experts aside: faster steps after a
    first one that takes half a minute or more."""
    num_micro_batches: PositiveInt = Field(default=1, le=65_536)
    """Parts in which a step's batch is computed, one after the other, their gradients added up; the
    memory of a step is that of one part."""
    are_blocks_recomputed: bool = False
    """Whether a block keeps only its input for the backward pass and is computed again there: less
    memory, about a third more time."""


class WatchConfig(Frozen):
    sample_every: PositiveInt = Field(default=10, le=MOST_STEPS)
    """Steps between sampled-tier measurements; those hooks are absent in between."""
    probe_every: NonNegativeInt = Field(default=100, le=MOST_STEPS)
    """Steps between probe batches (slow tier); 0 switches them off."""
    num_probe_clips: PositiveInt = Field(default=8, le=4096)
    """Held-out clips of the fixed probe batch, or as many as there are."""
    peak_tflops: NonNegativeFloat = Field(default=0.0, le=1e9)
    """What the device computes at most in the precision of the products, for the utilisation; 0: as
    its maker states it, where that is known."""
    recorder_steps: NonNegativeInt = Field(default=300, le=100_000)
    """Newest steps that the flight recorder keeps and an alert writes out; 0 switches it off."""
    recorder_mib: PositiveFloat = Field(default=64.0, le=MOST_GIB)
    """Host memory that the flight recorder takes at most."""
    num_scenes: NonNegativeInt = Field(default=2, le=1000)
    """Newest incidents whose states before and at the alert stay on disk, for a replay; 0: none."""
    are_checkpoints_sampled: bool = False
    """Whether clips are generated at each checkpoint on disk, of the same prompts and the same
    noise; training waits meanwhile."""
    sample_prompts: tuple[str, ...] = ()
    """Their captions, or classes by name or number; empty: of a few held-out clips, or a few
    classes."""


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
    harden_factor: float = Field(default=1.25, ge=1, le=10)
    """How much an automatic rollback raises its rule's threshold for the next one; 1 does not."""
    most_hardened: float = Field(default=2.0, ge=1, le=10)
    """The most that a threshold is raised to, in multiples of itself."""
    relax_steps: PositiveInt = Field(default=200, le=MOST_STEPS)
    """Healthy steps that take back half of what was raised."""


class CheckpointConfig(Frozen):
    memory_every_steps: PositiveInt = Field(default=10, le=MOST_STEPS)
    """Steps between snapshots into host memory, from which a rollback takes about a step's time."""
    ring_gib: NonNegativeFloat = Field(default=2.0, le=MOST_GIB)
    """Host memory for snapshots; 0 switches the ring off."""
    disk_every_steps: PositiveInt = Field(default=100, le=MOST_STEPS)
    keep: PositiveInt = Field(default=4, le=100_000)
    """Certified checkpoints kept on disk beside the newest."""
    quota_gib: PositiveFloat = Field(default=50.0, le=MOST_GIB)
    """Disk that the run's checkpoints may take; the newest and the newest certified one always
    stay."""
    min_free_gib: NonNegativeFloat = Field(default=0.5, le=MOST_GIB)
    """Below that much free disk no checkpoint is written, which raises an alert."""


class RunConfig(Frozen):
    """One training run."""

    recipe: str = "tiny"
    project: str = "default"
    seed: NonNegativeInt = Field(default=0, le=2**63 - 1)
    steps: PositiveInt = Field(default=600, le=MOST_STEPS)
    device: Device = "auto"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    moe: MoeConfig = MoeConfig()
    noise_experts: NoiseExpertsConfig = NoiseExpertsConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    compute: ComputeConfig = ComputeConfig()
    watch: WatchConfig = WatchConfig()
    guard: GuardConfig = GuardConfig()
    policy: PolicyConfig = PolicyConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        fault = next(misfits(self), "")
        if fault:
            raise ValueError(fault)
        return self

    @property
    def moe_blocks(self) -> tuple[int, ...]:
        """Indices of the MoE blocks, counted from 0: the last of every `moe.every` blocks, so that
        with 2 they are the odd ones (facts: model.md 1.1)."""
        every = self.moe.every
        return tuple(range(every - 1, self.model.layers, every)) if self.moe.num_experts else ()

    @property
    def video_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, height and width of a sample as the model sees it."""
        d = self.data
        if d.latents == "none":
            return COLOURS, d.num_frames, d.height, d.width
        # a video VAE is causal: its first cell is the first frame alone
        first = 1 if d.latents == "vae" else 0
        return (
            d.latent_channels,
            first + (d.num_frames - first) // d.latent_frames,
            d.height // d.latent_size,
            d.width // d.latent_size,
        )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Video tokens of a sample along time, height and width."""
        _, frames, height, width = self.video_shape
        m = self.model
        return frames // m.patch_frames, height // m.patch_size, width // m.patch_size

    @property
    def video_patch(self) -> int:
        """Values of a video token's patch."""
        return self.video_shape[0] * self.model.patch_frames * self.model.patch_size**2

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the dense blocks' MLP."""
        return round(self.model.mlp_ratio * self.model.width)

    @property
    def has_audio(self) -> bool:
        return self.data.num_mel_steps > 0

    @property
    def has_text(self) -> bool:
        return self.text_tokens > 0

    @property
    def text_tokens(self) -> int:
        """Tokens that a caption is read as."""
        d = self.data
        if d.captions == "encoder":
            return d.num_text_tokens
        return d.num_text_bytes // self.model.patch_text_bytes

    @property
    def noise_shift(self) -> float:
        """The shift of noise levels at this number of tokens. Source: facts: model.md section 6
        (sqrt(m / n))."""
        o = self.objective
        if not o.shift_tokens:
            return o.shift
        return o.shift * math.sqrt(self.tokens_per_sample / o.shift_tokens)

    @property
    def tokens_per_sample(self) -> int:
        """Tokens of the sequence that the blocks work on."""
        d, m = self.data, self.model
        video = math.prod(self.grid)
        if m.family == "wan":
            return video
        if m.family == "class":
            return video + m.num_class_tokens
        audio = d.num_mel_steps // m.patch_mel_steps
        reference = math.prod(self.grid[1:]) if m.has_reference else 0
        return self.text_tokens + reference + video + audio
