"""The Fréchet distance on random features."""

import numpy as np
import pytest
import torch

from moescope.trainer.evaluation.frechet import frechet_distance, random_features


def test_a_set_is_no_way_from_itself() -> None:
    values = np.random.default_rng(0).standard_normal((40, 6))
    assert frechet_distance(values, values) == pytest.approx(0.0, abs=1e-9)


def test_the_distance_of_known_gaussians() -> None:
    # four corners: variance 4/3 along each axis, no covariance
    corners = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    moved = corners * [1.0, 3.0] + [2.0, 0.0]
    # |(2, 0)|^2 + sum of (std_1 - std_2)^2 = 4 + (1 - 3)^2 * 4/3
    assert frechet_distance(corners, moved) == pytest.approx(4 + 16 / 3)


def test_a_single_feature_has_a_distance_too() -> None:
    # variances 2 and 8: (0 - 1)^2 + (sqrt 2 - sqrt 8)^2 = 1 + 2
    assert frechet_distance(np.array([[-1.0], [1]]), np.array([[-1.0], [3]])) == pytest.approx(3)


def test_more_clips_than_features_is_not_needed() -> None:
    rng = np.random.default_rng(0)
    few, others = rng.standard_normal((5, 20)), rng.standard_normal((5, 20)) + 1
    assert np.isfinite(frechet_distance(few, others))


def test_noise_is_further_from_pictures_than_pictures_are() -> None:
    generator = torch.Generator().manual_seed(0)

    def pictures(num: int) -> tuple[torch.Tensor, torch.Tensor]:
        colours = torch.rand(num, 3, 1, 1, 1, generator=generator) * 2 - 1
        return colours.expand(-1, -1, 4, 16, 16), torch.zeros(num, 8, 16)

    real, same_kind = (random_features(*pictures(24)) for _ in range(2))
    noise = random_features(
        torch.randn(24, 3, 4, 16, 16, generator=generator), torch.zeros(24, 8, 16)
    )
    assert frechet_distance(real, noise) > 3 * frechet_distance(real, same_kind)


def test_features_are_the_same_on_every_call() -> None:
    video, mel = torch.rand(2, 3, 4, 16, 16), torch.rand(2, 8, 16)
    before = torch.get_rng_state()
    assert np.array_equal(random_features(video, mel), random_features(video, mel))
    assert torch.equal(before, torch.get_rng_state())
