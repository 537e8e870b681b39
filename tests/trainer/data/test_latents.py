"""The linear code of pictures: orthonormal, ordered, of about unit variance, and applied once."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import ClipIndex
from moescope.trainer.data.latents import ROTATION, code, decode, encode, seen

CPU = torch.device("cpu")


def of_cells(frames: int, size: int, channels: int, **data: Any) -> RunConfig:
    """Samples of 8 frames of 32 x 32, in cells of frames x size x size."""
    return changed(
        RunConfig(),
        {
            "data.latents": "cosine",
            "data.latent_frames": frames,
            "data.latent_size": size,
            "data.latent_channels": channels,
            "model.patch_frames": 1,
            "model.patch_size": 1,
            **{f"data.{key}": value for key, value in data.items()},
        },
    )


@pytest.fixture(scope="module")
def video_BCFHW(made_index: ClipIndex) -> Tensor:
    config = of_cells(1, 8, 4, batch=18, validation_share=0.0)
    with Batches(made_index, config.data, seed=0, ahead=0) as batches:
        return batches.get(0).video_BCFHW


@pytest.mark.parametrize(
    ("frames", "size", "channels"),
    [
        pytest.param(1, 8, 4, id="as-DSMoE"),
        pytest.param(4, 8, 16, id="as-Wan"),
        pytest.param(2, 4, 96, id="everything"),
        pytest.param(1, 1, 3, id="a-cell-of-one-pixel"),
        pytest.param(8, 2, 1, id="one-channel"),
    ],
)
def test_latents_come_back_through_pixels(frames: int, size: int, channels: int) -> None:
    config = of_cells(frames, size, channels)
    latents = torch.randn(2, *config.video_shape, generator=torch.Generator().manual_seed(0))
    assert config.video_shape == (channels, 8 // frames, 32 // size, 32 // size)
    pixels = decode(latents, config)
    assert pixels.shape == (2, 3, 8, 32, 32)
    torch.testing.assert_close(encode(pixels, config), latents, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("frames", "size"), [(1, 4), (2, 4), (4, 8), (1, 2)])
def test_with_all_frequencies_pixels_come_back(video_BCFHW: Tensor, frames: int, size: int) -> None:
    config = of_cells(frames, size, 3 * frames * size**2)
    back = decode(encode(video_BCFHW, config), config)
    torch.testing.assert_close(back, video_BCFHW, atol=1e-5, rtol=0)


def test_the_basis_is_orthonormal_and_starts_with_the_mean_of_each_colour() -> None:
    basis_LP, std_L = code(of_cells(2, 8, 40).data)
    assert np.abs(basis_LP @ basis_LP.T - np.eye(40)).max() < 1e-6
    assert (np.diff(std_L) <= 1e-6).all()
    colour_LC = basis_LP.reshape(40, 3, -1).mean(2)
    # a constant cell of 128 values has the coefficient sqrt(128) / 128 of each
    luma, other, third = (ROTATION[colour] / np.sqrt(128) for colour in range(3))
    # luma's mean, that of the two others, and before the last the luma's change in time
    for row, expected in ((0, luma), (1, other)):
        assert colour_LC[row] == pytest.approx(expected, abs=1e-6)
    assert any(colour == pytest.approx(third, abs=1e-6) for colour in colour_LC[2:6])


def test_a_uniform_cell_is_its_mean_in_the_first_three_channels() -> None:
    config = of_cells(1, 8, 4)
    colour = torch.tensor([0.6, -0.2, 0.4])
    z = encode(colour.view(1, 3, 1, 1, 1).expand(1, 3, 8, 32, 32), config)
    # orthonormal: a constant of n = 64 values weighs sqrt(64) = 8, and rms * 8 divides it again
    expected = (torch.from_numpy(ROTATION).float() @ colour) / torch.tensor([1.2, 0.65, 0.47])
    torch.testing.assert_close(z[0, :3, 5, 2, 3], expected)
    assert float(z[0, 3].abs().max()) < 1e-6


def test_a_cell_knows_its_own_pixels_only() -> None:
    config = of_cells(2, 8, 16)
    one = torch.zeros(1, 3, 8, 32, 32)
    one[0, :, 2:4, 8:16, 24:32] = torch.randn(3, 2, 8, 8)
    touched = encode(one, config).abs().sum((0, 1)).nonzero()
    assert touched.tolist() == [[1, 1, 3]]


@pytest.mark.parametrize(
    ("frames", "size", "channels", "least_db"),
    [
        # measured on these clips of 32 x 32: 18.8, 22.1, 26.0, 29.2 and 24.1 dB
        pytest.param(1, 8, 4, 18, id="48-times-fewer-numbers"),
        pytest.param(1, 8, 8, 21, id="24-times"),
        pytest.param(1, 4, 4, 24, id="12-times"),
        pytest.param(1, 4, 8, 28, id="6-times"),
        pytest.param(2, 8, 16, 22, id="24-times-with-time"),
    ],
)
def test_what_is_kept_shows_the_clip(
    video_BCFHW: Tensor, frames: int, size: int, channels: int, least_db: float
) -> None:
    config = of_cells(frames, size, channels)
    shown = decode(encode(video_BCFHW, config), config).clamp(-1, 1)
    # the range is 2 wide
    psnr_db = 10 * np.log10(4 / float((shown - video_BCFHW).square().mean()))
    assert psnr_db > least_db


@pytest.mark.parametrize(("frames", "size", "channels"), [(1, 8, 4), (1, 4, 4), (2, 8, 12)])
def test_latents_of_clips_have_about_unit_variance(
    video_BCFHW: Tensor, frames: int, size: int, channels: int
) -> None:
    latents = encode(video_BCFHW, of_cells(frames, size, channels))
    rms_L = latents.square().mean((0, 2, 3, 4)).sqrt()
    assert 0.75 < float(latents.square().mean().sqrt()) < 1.25
    assert float(rms_L.min()) > 0.3
    assert float(rms_L.max()) < 2.5


def test_a_batch_is_encoded_at_the_door_and_pixels_pass_it(made_index: ClipIndex) -> None:
    config = of_cells(1, 8, 4, batch=3)
    with Batches(made_index, config.data, seed=0, ahead=0) as batches:
        batch = batches.get(0)
    there = seen(batch, config, CPU)
    assert torch.equal(there.video_BCFHW, encode(batch.video_BCFHW, config))
    assert torch.equal(there.mel_BNM, batch.mel_BNM)
    pixels = seen(batch, changed(config, {"data.latents": "none"}), CPU)
    assert torch.equal(pixels.video_BCFHW, batch.video_BCFHW)
    assert torch.equal(
        decode(batch.video_BCFHW, changed(config, {"data.latents": "none"})), batch.video_BCFHW
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_code_is_the_same_on_a_gpu(video_BCFHW: Tensor) -> None:
    config = of_cells(1, 8, 4)
    there = encode(video_BCFHW.cuda(), config)
    torch.testing.assert_close(there.cpu(), encode(video_BCFHW, config), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        decode(there, config).cpu(), decode(there.cpu(), config), atol=1e-5, rtol=0
    )
