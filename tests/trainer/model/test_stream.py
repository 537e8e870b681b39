"""The model as a whole: what it depends on, what it leaves alone, and that it repeats itself
exactly.
"""

import pytest
import torch
from torch import nn

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.model.inputs import Inputs
from moescope.trainer.model.make import make_model
from moescope.trainer.model.stream import VideoMoeDit
from moescope.trainer.moe.experts import MoeLayer
from moescope.trainer.moe.steps import moe_layers


def _inputs(config: RunConfig, size: int = 3) -> Inputs:
    torch.manual_seed(0)
    d = config.data
    return Inputs(
        torch.randn(size, *config.video_shape),
        torch.randn(size, d.num_mels, d.num_mel_steps),
        torch.randint(1, 257, (size, d.num_text_bytes)),
        torch.zeros(size, dtype=torch.int64),
        torch.randn(size, *config.video_shape[::2], config.video_shape[3])
        if config.model.has_reference
        else None,
        torch.rand(2, size),
    )


def _awake(config: RunConfig) -> VideoMoeDit:
    """A model whose zero-initialised parts have values, as after some training."""
    model = make_model(config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "modulation" in name or "_out" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def test_a_new_model_answers_the_best_linear_prediction(small: RunConfig) -> None:
    model, inputs = make_model(small), _inputs(small)
    video, mel = model(inputs)
    want_video, _ = model.video_linear(inputs.video_BCFHW, inputs.sigma_MB[0])
    want_mel, _ = model.mel_linear(inputs.mel_BNM, inputs.sigma_MB[1])
    assert torch.equal(video, want_video)
    assert torch.equal(mel, want_mel)


def test_weights_follow_from_the_configuration_and_no_global_chance(small: RunConfig) -> None:
    torch.manual_seed(5)
    first = make_model(small).state_dict()
    state = torch.get_rng_state()
    second = make_model(small).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    other = make_model(changed(small, {"seed": 1})).state_dict()
    assert not torch.equal(first["video_in.weight"], other["video_in.weight"])


def test_odd_blocks_are_moe_and_even_ones_dense(small: RunConfig) -> None:
    model = make_model(changed(small, {"model.layers": 5}))
    assert [isinstance(b.mlp, MoeLayer) for b in model.blocks] == [False, True, False, True, False]
    assert len(moe_layers(model)) == 2
    dense = make_model(changed(small, {"moe.num_experts": 0}))
    assert moe_layers(dense) == []


@pytest.mark.parametrize("changes", [{}, {"moe.num_experts": 0}, {"moe.num_shared": 0}])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_every_parameter_gets_a_finite_gradient(small: RunConfig, changes: dict[str, int]) -> None:
    model = _awake(changed(small, changes))
    # enough tokens that no expert stays idle
    video, mel = model(_inputs(model.config, size=8))
    (video.square().mean() + mel.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize(
    "which", ["video_BCFHW", "mel_BNM", "text_BS", "reference_BCHW", "sigma_MB"]
)
def test_video_and_audio_both_depend_on_every_input(small: RunConfig, which: str) -> None:
    config = changed(small, {"model.has_reference": True})
    model, inputs = _awake(config), _inputs(config)
    before = model(inputs)
    given = getattr(inputs, which)
    after = model(
        inputs._replace(**{which: given * 0.5 if which == "sigma_MB" else given.flip(-1)})
    )
    for one, other in zip(before, after, strict=True):
        assert not torch.allclose(one, other, atol=1e-4)


def test_samples_of_a_batch_do_not_see_each_other(small: RunConfig) -> None:
    model, inputs = _awake(small), _inputs(small)
    together = model(inputs)
    alone = model(inputs.rows(torch.tensor([1])))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[1:2], other, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("unwritten_is_nan")
def test_a_sample_that_is_not_finite_spoils_no_other(small: RunConfig) -> None:
    model, inputs = _awake(small), _inputs(small)
    want = model(inputs)
    inputs.video_BCFHW[2] = float("nan")
    video, mel = model(inputs)
    assert bool(video[2].isnan().any())
    for one, other in zip((video, mel), want, strict=True):
        torch.testing.assert_close(one[:2], other[:2], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_forward_and_backward_repeat_themselves_bit_for_bit(small: RunConfig) -> None:
    model, inputs = _awake(small), _inputs(small)
    results = []
    for _ in range(2):
        model.zero_grad()
        video, mel = model(inputs)
        (video.square().mean() + mel.square().mean()).backward()
        results.append([video.detach(), mel.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_all_that_computes_is_in_the_state(small: RunConfig) -> None:
    model, inputs = _awake(small), _inputs(small)
    moe_layers(model)[0].router.bias_E.copy_(torch.tensor([0.5, -0.5, 0.1, 0.0]))
    copy = make_model(changed(small, {"seed": 9}))
    copy.load_state_dict(model.state_dict())
    for one, other in zip(model(inputs), copy(inputs), strict=True):
        assert torch.equal(one, other)


def test_captions_say_the_same_in_the_summary_and_the_stream_wherever_padding_begins(
    small: RunConfig,
) -> None:
    model = _awake(small)
    text_BS = torch.zeros(2, small.data.num_text_bytes, dtype=torch.int64)
    text_BS[0, :3] = torch.tensor([98, 99, 100])
    tokens_BSD, summary_BD = model.text_in(text_BS)
    assert tokens_BSD.shape == (2, model.tokens.told, small.model.width)
    assert not torch.allclose(summary_BD[0], summary_BD[1])


@pytest.mark.parametrize("has_reference", [False, True])
def test_the_cross_attention_router_reads_what_is_told_and_nothing_else(
    small: RunConfig, has_reference: bool
) -> None:
    changes = {"moe.router": "cross_attention", "model.has_reference": has_reference}
    config = changed(small, changes)
    model, inputs = _awake(config), _inputs(config)
    read: list[tuple[torch.Tensor, torch.Tensor]] = []
    for block in model.blocks:
        if block.is_moe:
            block.mlp.router.register_forward_hook(lambda module, args, output: read.append(args))
    model(inputs)
    assert len(read) == len(config.moe_blocks)
    num_text = config.data.num_text_bytes // config.model.patch_text_bytes
    _, rows, columns = config.grid
    num_told = num_text + (rows * columns if has_reference else 0)
    for x_BSD, told_BSD in read:
        # the caption's tokens, then the reference picture's: the stream's first
        assert told_BSD.shape[1] == num_told < x_BSD.shape[1]
        assert torch.equal(told_BSD, x_BSD[:, :num_told])
