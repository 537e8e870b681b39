"""Where tokens are, and what rotary attention makes of it."""

import numpy as np
import pytest
import torch

from moescope.kernels.compare import relative_error
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.model.positions import (
    axis_split,
    coordinates,
    extent,
    place_table,
    rotary_table,
    rotate,
)


def test_sound_and_pictures_of_one_moment_share_their_time(small: RunConfig) -> None:
    config = changed(small, {"data.num_frames": 8, "data.num_mel_steps": 16})
    config = changed(config, {"model.patch_frames": 2, "model.patch_mel_steps": 4})
    text, video, audio = np.split(coordinates(config), np.cumsum(extent(config)[:2]))
    # 4 stretches of audio over 8 frames, like 4 pairs of frames: middles at 1, 3, 5, 7
    assert sorted(set(video[:, 0])) == [1.0, 3.0, 5.0, 7.0]
    assert audio[:, 0].tolist() == [1.0, 3.0, 5.0, 7.0]
    assert text[:, 0].max() < 0


def test_sound_and_text_are_nowhere_in_the_picture(small: RunConfig) -> None:
    text, video, audio = np.split(coordinates(small), np.cumsum(extent(small)[:2]))
    assert not text[:, 1:].any()
    assert not audio[:, 1:].any()
    assert video[:, 1:].min() == 1.0


def test_there_is_one_place_per_token_of_the_configuration(small: RunConfig) -> None:
    assert len(coordinates(small)) == small.tokens_per_sample == extent(small).total
    assert len(np.unique(coordinates(small), axis=0)) == small.tokens_per_sample


@pytest.mark.parametrize("head_width", [8, 16, 24, 32, 64, 128])
def test_the_axes_share_out_all_of_a_head_in_pairs(head_width: int) -> None:
    split = axis_split(head_width)
    assert sum(split) == head_width
    assert all(part > 0 and part % 2 == 0 for part in split)


def test_dot_products_depend_on_differences_of_place_only() -> None:
    torch.manual_seed(0)
    place = np.random.default_rng(0).uniform(0, 8, (5, 3))
    q, k = torch.randn(1, 1, 5, 16), torch.randn(1, 1, 5, 16)
    products = []
    for shift in (0.0, 3.0):
        table = rotary_table(place + shift, 16, 10_000.0)
        products.append(rotate(q, table) @ rotate(k, table).transpose(-1, -2))
    assert relative_error("products", products[0], products[1]) < 1e-5


def test_turning_keeps_lengths_and_the_place_zero_as_it_is() -> None:
    x = torch.randn(1, 1, 4, 16)
    place = np.array([[0.0, 0, 0], [1, 2, 3], [5, 0, 1], [7, 7, 7]])
    turned = rotate(x, rotary_table(place, 16, 100.0))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[..., 0, :], x[..., 0, :])


def test_a_pair_turns_by_place_times_its_frequency() -> None:
    # head of 8: axes 4, 2, 2; pairs: time at base^0 and base^(-1/2), height and width at base^0
    cosine, sine = rotary_table(np.array([[1.0, 2.0, 3.0]]), 8, 100.0)
    angles = [1.0, 0.1, 2.0, 3.0]
    assert cosine[0].tolist() == pytest.approx(np.cos(angles).tolist())
    assert sine[0].tolist() == pytest.approx(np.sin(angles).tolist())


def test_every_place_has_a_code_of_its_own(small: RunConfig) -> None:
    codes = place_table(coordinates(small), small.model.width)
    assert codes.shape == (small.tokens_per_sample, small.model.width)
    apart = torch.cdist(codes, codes) + torch.eye(len(codes)) * 9
    assert float(apart.min()) > 0.1
