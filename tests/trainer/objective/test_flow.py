"""The flow loss: its target, its mean and its mask."""

import pytest
import torch
from torch import Tensor, nn

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batch
from moescope.trainer.model.inputs import Flow, Inputs
from moescope.trainer.objective.flow import flow_losses, noisy
from moescope.trainer.objective.timesteps import Draw


class Answers(nn.Module):
    """A model that answers what it was told to, and remembers what it was asked."""

    def __init__(self, video: Tensor, mel: Tensor) -> None:
        super().__init__()
        self.video, self.mel = video, mel
        self.asked: Inputs | None = None

    def forward(self, asked: Inputs) -> Flow:
        self.asked = asked
        return Flow(self.video, self.mel)


@pytest.fixture
def batch(small: RunConfig) -> Batch:
    torch.manual_seed(0)
    d = small.data
    return Batch(
        index=0,
        names=("a", "b"),
        positions=(0, 1),
        video_BCFHW=torch.rand(2, 3, d.num_frames, d.height, d.width) * 2 - 1,
        mel_BNM=torch.randn(2, d.num_mels, d.num_mel_steps),
        text_BS=torch.full((2, d.num_text_bytes), 98),
        has_sound_B=torch.tensor([True, True]),
        label_B=torch.tensor([0, 0]),
    )


@pytest.fixture
def drawn(batch: Batch) -> Draw:
    return Draw(
        torch.tensor([[0.25, 0.75], [0.5, 0.5]]),
        torch.randn_like(batch.video_BCFHW),
        torch.randn_like(batch.mel_BNM),
        torch.tensor([False, True]),
        torch.tensor([False, True]),
    )


def test_the_true_flow_has_no_loss(small: RunConfig, batch: Batch, drawn: Draw) -> None:
    model = Answers(
        drawn.noise_video_BCFHW - batch.video_BCFHW, drawn.noise_mel_BNM - batch.mel_BNM
    )
    losses = flow_losses(model, batch, drawn, small)
    assert bool((losses.per_sample_MB == 0).all())
    # following the flow from the noisy clip for (0 - sigma) ends at the data
    sigma = drawn.sigma_MB[0].view(2, 1, 1, 1, 1)
    torch.testing.assert_close(
        model.asked[0] - sigma * model.video, batch.video_BCFHW, atol=1e-5, rtol=0
    )


def test_the_loss_is_the_mean_square_per_sample(
    small: RunConfig, batch: Batch, drawn: Draw
) -> None:
    true_video = drawn.noise_video_BCFHW - batch.video_BCFHW
    true_mel = drawn.noise_mel_BNM - batch.mel_BNM
    off = torch.tensor([0.1, 0.3])
    model = Answers(true_video + off.view(2, 1, 1, 1, 1), true_mel + 2 * off.view(2, 1, 1))
    config = changed(small, {"objective.audio_weight": 0.5})
    losses = flow_losses(model, batch, drawn, config)
    # squares of (.1, .3) and of (.2, .6)
    want = torch.tensor([[0.01, 0.09], [0.04, 0.36]])
    torch.testing.assert_close(losses.per_sample_MB, want)
    # (.01 + .09) / 2 + .5 * (.04 + .36) / 2
    assert float(losses.total) == pytest.approx(0.15)


def test_a_clip_without_sound_is_left_out_of_the_audio_mean(
    small: RunConfig, batch: Batch, drawn: Draw
) -> None:
    batch.has_sound_B[1] = False
    batch.mel_BNM[1] = float("nan")
    model = Answers(torch.zeros_like(batch.video_BCFHW), torch.zeros_like(batch.mel_BNM))
    losses = flow_losses(model, batch, drawn, changed(small, {"objective.audio_weight": 1.0}))
    assert float(losses.per_sample_MB[1, 1]) == 0.0
    want = losses.per_sample_MB[0].mean() + losses.per_sample_MB[1, 0]
    assert float(losses.total) == pytest.approx(float(want))


def test_without_any_sound_the_loss_is_the_video_alone(
    small: RunConfig, batch: Batch, drawn: Draw
) -> None:
    batch.has_sound_B[:] = False
    model = Answers(torch.zeros_like(batch.video_BCFHW), torch.zeros_like(batch.mel_BNM))
    losses = flow_losses(model, batch, drawn, small)
    assert float(losses.total) == pytest.approx(float(losses.per_sample_MB[0].mean()))


def test_a_dropped_caption_is_all_padding(small: RunConfig, batch: Batch, drawn: Draw) -> None:
    model = Answers(torch.zeros_like(batch.video_BCFHW), torch.zeros_like(batch.mel_BNM))
    flow_losses(model, batch, drawn, small)
    text_BS = model.asked[2]
    assert bool((text_BS[0] == 98).all())
    assert bool((text_BS[1] == 0).all())
    assert bool((batch.text_BS == 98).all())


def test_noise_levels_mix_data_and_noise() -> None:
    data, noise = torch.zeros(3, 2), torch.ones(3, 2)
    mixed = noisy(data, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert mixed[:, 0].tolist() == [0.0, 0.25, 1.0]
