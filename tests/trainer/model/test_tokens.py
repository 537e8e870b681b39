"""Patches, and codes of noise levels."""

import math

import pytest
import torch

from moescope.trainer.config import RunConfig
from moescope.trainer.model.positions import extent
from moescope.trainer.model.tokens import (
    NoiseLevels,
    patch_mel,
    patch_video,
    sinusoids,
    unpatch_mel,
    unpatch_video,
)


def test_cutting_and_joining_gives_the_clip_back(small: RunConfig) -> None:
    d = small.data
    video = torch.randn(2, 3, d.num_frames, d.height, d.width)
    mel = torch.randn(2, d.num_mels, d.num_mel_steps)
    assert torch.equal(unpatch_video(patch_video(video, small), small), video)
    assert torch.equal(unpatch_mel(patch_mel(mel, small), small), mel)
    assert patch_video(video, small).shape[1] == extent(small).video
    assert patch_mel(mel, small).shape[1] == extent(small).audio


def test_patches_come_in_the_order_of_time_then_rows(small: RunConfig) -> None:
    d, m = small.data, small.model
    video = torch.zeros(1, 3, d.num_frames, d.height, d.width)
    video[0, :, m.patch_frames, m.patch_size, 0] = 1.0  # second pair of frames, second row
    (hit,) = patch_video(video, small)[0].any(dim=1).nonzero().flatten().tolist()
    per_row, per_time = d.width // m.patch_size, (d.height * d.width) // m.patch_size**2
    assert hit == per_time + per_row


def test_a_stretch_of_sound_holds_all_bands_of_its_steps(small: RunConfig) -> None:
    mel = torch.arange(8.0).repeat(small.data.num_mels, 1)[None]  # value = time step
    patches = patch_mel(mel, small)
    assert sorted(set(patches[0, 1].tolist())) == [4.0, 5.0, 6.0, 7.0]


def test_noise_levels_are_coded_as_cosines_then_sines() -> None:
    code = sinusoids(torch.tensor([0.001]), width=4)[0]
    # angles 1000 * .001 * (1, 10000^(-1/2)) = 1, .01
    want = [math.cos(1.0), math.cos(0.01), math.sin(1.0), math.sin(0.01)]
    assert code.tolist() == pytest.approx(want, abs=1e-5)


def test_each_modality_is_conditioned_on_its_own_noise_level() -> None:
    torch.manual_seed(0)
    levels = NoiseLevels(8)
    nothing = torch.zeros(1, 8)
    base = levels(torch.tensor([[0.5], [0.5]]), nothing)
    other = levels(torch.tensor([[0.5], [0.9]]), nothing)
    # stream order: text, video, audio
    assert torch.equal(base[:, 1], other[:, 1])
    assert not torch.equal(base[:, 2], other[:, 2])
    assert not torch.equal(base[:, 0], other[:, 0])
