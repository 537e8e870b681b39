"""How good a run's model is: its losses on held-out clips, and clips that it makes beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...platform.errors import MoescopeError
from ...platform.records import Run
from ...platform.settings import Settings
from ...platform.store import open_store
from ..config import RunConfig
from ..data.batches import Batch, Batches
from ..data.chance import generator
from ..data.latents import decode, seen
from ..encoders.of_run import with_encoder
from ..encoders.vae import vae_of
from ..model.make import Network, make_model
from ..objective.laws import noise_levels_of
from ..origin import load_weights
from ..run import clips_for
from ..sampling.generate import Prompt, Sampling, generate
from ..stored_config import stored_config
from .clip_model import load_clip
from .evaluate import NUM_BINS, Learned, evaluate
from .extractors import ImageFeatures, VideoFeatures
from .eyes import Eyes, Seen, together
from .figures import Compared, compare

# B clips  C colours, or latent channels  F frames  H, W pixels, or cells of latents  P features
# Q timestep bins

CPU = torch.device("cpu")
MOST_SEED = 2**31


class Looks(NamedTuple):
    """Local files of networks that look at clips; None: what they would tell is left out."""

    image_features: Path | None = None
    video_features: Path | None = None
    clip: Path | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    run: str
    weights: str
    """Where they came from, in words."""
    num_clips: int
    """Held-out clips, and as many made ones."""
    are_held_out: bool
    """False where the run holds none out, so that these are clips that it was trained on."""
    seed: int
    sampling: Sampling
    noise_from_Q: tuple[float, ...]
    """Where each bin of noise levels begins; the last ends at noise_to."""
    noise_to: float
    learned: Learned
    is_told: bool
    """Whether the model reads captions or classes."""
    has_audio: bool
    """Whether there is sound that it learns."""
    compared: Compared


def evaluate_run(
    settings: Settings,
    name_or_id: str,
    num_clips: int,
    sampling: Sampling,
    seed: int,
    looks: Looks,
    *,
    vae: str = "",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Evaluation:
    """Evaluates the run's averaged weights on the first `num_clips` held-out clips of its data, or
    as many as there are.

    The losses are on fixed noise (`evaluate.py`). Then as many clips are made, each told the
    caption or class of a held-out one and no first frame. The held-out clips are compared as they
    look after the way that made ones come: as latents, where the run has some, through the same
    `latents.decode`, clamped and rounded to 256 levels. A figure is of the network and not of the
    VAE. Sound counts in the losses alone.

    vae: its folder, where it was moved since. progress: is told made clips, of how many. Raises
    MoescopeError where the run has no usable checkpoint or its data is gone, on files that are not
    what is needed, and on what this run has no use for.
    """
    store = open_store(settings.store_url)
    try:
        run = store.find_run(name_or_id)
        config = stored_config(run.config, run.name)
        config = with_encoder(config, run, "vae", vae)
        if config.data.latents == "vae":
            # what cannot be decoded need not be made
            vae_of(config, CPU)
        _refuse_without_use(config, run, sampling, looks)
        model = make_model(config)
        weights = load_weights(model, store, run.id).text
    finally:
        store.close()
    is_on_gpu = torch.cuda.is_available() and config.device != "cpu"
    device = torch.device("cuda" if is_on_gpu else "cpu")
    eyes = _opened(looks, device)
    batch, captions, are_held_out = _held_out(config, run, num_clips)
    part = max(1, config.data.batch // config.compute.num_micro_batches)
    # before the model's work: what cannot be looked at is told at once
    held_out = together(
        [eyes.see(_levels(rows.to(device).video_BCFHW, config)) for rows in _parts(batch, part)]
    )
    model.to(device)
    learned = evaluate(model, batch, config, most_at_once=part, device=device)
    made = _made(model, config, batch, captions, part, sampling, seed, eyes, progress)
    edges_Q = noise_levels_of(np.linspace(0, 1, NUM_BINS + 1), config)
    return Evaluation(
        run=run.name,
        weights=weights,
        num_clips=len(batch.names),
        are_held_out=are_held_out,
        seed=seed,
        sampling=sampling,
        noise_from_Q=tuple(edges_Q[:-1].tolist()),
        noise_to=float(edges_Q[-1]),
        learned=learned,
        is_told=_is_told(config),
        has_audio=config.has_audio and bool(batch.has_sound_B.any()),
        compared=compare(
            made,
            held_out,
            config.data.num_frames,
            _of_captions(eyes, captions),
            [bool(caption) for caption in captions],
            has_text=config.has_text,
        ),
    )


def _refuse_without_use(config: RunConfig, run: Run, sampling: Sampling, looks: Looks) -> None:
    is_video = config.data.num_frames > 1
    for option, given, is_of_use, why in (
        ("--guidance", sampling.guidance, _is_told(config), "its model is told nothing"),
        ("--clip", looks.clip, config.has_text, "its model reads no captions"),
        ("--video-features", looks.video_features, is_video, "its clips have one frame"),
    ):
        if given is not None and not is_of_use:
            raise MoescopeError(f"{option} does not go with run {run.name}: {why}")


def _is_told(config: RunConfig) -> bool:
    return config.has_text or bool(config.model.num_classes)


def _opened(looks: Looks, device: torch.device) -> Eyes:
    return Eyes(
        ImageFeatures(looks.image_features, device) if looks.image_features else None,
        VideoFeatures(looks.video_features, device) if looks.video_features else None,
        load_clip(looks.clip, device) if looks.clip else None,
    )


def _held_out(config: RunConfig, run: Run, num_clips: int) -> tuple[Batch, list[str], bool]:
    """Returns the clips as the network sees them, on the CPU, their captions, and whether they were
    held out."""
    index = clips_for(config, run, None)
    with Batches(index, config.data, config.seed, ahead=0) as batches:
        batch = batches.validation_batch(num_clips)
        are_held_out = bool(batches.held_out_clips)
    caption_of = {clip.name: clip.caption for clip in index.clips}
    return seen(batch, config, CPU), [caption_of[name] for name in batch.names], are_held_out


def _made(
    model: Network,
    config: RunConfig,
    batch: Batch,
    captions: Sequence[str],
    part: int,
    sampling: Sampling,
    seed: int,
    eyes: Eyes,
    progress: Callable[[int, int], None],
) -> Seen:
    """Makes a clip for each of the batch, some at a time, and looks at it."""
    prompts = _prompts(batch, captions, config)
    parts = []
    progress(0, len(prompts))
    for first in range(0, len(prompts), part):
        told = prompts[first : first + part]
        # a clip's noise comes from its place in its part: each part needs a seed of its own
        of_part = int(generator(seed, "", first, "evaluate").integers(MOST_SEED))
        made = generate(model, config, told, of_part, sampling)
        parts.append(eyes.see(_levels(made.video_BCFHW, config)))
        progress(first + len(told), len(prompts))
    return together(parts)


def _prompts(batch: Batch, captions: Sequence[str], config: RunConfig) -> list[Prompt]:
    has_vectors = config.data.captions == "encoder"
    return [
        Prompt(caption, int(label), text_ST=text if has_vectors else None)
        for caption, label, text in zip(captions, batch.label_B, batch.text_BS, strict=True)
    ]


def _levels(video_BCFHW: Tensor, config: RunConfig) -> Tensor:
    """Returns the pixels (B, 3, F, H, W) as uint8, as a file shows them."""
    pixels_BCFHW = decode(video_BCFHW, config)
    return ((pixels_BCFHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _parts(batch: Batch, part: int) -> list[Batch]:
    return [batch.rows(slice(i, i + part)) for i in range(0, len(batch.names), part)]


def _of_captions(eyes: Eyes, captions: Sequence[str]) -> NDArray[np.float64] | None:
    return eyes.clip.captions(captions) if eyes.clip else None
