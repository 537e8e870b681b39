"""Clips that a run's model generates, written as mp4 with sound."""

import re
from pathlib import Path

import numpy as np
import torch

from ..platform.errors import MoescopeError
from ..platform.frozen import parsed
from ..platform.records import Run
from ..platform.settings import Settings
from ..platform.store import open_store
from .config import RunConfig
from .data.clips import find_clips
from .data.order import split
from .data.sound import SAMPLE_RATE_HZ, sound_of
from .data.write_clip import write_clip
from .generate import Prompt, generate
from .model.make import make_model
from .open_run import load_weights

NUM_FROM_DATA = 4
GUIDANCE = 2.0
SCALE = 4
"""Pixels of a written clip per generated pixel: thumbnails of 32 pixels are hard to see."""


def sample_run(
    settings: Settings, name_or_id: str, prompts: list[str], steps: int, seed: int, to: Path | None
) -> list[Path]:
    """Generates one clip per prompt (else per caption of a few held-out clips) with the run's
    averaged weights.

    Returns the files, in the run's `samples` folder unless `to` names another. Raises
    MoescopeError where the run has no usable checkpoint or where no prompt is known.
    """
    store = open_store(settings.store_url)
    try:
        run = store.find_run(name_or_id)
        config = parsed(RunConfig, run.config, f"stored configuration of {run.name}")
        model = make_model(config)
        load_weights(model, store, run.id)
    finally:
        store.close()
    captions = prompts or _captions(config, run)
    folder = to or Path(run.folder) / "samples"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MoescopeError(f"--to {folder} cannot be written: {error.strerror}") from None
    told = [Prompt(caption) for caption in captions]
    made = generate(model, config, told, seed, steps=steps, guidance=GUIDANCE)
    paths = []
    for i, caption in enumerate(captions):
        path = folder / f"{_file_name(caption)}-seed{seed}-{i}.mp4"
        video_CFHW = ((made.video_BCFHW[i] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        video_FHWC = video_CFHW.permute(1, 2, 3, 0).cpu().numpy()
        video_FHWC = np.repeat(np.repeat(video_FHWC, SCALE, axis=1), SCALE, axis=2)
        span_s = config.data.num_frames / config.data.frames_per_s
        audio_A = sound_of(made.mel_BNM[i].float().cpu().numpy(), span_s)
        write_clip(path, video_FHWC, audio_A, SAMPLE_RATE_HZ, config.data.frames_per_s)
        path.with_suffix(".txt").write_text(caption)
        paths.append(path)
    return paths


def _captions(config: RunConfig, run: Run) -> list[str]:
    clips = find_clips(config.data.folder).clips
    training, held_out = split(clips, config.data.validation_share)
    captions = [clip.caption for clip in held_out or training if clip.caption]
    if not captions:
        raise MoescopeError(f"the clips of run {run.name} have no captions: give --prompt TEXT")
    return captions[:NUM_FROM_DATA]


def _file_name(caption: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:48] or "clip"
