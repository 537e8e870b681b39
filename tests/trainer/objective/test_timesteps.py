"""The chance of a training step: keyed by sample, spread over the noise levels."""

import dataclasses

import numpy as np
import pytest
import torch

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batch
from moescope.trainer.objective.timesteps import draw, noise_levels


def _batch(config: RunConfig, first: int = 0, size: int | None = None) -> Batch:
    d, size = config.data, size or config.data.batch
    return Batch(
        index=0,
        names=tuple(f"clip-{first + i}" for i in range(size)),
        positions=tuple(range(first, first + size)),
        video_BCFHW=torch.zeros(size, 3, d.num_frames, d.height, d.width),
        mel_BNM=torch.zeros(size, d.num_mels, d.num_mel_steps),
        text_BS=torch.ones(size, d.num_text_bytes, dtype=torch.int64),
        has_sound_B=torch.ones(size, dtype=torch.bool),
        label_B=torch.zeros(size, dtype=torch.int64),
    )


def test_a_sample_draws_the_same_outside_its_batch(small: RunConfig) -> None:
    together = draw(small, 7, _batch(small))
    alone = draw(small, 7, _batch(small, first=2, size=1))
    assert torch.equal(together.sigma_MB[:, 2:3], alone.sigma_MB)
    assert torch.equal(together.noise_video_BCFHW[2:3], alone.noise_video_BCFHW)
    assert torch.equal(together.noise_mel_BNM[2:3], alone.noise_mel_BNM)
    assert torch.equal(together.is_caption_dropped_B[2:3], alone.is_caption_dropped_B)


def test_seed_position_and_name_each_change_the_draw(small: RunConfig) -> None:
    base = _batch(small)
    renamed = dataclasses.replace(base, names=tuple(f"x{name}" for name in base.names))
    first = draw(small, 0, base)
    for other in (draw(small, 1, base), draw(small, 0, _batch(small, 4)), draw(small, 0, renamed)):
        assert not torch.equal(first.sigma_MB, other.sigma_MB)
        assert not torch.equal(first.noise_video_BCFHW, other.noise_video_BCFHW)


def test_a_batch_takes_one_noise_level_from_each_stratum(small: RunConfig) -> None:
    config = changed(small, {"data.batch": 8, "objective.shift": 1.0})
    for first in (0, 8, 80):
        sigma_MB = draw(config, 0, _batch(config, first)).sigma_MB
        for levels in sigma_MB.tolist():
            assert sorted(int(level * 8) for level in levels) == list(range(8))


def test_untied_modalities_meet_in_all_mixtures(small: RunConfig) -> None:
    levels = np.array([noise_levels(small, 0, "clip", p) for p in range(400)])
    assert abs(np.corrcoef(levels.T)[0, 1]) < 0.15
    tied = changed(small, {"objective.are_modalities_tied": True})
    levels = np.array([noise_levels(tied, 0, "clip", p) for p in range(40)])
    assert (levels[:, 0] == levels[:, 1]).all()


@pytest.mark.parametrize("is_stratified", [True, False])
def test_levels_are_uniform_when_nothing_shifts_them(small: RunConfig, is_stratified: bool) -> None:
    config = changed(small, {"objective.is_stratified": is_stratified, "objective.shift": 1.0})
    levels = np.array([noise_levels(config, 0, "clip", p) for p in range(800)])
    histogram = np.histogram(levels[:, 0], bins=4, range=(0, 1))[0]
    # 200 expected; uniform: standard deviation sqrt(800 * 1/4 * 3/4) = 12
    assert (abs(histogram - 200) < 50).all()


def test_captions_are_dropped_at_the_rate_asked_for(small: RunConfig) -> None:
    config = changed(small, {"data.caption_drop": 0.25})
    dropped = draw(config, 0, _batch(config, size=400)).is_caption_dropped_B
    # standard deviation sqrt(.25 * .75 / 400) = .022
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.07)


def test_a_clip_without_sound_has_pure_noise_for_audio(small: RunConfig) -> None:
    batch = _batch(small)
    batch.has_sound_B[1] = False
    sigma_MB = draw(small, 0, batch).sigma_MB
    assert float(sigma_MB[1, 1]) == 1.0
    assert float(sigma_MB[0, 1]) < 1.0
