"""What is measured of a model on fixed clips: the same every time, and blind to what it should be
blind to.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batch
from moescope.trainer.evaluation.evaluate import (
    ZeroFlow,
    evaluate,
    probe,
    probe_passes,
    with_other_captions,
    with_other_sound,
    with_other_video,
)
from moescope.trainer.model.inputs import Flow, Inputs
from moescope.trainer.model.make import make_model


@pytest.fixture
def batch(small: RunConfig) -> Batch:
    torch.manual_seed(0)
    d, size = small.data, 6
    return Batch(
        index=-1,
        names=tuple(f"clip-{i}" for i in range(size)),
        positions=tuple(range(size)),
        video_BCFHW=torch.rand(size, 3, d.num_frames, d.height, d.width) * 2 - 1,
        mel_BNM=torch.randn(size, d.num_mels, d.num_mel_steps),
        # two captions, three clips each
        text_BS=torch.tensor([1, 2, 1, 2, 1, 2])[:, None].expand(-1, d.num_text_bytes),
        has_sound_B=torch.ones(size, dtype=torch.bool),
        label_B=torch.zeros(size, dtype=torch.int64),
    )


def test_every_clip_meets_every_bin_once_in_each_modality(small: RunConfig, batch: Batch) -> None:
    config = changed(small, {"objective.shift": 1.0})
    passes = probe_passes(config, batch, num_bins=5)
    bins_PMB = np.stack([one.bin_MB.numpy() for one in passes])
    assert (np.sort(bins_PMB, axis=0) == np.arange(5)[:, None, None]).all()
    for one in passes:
        # without a shift a bin is a fifth of the noise scale
        assert torch.equal((one.draw.sigma_MB * 5).long(), one.bin_MB)


def test_measuring_twice_gives_the_same_and_changes_no_weight(
    small: RunConfig, batch: Batch
) -> None:
    model = make_model(small)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    passes = probe_passes(small, batch)
    first, again = (probe(model, batch, passes, small).by_bin_MQ for _ in range(2))
    assert np.array_equal(first, again)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_model_that_answers_zero_loses_the_power_of_noise_and_data(
    small: RunConfig, batch: Batch
) -> None:
    losses = probe(ZeroFlow(), batch, probe_passes(small, batch), small)
    # E(eps - x)^2 = 1 + E x^2; 6 clips of 3072 and of 64 values in 8 passes
    assert losses.video == pytest.approx(1 + float(batch.video_BCFHW.square().mean()), rel=0.02)
    assert losses.audio == pytest.approx(1 + float(batch.mel_BNM.square().mean()), rel=0.1)
    assert losses.total == pytest.approx(losses.video + small.objective.audio_weight * losses.audio)


def test_clips_without_sound_do_not_count_as_audio(small: RunConfig, batch: Batch) -> None:
    batch.has_sound_B[3:] = False
    passes = probe_passes(small, batch)
    assert bool((passes[0].draw.sigma_MB[1, 3:] == 1.0).all())
    batch.mel_BNM[3:] = 1e6
    losses = probe(ZeroFlow(), batch, passes, small)
    assert losses.audio < 10


def test_other_captions_sound_and_video_are_those_of_other_clips(batch: Batch) -> None:
    captions = with_other_captions(batch)
    assert not bool((captions.text_BS == batch.text_BS).all(dim=1).any())
    sound, video = with_other_sound(batch), with_other_video(batch)
    for place in range(len(batch.names)):
        assert not torch.equal(sound.mel_BNM[place], batch.mel_BNM[place])
        assert not torch.equal(video.video_BCFHW[place], batch.video_BCFHW[place])
    assert torch.equal(sound.video_BCFHW, batch.video_BCFHW)
    assert torch.equal(video.mel_BNM, batch.mel_BNM)


def test_where_there_are_no_captions_other_classes_take_their_place(batch: Batch) -> None:
    # two classes, three clips each
    label_B = torch.tensor([0, 0, 0, 1, 1, 1])
    captions = with_other_captions(replace(batch, label_B=label_B, text_BS=batch.text_BS[:, :0]))
    assert torch.equal(captions.label_B, 1 - label_B)


def test_without_sound_and_captions_nothing_is_undefined(small: RunConfig, batch: Batch) -> None:
    config = changed(small, {"data.num_mel_steps": 0, "data.num_text_bytes": 0})
    silent = replace(
        batch,
        mel_BNM=batch.mel_BNM[..., :0],
        text_BS=batch.text_BS[:, :0],
        has_sound_B=torch.zeros_like(batch.has_sound_B),
    )
    learned = evaluate(make_model(config), silent, config)
    assert np.isfinite(learned.losses.by_bin_MQ).all()
    assert learned.losses.audio == 0.0
    assert learned.losses.total == learned.losses.video > 0
    assert learned.below_zero_output == pytest.approx(
        1 - learned.losses.video / learned.zero_output.video
    )
    assert (learned.caption_effect, learned.sound_effect, learned.video_effect) == (0.0, 0.0, 0.0)


class NeedsItsCaption(nn.Module):
    """Answers zero, and is off by two where a clip does not come with its own caption."""

    def __init__(self, right_B: Tensor) -> None:
        super().__init__()
        self.right_B = right_B

    def forward(self, inputs: Inputs) -> Flow:
        off_B = 2.0 * (inputs.text_BS[:, 0] != self.right_B)
        return Flow(
            torch.zeros_like(inputs.video_BCFHW) + off_B.view(-1, 1, 1, 1, 1),
            torch.zeros_like(inputs.mel_BNM),
        )


def test_effects_are_the_rise_of_the_loss_by_a_wrong_input(small: RunConfig, batch: Batch) -> None:
    learned = evaluate(NeedsItsCaption(batch.text_BS[:, 0]), batch, small)
    assert learned.below_zero_output == pytest.approx(0.0)
    # the flow has mean 0, so that being off by two adds 2^2 to the video's loss
    want = 4.0 / learned.losses.total
    assert learned.caption_effect == pytest.approx(want, rel=0.05)
    assert learned.sound_effect == 0.0
    assert learned.video_effect == 0.0


class Mixes(nn.Module):
    """Answers with something of all that it is told."""

    def forward(self, inputs: Inputs) -> Flow:
        video_B = inputs.video_BCFHW.flatten(1).square().mean(1)
        mel_B = inputs.mel_BNM.flatten(1).square().mean(1)
        told_B = video_B + mel_B + 0.1 * inputs.text_BS[:, 0]
        return Flow(
            inputs.video_BCFHW * told_B.view(-1, 1, 1, 1, 1), inputs.mel_BNM + told_B.view(-1, 1, 1)
        )


def test_a_few_clips_at_a_time_give_what_all_at_once_give(small: RunConfig, batch: Batch) -> None:
    batch.has_sound_B[1:3] = False
    whole, parts = (evaluate(Mixes(), batch, small, most_at_once=n) for n in (None, 4))
    for name in ("losses", "zero_output", "other_captions", "other_sound", "other_video"):
        expected = getattr(whole, name).by_bin_MQ
        np.testing.assert_allclose(getattr(parts, name).by_bin_MQ, expected, rtol=1e-5)
    effects = (whole.caption_effect, whole.sound_effect, whole.video_effect)
    assert all(abs(effect) > 1e-4 for effect in effects)
