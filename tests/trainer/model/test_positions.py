"""Where tokens are, and what rotary attention makes of it."""

import numpy as np
import pytest
import torch

from moescope.kernels.compare import relative_error
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.model.positions import (
    axis_split,
    class_coordinates,
    coordinates,
    extent,
    grid_coordinates,
    place_table,
    rotary_positions,
    rotary_table,
    rotate,
)
from moescope.trainer.without_effect import refuse_keys_without_effect

CLASS = {
    "model.family": "class",
    "model.num_classes": 4,
    "data.num_text_bytes": 0,
    "data.num_mel_steps": 0,
}


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


@pytest.mark.parametrize("head_width", [8, 16, 64, 72])
def test_two_axes_turn_as_in_dsmoe_up_to_the_order_of_channels(head_width: int) -> None:
    # DSMoE (facts: model.md 6.2): a head is [y | x]; in each half, of n = d / 4 pairs, channel c
    # turns against c + n by coordinate * 10000^(-c / n)
    height, width, n = 3, 4, head_width // 4
    place_SA = grid_coordinates((1, height, width))[:, 1:]
    theirs = torch.randn(1, 1, height * width, head_width, dtype=torch.float64)
    want = torch.empty_like(theirs)
    for token, coordinate_A in enumerate(place_SA):
        for axis, coordinate in enumerate(coordinate_A):
            for c in range(n):
                angle = coordinate * 10_000 ** (-c / n)
                low, high = 2 * n * axis + c, 2 * n * axis + c + n
                a, b = theirs[0, 0, token, low], theirs[0, 0, token, high]
                want[0, 0, token, low] = a * np.cos(angle) - b * np.sin(angle)
                want[0, 0, token, high] = a * np.sin(angle) + b * np.cos(angle)
    # ours: the first channels of all pairs, y before x, then the second ones
    order = [2 * n * axis + c + second for second in (0, n) for axis in (0, 1) for c in range(n)]
    got = rotate(theirs[..., order], rotary_table(place_SA, head_width, 10_000.0).double())
    assert sorted(order) == list(range(head_width))
    assert relative_error("turned", want[..., order], got) < 1e-6


def test_places_of_each_kind_turn_by_their_own_coordinates(small: RunConfig) -> None:
    config = changed(
        small, {"model.patch_frames": 2, "data.num_frames": 4, "model.rope_base": 10.0}
    )
    place_S3 = grid_coordinates(config.grid)
    tokens, head = len(place_S3), config.model.width // config.model.heads
    tables = {}
    for kind in ("3d", "2d", "1d"):
        table = rotary_positions(changed(config, {"model.rotary": kind}), place_S3)
        assert table is not None
        assert table.shape == (2, tokens, head // 2)
        tables[kind] = table
    per_frame = tokens // config.grid[0]
    # 2d: the same place in two frames turns alike; 3d and 1d: not
    alike = {k: torch.equal(t[:, 0], t[:, per_frame]) for k, t in tables.items()}
    assert alike == {"3d": False, "2d": True, "1d": False}
    # 1d: the first pair turns by the number of the token
    assert torch.allclose(tables["1d"][0, :, 0], torch.arange(tokens).cos(), atol=1e-6)
    assert rotary_positions(changed(config, {"model.rotary": "none"}), place_S3) is None


def test_tokens_of_the_class_are_nowhere_and_are_not_turned(small: RunConfig) -> None:
    config = changed(small, {"model.rotary": "2d", **CLASS, "model.num_class_tokens": 3})
    place_S3 = class_coordinates(config)
    assert len(place_S3) == config.tokens_per_sample == 3 + np.prod(config.grid)
    table = rotary_positions(config, place_S3)
    assert table is not None
    cosine, sine = table
    assert bool((cosine[:3] == 1).all())
    assert bool((sine[:3] == 0).all())
    assert bool((sine[3:] != 0).any(1).all())


def test_a_table_of_two_axes_shares_the_width_in_halves() -> None:
    place_SA = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    code = place_table(place_SA, 8)
    # at 0 sines are 0 and cosines 1; wavelengths 2 pi and 2 pi * 10 in each half of 4
    assert code[0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert torch.equal(code[1, 4:], code[0, 4:])
    assert torch.equal(code[2, :4], code[0, :4])
    assert code[1, :4].tolist() == pytest.approx([np.sin(1), np.sin(0.1), np.cos(1), np.cos(0.1)])


def test_a_token_that_knows_no_place_is_refused(small: RunConfig) -> None:
    with pytest.raises(MoescopeError, match=r"model\.rotary is none and model\.has_place_table"):
        changed(small, {"model.rotary": "none", "model.has_place_table": False})
    still = changed(small, {"model.rotary": "none", "model.rope_base": 100.0})
    with pytest.raises(MoescopeError, match=r"model\.rope_base has no effect"):
        refuse_keys_without_effect(still, ["model.rope_base"])
    with pytest.raises(MoescopeError, match=r"model\.kv_heads has no effect: it equals"):
        refuse_keys_without_effect(changed(small, {"model.kv_heads": 2}), ["model.kv_heads"])


def test_a_width_that_the_table_cannot_share_out_is_refused(small: RunConfig) -> None:
    narrow = {"model.width": 34, "model.heads": 1, "model.rotary": "1d"}
    with pytest.raises(
        MoescopeError, match=r"model\.has_place_table needs a multiple of 4: use 36"
    ):
        changed(small, narrow)
    assert changed(small, {**narrow, "model.has_place_table": False}).model.width == 34
