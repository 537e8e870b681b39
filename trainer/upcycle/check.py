"""Whether a network with experts answers as the dense one that it was made of: on what, and how far
the two are apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...platform.errors import MoescopeError
from ...platform.records import Run
from ..config import RunConfig
from ..data.batches import Batches
from ..data.chance import generator
from ..data.latents import seen
from ..evaluation.evaluate import evaluating, probe_passes
from ..model.inputs import Inputs
from ..objective.flow import given
from ..run import clips_for
from .weights import expert_paths

# B batch  C channels  F frames  H, W cells  N mels  M mel steps, or modality in sigma_MB  S bytes

MOST_DIFFERENCE = 1e-5
"""Between the flows of both networks, which are of about unit scale, and between the answers of a
layer of experts and of its dense MLP, relative to the largest of the layer where that is above 1.
Source: facts: model.md section 10."""
NUM_CLIPS = 4
"""Clips that both networks are compared on, or as many as are held out."""
NUM_LEVELS = 4
"""Noise levels of each clip, one from each of as many bins between data and noise."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a network with experts is from the one that it was made of; NaN where either answers
    with one."""

    flow: float
    """Largest difference of the flow."""
    layers: float
    """Largest difference of a layer of experts' answer from what it should be, relative to the
    largest magnitude of the latter where that is above 1."""

    @property
    def is_none(self) -> bool:
        # a NaN is in no bounds
        return self.flow <= MOST_DIFFERENCE and self.layers <= MOST_DIFFERENCE


@torch.no_grad()
def compare(
    dense: nn.Module, model: nn.Module, passes: Sequence[Inputs], times: float = 1.0
) -> Difference:
    """Returns how far the networks' answers are apart, and how far each layer of experts is from
    `times` the answer of its dense MLP to the same tokens.

    Layers are compared by themselves, too: in a network that has hardly been trained the gates hide
    them from the flow. Everything is on the CPU, where all of it is fp32.
    """
    apart: list[Tensor] = []
    flows: list[Tensor] = []

    def compared(mlp: nn.Module) -> Callable[..., None]:
        def measure(layer: nn.Module, args: tuple[Tensor, ...], answer: Tensor) -> None:
            wanted = times * mlp(args[0])
            apart.append((answer - wanted).abs().max() / wanted.abs().max().clamp_min(1))

        return measure

    handles = [
        model.get_submodule(path).register_forward_hook(compared(dense.get_submodule(path)))
        for path in expert_paths(model)
    ]
    try:
        with evaluating(model), evaluating(dense):
            for inputs in passes:
                both = zip(model(inputs), dense(inputs), strict=True)
                flows += [(flow - wanted).abs().max() for flow, wanted in both if flow.numel()]
    finally:
        for handle in handles:
            handle.remove()
    # the maximum of a tensor, unlike Python's, does not lose a NaN
    return Difference(float(torch.stack(flows).max()), float(torch.stack(apart).max()))


def comparison_passes(
    config: RunConfig, dense_run: Run, *, is_folder_asked: bool
) -> tuple[list[Inputs], str]:
    """Returns what to compare on, and in words what it is: clips of the run, else made inputs.

    Raises MoescopeError where a folder that somebody asked for has no clips."""
    try:
        clips = clips_for(config, dense_run, None)
        with Batches(clips, config.data, config.seed, ahead=0) as batches:
            batch = seen(batches.validation_batch(NUM_CLIPS), config, torch.device("cpu"))
    except MoescopeError as fault:
        if is_folder_asked:
            raise
        made = [made_inputs(config, level) for level in range(NUM_LEVELS)]
        return made, f"made inputs, since the run's clips cannot be used ({fault})"
    passes = probe_passes(config, batch, NUM_LEVELS)
    noun = "clip" if len(batch.names) == 1 else "clips"
    says = f"{len(batch.names)} {noun} of {config.data.folder} at {NUM_LEVELS} noise levels"
    return [given(batch, drawn, config) for drawn, _ in passes], says


def made_inputs(config: RunConfig, level: int) -> Inputs:
    """Returns normal numbers in the place of clips, bytes of any kind, every class as likely."""
    chance = generator(config.seed, "", level, "upcycle inputs")
    m, d = config.model, config.data
    channels, _, height, width = config.video_shape

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(chance.standard_normal(shape)).float()

    return Inputs(
        normal(NUM_CLIPS, *config.video_shape),
        normal(NUM_CLIPS, d.num_mels, d.num_mel_steps),
        torch.from_numpy(chance.integers(1, 257, (NUM_CLIPS, d.num_text_bytes)))
        if d.captions == "bytes"
        else normal(NUM_CLIPS, d.num_text_tokens, m.text_width),
        torch.from_numpy(chance.integers(0, m.num_classes + 1, NUM_CLIPS)),
        normal(NUM_CLIPS, channels, height, width) if m.has_reference else None,
        torch.from_numpy((level + chance.random((2, NUM_CLIPS))) / NUM_LEVELS).float(),
    )
