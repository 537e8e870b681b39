"""The model as a whole: what it depends on, what it leaves alone, and that it repeats itself
exactly.
"""

import pytest
import torch
from torch import Tensor, nn

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.model.dit import VideoMoeDit
from moescope.trainer.moe.experts import MoeLayer

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def _inputs(config: RunConfig, size: int = 3) -> Inputs:
    torch.manual_seed(0)
    d = config.data
    return (
        torch.randn(size, 3, d.num_frames, d.height, d.width),
        torch.randn(size, d.num_mels, d.num_mel_steps),
        torch.randint(1, 257, (size, d.num_text_bytes)),
        torch.rand(2, size),
    )


def _awake(config: RunConfig) -> VideoMoeDit:
    """A model whose zero-initialised parts have values, as after some training."""
    model = VideoMoeDit(config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "modulation" in name or "_out" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def test_a_new_model_answers_the_best_linear_prediction(small: RunConfig) -> None:
    model, inputs = VideoMoeDit(small), _inputs(small)
    video, mel = model(*inputs)
    want_video, _ = model.video_linear(inputs[0], inputs[3][0])
    want_mel, _ = model.mel_linear(inputs[1], inputs[3][1])
    assert torch.equal(video, want_video)
    assert torch.equal(mel, want_mel)


def test_weights_follow_from_the_configuration_and_no_global_chance(small: RunConfig) -> None:
    torch.manual_seed(5)
    first = VideoMoeDit(small).state_dict()
    state = torch.get_rng_state()
    second = VideoMoeDit(small).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    other = VideoMoeDit(changed(small, {"seed": 1})).state_dict()
    assert not torch.equal(first["video_in.weight"], other["video_in.weight"])


def test_odd_blocks_are_moe_and_even_ones_dense(small: RunConfig) -> None:
    model = VideoMoeDit(changed(small, {"model.layers": 5}))
    assert [isinstance(b.mlp, MoeLayer) for b in model.blocks] == [False, True, False, True, False]
    assert len(model.moe_layers) == 2
    dense = VideoMoeDit(changed(small, {"moe.num_experts": 0}))
    assert dense.moe_layers == []


@pytest.mark.parametrize("changes", [{}, {"moe.num_experts": 0}, {"moe.num_shared": 0}])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_every_parameter_gets_a_finite_gradient(small: RunConfig, changes: dict[str, int]) -> None:
    model = _awake(changed(small, changes))
    # enough tokens that no expert stays idle
    video, mel = model(*_inputs(small, size=8))
    (video.square().mean() + mel.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_video_and_audio_both_depend_on_every_input(small: RunConfig, which: int) -> None:
    model, inputs = _awake(small), list(_inputs(small))
    before = model(*inputs)
    inputs[which] = inputs[which].flip(-1) if which < 3 else inputs[which] * 0.5
    after = model(*inputs)
    for one, other in zip(before, after, strict=True):
        assert not torch.allclose(one, other, atol=1e-4)


def test_samples_of_a_batch_do_not_see_each_other(small: RunConfig) -> None:
    model, inputs = _awake(small), _inputs(small)
    together = model(*inputs)
    alone = model(*(x[1:2] for x in inputs[:3]), inputs[3][:, 1:2])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[1:2], other, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("unwritten_is_nan")
def test_a_sample_that_is_not_finite_spoils_no_other(small: RunConfig) -> None:
    model, inputs = _awake(small), _inputs(small)
    want = model(*inputs)
    inputs[0][2] = float("nan")
    video, mel = model(*inputs)
    assert bool(video[2].isnan().any())
    for one, other in zip((video, mel), want, strict=True):
        torch.testing.assert_close(one[:2], other[:2], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_forward_and_backward_repeat_themselves_bit_for_bit(small: RunConfig) -> None:
    model, inputs = _awake(small), _inputs(small)
    results = []
    for _ in range(2):
        model.zero_grad()
        video, mel = model(*inputs)
        (video.square().mean() + mel.square().mean()).backward()
        results.append([video.detach(), mel.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_all_that_computes_is_in_the_state(small: RunConfig) -> None:
    model, inputs = _awake(small), _inputs(small)
    model.moe_layers[0].router.bias_E.copy_(torch.tensor([0.5, -0.5, 0.1, 0.0]))
    copy = VideoMoeDit(changed(small, {"seed": 9}))
    copy.load_state_dict(model.state_dict())
    for one, other in zip(model(*inputs), copy(*inputs), strict=True):
        assert torch.equal(one, other)


def test_captions_say_the_same_in_the_summary_and_the_stream_wherever_padding_begins(
    small: RunConfig,
) -> None:
    model = _awake(small)
    text_BS = torch.zeros(2, small.data.num_text_bytes, dtype=torch.int64)
    text_BS[0, :3] = torch.tensor([98, 99, 100])
    tokens_BSD, summary_BD = model.text_in(text_BS)
    assert tokens_BSD.shape == (2, model.tokens.text, small.model.width)
    assert not torch.allclose(summary_BD[0], summary_BD[1])
