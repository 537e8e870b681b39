"""DSMoE and JiT: what the network depends on, what it leaves alone, how it predicts the data."""

from typing import Any

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn

from moescope.kernels.compare import relative_error
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.parameters import count_parameters
from moescope.trainer.data.batches import Batch
from moescope.trainer.model.class_dit import ClassDit, NoiseLevel
from moescope.trainer.model.inputs import Inputs
from moescope.trainer.model.make import make_model, watched_blocks
from moescope.trainer.model.tokens import sinusoids, unpatch_video
from moescope.trainer.moe.steps import moe_layers
from moescope.trainer.objective.data_prediction import LEAST_SIGMA
from moescope.trainer.objective.flow import flow_losses
from moescope.trainer.objective.timesteps import Draw
from moescope.trainer.optim.groups import make_optimizer
from moescope.trainer.recipes.by_name import recipe
from moescope.trainer.without_effect import refuse_keys_without_effect

NARROW = {
    "data.height": 16,
    "data.width": 16,
    "model.width": 32,
    "model.heads": 2,
    "model.num_classes": 5,
    "moe.num_experts": 8,
    "moe.hidden": 16,
}
CLIPS = {"data.num_frames": 6, "model.patch_frames": 2, "model.rotary": "3d"}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "dsmoe": ("dsmoe_tiny", {}),
    "jitmoe": ("jitmoe_tiny", {}),
    "dsmoe_of_clips": ("dsmoe_tiny", CLIPS),
    "jitmoe_of_clips": ("jitmoe_tiny", {**CLIPS, "model.class_tokens_from": 0}),
    "dense": ("jitmoe_tiny", {"moe.num_experts": 0, "model.norm": "layer"}),
}


@pytest.fixture(params=FORMS)
def config(request: pytest.FixtureRequest) -> RunConfig:
    return formed(request.param)


def formed(form: str, changes: dict[str, Any] | None = None) -> RunConfig:
    name, own = FORMS[form]
    return changed(recipe(name), {**NARROW, **own, **(changes or {})})


def given(config: RunConfig, size: int = 3) -> Inputs:
    torch.manual_seed(0)
    return Inputs(
        torch.randn(size, *config.video_shape),
        torch.zeros(size, config.data.num_mels, 0),
        torch.zeros(size, 0, dtype=torch.int64),
        torch.arange(size) % (config.model.num_classes + 1),
        None,
        torch.rand(2, size) * 0.8 + 0.1,
    )


def awake(config: RunConfig) -> ClassDit:
    """A model whose zero-initialised parts have values, as after some training."""
    model = make_model(config)
    assert isinstance(model, ClassDit)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "modulation" in name or "_out" in name or "label" in name or "class" in name:
            nn.init.normal_(parameter, std=0.2)
    return model


def test_a_new_network_answers_zero(config: RunConfig) -> None:
    inputs = given(config)
    flow = make_model(config)(inputs)
    want = torch.zeros_like(inputs.video_BCFHW)
    if config.objective.prediction == "data":
        want = inputs.video_BCFHW / inputs.sigma_MB[0].view(-1, 1, 1, 1, 1)
    assert torch.equal(flow.video_BCFHW, want)
    assert flow.mel_BNM.shape == inputs.mel_BNM.shape


def test_its_answer_depends_on_picture_noise_level_and_class(config: RunConfig) -> None:
    model, inputs = awake(config), given(config)
    before = model(inputs).video_BCFHW
    for name, other in (
        ("video_BCFHW", inputs.video_BCFHW.flip(-1)),
        ("sigma_MB", inputs.sigma_MB * 0.5),
        ("label_B", inputs.label_B + 1),
    ):
        after = model(inputs._replace(**{name: other})).video_BCFHW
        for one, another in zip(before, after, strict=True):
            assert not torch.allclose(one, another, atol=1e-4), name


def test_samples_of_a_batch_do_not_see_each_other(config: RunConfig) -> None:
    model, inputs = awake(config), given(config)
    together = model(inputs).video_BCFHW
    alone = model(inputs.rows(torch.tensor([1]))).video_BCFHW
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)
    spoiled = inputs._replace(video_BCFHW=inputs.video_BCFHW.clone())
    spoiled.video_BCFHW[2] = float("nan")
    beside = model(spoiled).video_BCFHW
    assert bool(beside[2].isnan().any())
    torch.testing.assert_close(beside[:2], together[:2], atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("unwritten_is_nan")
def test_every_parameter_gets_a_finite_gradient_and_only_the_variance_none(
    config: RunConfig,
) -> None:
    model = awake(config)
    # enough tokens that no expert stays idle, and every class among the samples
    model(given(config, size=12)).video_BCFHW.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name
    if config.model.has_variance_output:
        for parameter in model.video_out.parameters():
            assert parameter.grad is not None
            used, unused = parameter.grad.chunk(2)
            assert len(unused) == config.video_patch
            assert bool((used != 0).any())
            assert not bool(unused.any())


@pytest.mark.usefixtures("one_thread")
def test_forward_and_backward_repeat_themselves_bit_for_bit(config: RunConfig) -> None:
    model, inputs = awake(config), given(config)
    results = []
    for _ in range(2):
        model.zero_grad()
        answer = model(inputs).video_BCFHW
        answer.square().mean().backward()
        results.append([answer.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_all_that_computes_is_in_the_state(config: RunConfig) -> None:
    model, inputs = awake(config), given(config)
    copy = make_model(changed(config, {"seed": 9}))
    assert not torch.equal(copy(inputs).video_BCFHW, model(inputs).video_BCFHW)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(inputs).video_BCFHW, model(inputs).video_BCFHW)


def test_the_count_equals_the_built_network(config: RunConfig) -> None:
    count = count_parameters(config)
    assert count.total == sum(p.numel() for p in make_model(config).parameters())


def test_odd_blocks_are_experts(config: RunConfig) -> None:
    model = make_model(config)
    is_moe = [block.is_moe for block in watched_blocks(model)]
    if config.moe.num_experts:
        assert is_moe == [False, True, False, True]
        assert len(moe_layers(model)) == 2
    else:
        assert not any(is_moe)


# the class in the sequence


def lengths(config: RunConfig) -> list[int]:
    """Tokens that each block gets."""
    model, seen = awake(config), []
    for block in watched_blocks(model):
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    model(given(config))
    return seen


@pytest.mark.parametrize("first", [0, 1, 3])
def test_class_tokens_join_before_their_block(first: int) -> None:
    config = formed("jitmoe", {"model.class_tokens_from": first, "model.num_class_tokens": 3})
    # 16 / 4 = 4 patches a side
    assert lengths(config) == [16] * first + [19] * (4 - first)
    assert config.tokens_per_sample == 19


def test_a_class_speaks_through_its_tokens_alone_too() -> None:
    model, inputs = awake(formed("jitmoe")), given(formed("jitmoe"))
    state, other = (model.begin(inputs._replace(label_B=inputs.label_B + step)) for step in (0, 1))
    assert other.class_BND is not None
    # as if the condition knew nothing of the class
    told = state._replace(class_BND=other.class_BND)
    blocks = range(len(model.blocks))
    one, another = (model.finish(model.work(s, blocks), inputs).video_BCFHW for s in (state, told))
    assert not torch.allclose(one, another, atol=1e-4)


def test_a_class_token_is_the_class_and_a_place_of_its_own() -> None:
    model, inputs = awake(formed("jitmoe")), given(formed("jitmoe"))
    state = model.begin(inputs)
    assert state.class_BND is not None
    label_BD = model.label_in.weight[inputs.label_B]
    assert torch.equal(state.class_BND, label_BD[:, None] + model.class_place_ND)
    assert len({tuple(row) for row in state.class_BND[0].tolist()}) == 4


def test_a_class_left_out_is_the_last_row() -> None:
    config = formed("dsmoe")
    model, inputs = awake(config), given(config)
    without = inputs._replace(label_B=torch.full_like(inputs.label_B, config.model.num_classes))
    model(without).video_BCFHW.sum().backward()
    gradient = model.label_in.weight.grad
    assert gradient is not None
    assert gradient.abs().amax(1).ne(0).tolist() == [False] * 5 + [True]
    with pytest.raises(IndexError):
        model(without._replace(label_B=without.label_B + 1))


# noise levels


def test_noise_levels_are_coded_as_diffusers_does() -> None:
    t = torch.rand(64)
    want = get_timestep_embedding(t, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(sinusoids(t, scale=1.0), want)
    want = get_timestep_embedding(1000.0 * t, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(sinusoids(t), want)


def test_the_noise_level_goes_in_as_data_time_unscaled() -> None:
    torch.manual_seed(0)
    level = NoiseLevel(8)
    sigma = torch.tensor([0.0, 0.25, 1.0])
    t = get_timestep_embedding(1 - sigma, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    want = level.w_out(nn.functional.silu(level.w_in(t)))
    assert torch.equal(level(sigma), want)


# prediction of the data


def test_x_prediction_has_the_loss_of_the_flow_also_next_to_the_data() -> None:
    config = formed("jitmoe")
    sigma_B = torch.tensor([0.0, 1e-3, 0.02, 0.049, 0.05, 0.051, 0.3, 0.9, 1.0])
    size = len(sigma_B)
    torch.manual_seed(0)
    shape = (size, *config.video_shape)
    data, noise = torch.randn(shape), torch.randn(shape)
    # a new network answers with its last biases, in all places alike
    model = make_model(config)
    with torch.no_grad():
        nn.init.normal_(model.video_out.bias)
        patches_BSP = model.video_out.bias.expand(size, 16, config.video_patch)
    answer = unpatch_video(patches_BSP, config)
    nothing = torch.zeros(size, config.data.num_mels, 0)
    batch = Batch(
        0, tuple("abcdefghi"), tuple(range(size)), data, nothing,
        torch.zeros(size, 0, dtype=torch.int64), torch.zeros(size, dtype=torch.bool),
        torch.zeros(size, dtype=torch.int64),
    )  # fmt: skip
    told = torch.zeros(size, dtype=torch.bool)
    drawn = Draw(torch.stack([sigma_B, sigma_B]), noise, nothing, told, told)
    got = flow_losses(model, batch, drawn, config).per_sample_MB[0]
    # x-loss, weighed by 1 / max(sigma, 0.05)^2 (facts: model.md section 6, JiT)
    x_loss = (answer - data).square().flatten(1).mean(1)
    weighed = x_loss / sigma_B.clamp_min(LEAST_SIGMA).square()
    assert relative_error("loss", weighed, got) < 1e-5
    # from there on it is the loss of the flow: v = (z - x) / sigma against noise - data
    wide = sigma_B[:, None, None, None, None]
    noisy = (1 - wide) * data + wide * noise
    v_loss = ((noisy - answer) / wide - (noise - data)).square().flatten(1).mean(1)
    assert relative_error("flow's loss", v_loss[5:], got[5:]) < 1e-5


def test_no_noise_level_makes_the_flow_infinite() -> None:
    config = formed("jitmoe")
    inputs = given(config)
    for level in (0.0, 1e-8, 1.0):
        at = inputs._replace(sigma_MB=torch.full_like(inputs.sigma_MB, level))
        flow = awake(config)(at).video_BCFHW
        flow.square().mean().backward()
        assert bool(torch.isfinite(flow).all())


# patches, and what decays


def test_a_bottleneck_is_a_linear_map_of_its_rank() -> None:
    config = formed("jitmoe", {"model.patch_bottleneck": 6})
    model = make_model(config)
    with torch.no_grad():
        nn.init.normal_(model.patch_in[1].bias)
        patches = torch.randn(500, config.video_patch)
        token = model.patch_in(patches)
        zero = model.patch_in(torch.zeros(1, config.video_patch))
        assert torch.equal(zero[0], model.patch_in[1].bias)
        assert int(torch.linalg.matrix_rank(token - zero, rtol=1e-4)) == 6


def test_tables_and_gains_do_not_decay() -> None:
    config = formed("jitmoe")
    model = make_model(config)
    names = {id(p): name for name, p in model.named_parameters()}
    decays, keeps = (
        {names[id(p)] for p in group["params"]}
        for group in make_optimizer(model, config).param_groups
    )
    assert {"patch_in.0.weight", "blocks.1.mlp.w_in_EDG", "blocks.0.mlp.w_in.weight"} <= decays
    assert {
        "label_in.weight",
        "class_place_ND",
        "last_gain",
        "blocks.0.attention_gain",
        "blocks.1.mlp.b_in_EG",
        "blocks.1.mlp.shared.w_in.bias",
        "patch_in.1.bias",
    } <= keeps


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model.num_class_tokens": 0, "model.class_tokens_from": 1}, "model.class_tokens_from"),
        ({"model.text_width": 8}, "model.text_width"),
        ({"model.patch_text_bytes": 2}, "model.patch_text_bytes"),
        ({"objective.audio_weight": 1.0}, "objective.audio_weight"),
    ],
)
def test_keys_of_other_families_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(MoescopeError, match=rf"^{key} has no effect: "):
        refuse_keys_without_effect(formed("jitmoe", changes), [key])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.num_classes": 0}, "num_classes is 0"),
        ({"model.class_tokens_from": 4}, "use a block that there is"),
        ({"data.num_mel_steps": 8}, "the class family has no sound"),
        ({"data.num_text_bytes": 8}, "the class family reads no caption"),
        ({"model.kv_heads": 3}, "model.heads is 2, but it must be a multiple of 3"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(MoescopeError, match=words):
        formed("jitmoe", changes)
