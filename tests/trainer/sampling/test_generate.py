"""Making clips: the Euler steps, the guidance and the chance behind them."""

import pytest
import torch
from torch import Tensor, nn

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.model.inputs import Flow, Inputs
from moescope.trainer.model.make import make_model
from moescope.trainer.model.noise_experts import NoiseExperts
from moescope.trainer.recipes.by_name import recipe
from moescope.trainer.sampling.generate import (
    GUIDANCE,
    Prompt,
    Sampling,
    generate,
    guidance_at,
)
from moescope.trainer.sampling.solvers import noise_schedule

EXPERTS = {
    "noise_experts.num_experts": 2,
    "noise_experts.boundaries": [0.7],
    "noise_experts.guidance": [2.0, 4.0],
}


class TowardsOneClip(nn.Module):
    """The true flow towards a fixed clip: v = (z - x) / sigma, as z = (1 - sigma) x + sigma eps."""

    def __init__(self, video: Tensor, mel: Tensor) -> None:
        super().__init__()
        self.video, self.mel = video, mel
        self.anchor = nn.Parameter(torch.zeros(1))
        self.sizes: list[int] = []

    def forward(self, inputs: Inputs) -> Flow:
        self.sizes.append(len(inputs.video_BCFHW))
        return Flow(
            (inputs.video_BCFHW - self.video) / inputs.sigma_MB[0].view(-1, 1, 1, 1, 1),
            (inputs.mel_BNM - self.mel) / inputs.sigma_MB[1].view(-1, 1, 1),
        )


class SaysWhatItIsTold(nn.Module):
    """A flow of 1 where there is a caption, and of 0 where there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Inputs) -> Flow:
        told = (inputs.text_BS != 0).any(dim=1).float()
        return Flow(
            told.view(-1, 1, 1, 1, 1).expand_as(inputs.video_BCFHW) * 1.0,
            told.view(-1, 1, 1).expand_as(inputs.mel_BNM) * 1.0,
        )


def _clip(config: RunConfig) -> tuple[Tensor, Tensor]:
    d = config.data
    torch.manual_seed(0)
    video = torch.rand(1, 3, d.num_frames, d.height, d.width) * 1.8 - 0.9
    return video, torch.randn(1, d.num_mels, d.num_mel_steps)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_true_flow_ends_at_the_clip_in_any_number_of_steps(
    small: RunConfig, steps: int
) -> None:
    video, mel = _clip(small)
    made = generate(TowardsOneClip(video, mel), small, [Prompt("a")], 3, Sampling(steps))
    torch.testing.assert_close(made.video_BCFHW, video, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.mel_BNM, mel, atol=1e-5, rtol=0)


def test_guidance_exaggerates_what_the_caption_adds(small: RunConfig) -> None:
    # one step from 1 to 0: mel = noise - guidance * (1 - 0)
    mels = [
        generate(SaysWhatItIsTold(), small, [Prompt("a")], 0, Sampling(1, guidance=g)).mel_BNM
        for g in (1.0, 3.0)
    ]
    torch.testing.assert_close(mels[0] - mels[1], torch.full_like(mels[0], 2.0))


def test_no_guidance_asks_the_model_once_per_clip(small: RunConfig) -> None:
    video, mel = _clip(small)
    model = TowardsOneClip(video, mel)
    generate(model, small, [Prompt("a"), Prompt("b")], 0, Sampling(2, guidance=1.0))
    generate(model, small, [Prompt("a"), Prompt("b")], 0, Sampling(2, guidance=2.0))
    assert model.sizes == [2, 2, 4, 4]


def test_levels_fall_from_noise_to_data_and_linger_at_noise_when_shifted() -> None:
    assert noise_schedule(4, 1.0) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    # 3 * .5 / (1 + 2 * .5) = .75
    assert noise_schedule(2, 3.0) == pytest.approx([1.0, 0.75, 0.0])


def test_the_same_seed_makes_the_same_clip_and_another_does_not(small: RunConfig) -> None:
    model = make_model(small)
    first, again, other = (
        generate(model, small, [Prompt("x")], seed, Sampling(2)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.video_BCFHW, again.video_BCFHW)
    assert torch.equal(first.mel_BNM, again.mel_BNM)
    assert not torch.equal(first.video_BCFHW, other.video_BCFHW)


def test_what_is_made_has_the_shape_of_the_data_and_stays_in_range(small: RunConfig) -> None:
    config = changed(small, {"data.num_frames": 6, "data.width": 24})
    made = generate(make_model(config), config, [Prompt(word) for word in "xyz"], 0, Sampling(2))
    assert made.video_BCFHW.shape == (3, 3, 6, 16, 24)
    assert made.mel_BNM.shape == (3, 8, 8)
    assert float(made.video_BCFHW.abs().max()) <= 1.0


def test_each_expert_by_noise_level_guides_in_its_own_steps() -> None:
    """Wan2.2's text-to-video: guidance 4.0 in the 26 steps of more noise, 3.0 in the 14 others
    (facts: model.md 3.5)."""
    config = recipe("wan22_two_expert")
    with torch.device("meta"):
        model = make_model(config)
    levels = noise_schedule(40, config.objective.shift)[:-1]
    assert guidance_at(model, config, levels) == [4.0] * 26 + [3.0] * 14
    assert guidance_at(model, config, levels, 1.5) == [1.5] * 40


def test_in_a_transition_guidance_is_blended_as_the_answers_are(small: RunConfig) -> None:
    config = changed(small, {**EXPERTS, "noise_experts.transition": 0.2})
    model = make_model(config)
    # w = (sigma - 0.7) / 0.2 + 1/2: 0, 1/4, 1/2, 1
    got = guidance_at(model, config, [0.5, 0.65, 0.7, 0.9])
    assert got == pytest.approx([2.0, 2.5, 3.0, 4.0])
    assert guidance_at(make_model(small), small, [0.5, 0.9]) == [GUIDANCE] * 2


def test_guidance_of_one_asks_once_where_its_expert_is_in_charge(small: RunConfig) -> None:
    config = changed(small, {**EXPERTS, "noise_experts.guidance": [1.0, 3.0]})
    model = make_model(config)
    assert isinstance(model, NoiseExperts)
    sizes: list[tuple[int, int]] = []
    for expert, network in enumerate(model.experts):
        network.register_forward_pre_hook(
            lambda m, args, e=expert: sizes.append((e, len(args[0].video_BCFHW)))
        )
    generate(model, config, [Prompt("a")] * 3, 0, Sampling(4))
    # shift 3: levels 1, 0.9, 0.75, 0.5
    assert sizes == [(1, 6), (1, 6), (1, 6), (0, 3)]


@pytest.mark.parametrize(
    ("interval", "guided"),
    [
        ((0.0, 1.0), [1.0, 0.75, 0.5, 0.25]),
        # JiT's 0.1 to 1.0 of data
        ((0.0, 0.9), [0.75, 0.5, 0.25]),
        ((0.25, 0.75), [0.5]),
    ],
)
def test_guidance_is_given_inside_its_interval(
    small: RunConfig, interval: tuple[float, float], guided: list[float]
) -> None:
    config = changed(small, {"objective.shift": 1.0})
    model, asked = SaysWhatItIsTold(), []
    model.register_forward_pre_hook(
        lambda m, args: asked.append((float(args[0].sigma_MB[0, 0]), len(args[0].video_BCFHW)))
    )
    generate(model, config, [Prompt("a")], 0, Sampling(4, guidance=3.0, interval=interval))
    assert [level for level, size in asked if size == 2] == guided
    assert [level for level, _ in asked] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 1.1)])
def test_an_interval_without_an_inside_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(MoescopeError, match="guidance interval"):
        Sampling(interval=interval)


def test_heun_and_another_shift_make_another_clip_by_the_levels_asked_for(
    small: RunConfig,
) -> None:
    levels: list[float] = []
    model = make_model(small)
    model.register_forward_pre_hook(lambda m, args: levels.append(float(args[0].sigma_MB[0, 0])))
    generate(model, small, [Prompt("a")], 0, Sampling(3, "heun", 1.0, shift=1.0))
    assert levels == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 1 / 3])
