"""Clips of the same prompts and the same noise at each checkpoint, so that a run can be seen to
learn.
"""

from pathlib import Path

import torch

from ...platform.records import Run
from ..config import RunConfig
from ..encoders.of_run import with_encoder
from ..encoders.vae import vae_of
from ..state import TrainState
from .generate import Sampling, generate
from .sample_run import asked, write_made

SEED = 0
SAMPLING = Sampling(steps=16)


class CheckpointSamples:
    """Generates with the averaged weights, in evaluation mode, and leaves no trace in the state:
    a run is the same to the bit with and without."""

    def __init__(self, config: RunConfig, run: Run) -> None:
        """Raises MoescopeError where watch.sample_prompts names what the model cannot be told, or
        where the VAE or text encoder is not there."""
        config = with_encoder(with_encoder(config, run, "vae"), run, "text_encoder")
        if config.data.latents == "vae":
            vae_of(config, torch.device("cpu"))
        self._config, self._folder = config, Path(run.folder) / "samples"
        has_classes = config.model.family == "class"
        given = config.watch.sample_prompts
        self._named = asked(config, run, () if has_classes else given, given if has_classes else ())

    def is_due(self, step: int) -> bool:
        """Whether the state in front of this step goes to disk."""
        return step > 0 and step % self._config.checkpoint.disk_every_steps == 0

    def write(self, state: TrainState) -> list[Path]:
        """Writes a clip or picture for each prompt into a folder of the step, and returns the
        files. Training waits meanwhile. Raises OSError where the disk is full."""
        folder = self._folder / f"step-{state.step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        prompts = [prompt for _, prompt in self._named]
        with state.ema.swapped_in():
            made = generate(state.model, self._config, prompts, SEED, SAMPLING)
        return write_made(folder, self._named, made, SEED, self._config)
