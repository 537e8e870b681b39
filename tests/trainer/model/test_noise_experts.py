"""A network of networks by noise level: who runs on what, how answers and gradients add up, and
what is shared.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from moescope.kernels.compare import relative_error
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.model.inputs import Flow, Inputs
from moescope.trainer.model.make import make_model
from moescope.trainer.model.noise_experts import NoiseExperts
from moescope.trainer.optim.ema import Ema
from moescope.trainer.optim.groups import make_optimizer

# X experts  J boundaries  B batch

TWO: dict[str, Any] = {"noise_experts.num_experts": 2, "noise_experts.boundaries": [0.7]}
THREE: dict[str, Any] = {"noise_experts.num_experts": 3, "noise_experts.boundaries": [0.4, 0.7]}
BLENDED: dict[str, Any] = {"noise_experts.transition": 0.2}
LEARNED: dict[str, Any] = {**BLENDED, "noise_experts.is_learned": True}
SHARED: dict[str, Any] = {"noise_experts.shared_blocks": 1}
SIGMAS = [0.1, 0.95, 0.65, 0.2, 0.72, 0.99, 0.45]
"""With BLENDED, the third and the fifth lie in the zone around 0.7, the last in that around 0.4."""


def model_of(config: RunConfig) -> NoiseExperts:
    """Makes the model with weights that are not zero anywhere, so that each shows in the answer."""
    model = make_model(config)
    assert isinstance(model, NoiseExperts)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "theta_J":
                parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.05)
    return model


def inputs_of(config: RunConfig, sigmas: list[float]) -> Inputs:
    chance, num, d = torch.Generator().manual_seed(2), len(sigmas), config.data
    sigma_MB = torch.tensor([sigmas, sigmas[::-1]])
    return Inputs(
        torch.randn(num, *config.video_shape, generator=chance),
        torch.randn(num, d.num_mels, d.num_mel_steps, generator=chance),
        torch.randint(0, 257, (num, d.num_text_bytes), generator=chance),
        torch.arange(num) % max(1, config.model.num_classes),
        None,
        sigma_MB,
        sigma_MB,
    )


def by_definition(model: NoiseExperts, inputs: Inputs) -> Flow:
    """Asks every expert about every sample, and adds the answers up by their weights."""
    weight_XB = model.weights(inputs.sigma_MB[0], model.boundaries())
    video, mel = torch.zeros(()), torch.zeros(())
    network: Any
    for expert, network in enumerate(model.experts):
        if model.trunk is None:
            flow = network(inputs)
        else:
            state = model.trunk.work(model.trunk.begin(inputs), range(model.num_shared))
            state = network.work(state, range(model.num_shared, len(network.blocks)))
            flow = network.finish(state, inputs)
        video = video + weight_XB[expert].view(-1, 1, 1, 1, 1) * flow.video_BCFHW
        mel = mel + weight_XB[expert].view(-1, 1, 1) * flow.mel_BNM
    return Flow(video, mel)


@pytest.fixture(params=["stream", "dsmoe", "jitmoe", "wan"])
def family(small: RunConfig, request: pytest.FixtureRequest, ways: dict[str, Any]) -> RunConfig:
    return changed(small, {"data.batch": len(SIGMAS), **ways.get(request.param, {})})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(TWO, id="hard switch"),
        pytest.param({**TWO, **LEARNED}, id="learned zone"),
        pytest.param({**THREE, **LEARNED, "noise_experts.blend": "smooth"}, id="two learned zones"),
        pytest.param({**THREE, **LEARNED, **SHARED}, id="with a shared beginning"),
    ],
)
def test_the_answer_and_its_gradients_are_those_of_the_definition(
    family: RunConfig, changes: dict[str, Any]
) -> None:
    config = changed(family, changes)
    model, inputs = model_of(config), inputs_of(config, SIGMAS)
    got, want = model(inputs), by_definition(model, inputs)
    chance = torch.Generator().manual_seed(3)
    up_video = torch.randn(want.video_BCFHW.shape, generator=chance)
    up_mel = torch.randn(want.mel_BNM.shape, generator=chance)
    assert relative_error("video", want.video_BCFHW, got.video_BCFHW) < 1e-5
    if config.has_audio:
        assert relative_error("mel", want.mel_BNM, got.mel_BNM) < 1e-5
    named = dict(model.named_parameters())
    gradients = [
        torch.autograd.grad(
            (flow.video_BCFHW * up_video).sum() + (flow.mel_BNM * up_mel).sum(),
            list(named.values()),
            allow_unused=True,
        )
        for flow in (got, want)
    ]
    for name, mine, theirs in zip(named, *gradients, strict=True):
        if theirs is None or not bool(theirs.any()):
            assert mine is None or not bool(mine.any()), name
            continue
        assert mine is not None, name
        assert relative_error(name, theirs, mine) < 1e-3  # other orders of summation


def test_rows_of_a_part_are_its_expert_alone_bit_for_bit(small: RunConfig) -> None:
    config = changed(small, TWO)
    model, inputs = model_of(config), inputs_of(config, SIGMAS)
    got = model(inputs)
    for expert, rows in ((0, [0, 2, 3, 6]), (1, [1, 4, 5])):
        alone = model.experts[expert](inputs.rows(torch.tensor(rows)))
        assert torch.equal(got.video_BCFHW[rows], alone.video_BCFHW)
        assert torch.equal(got.mel_BNM[rows], alone.mel_BNM)
    again = model(inputs)
    assert torch.equal(got.video_BCFHW, again.video_BCFHW)


@pytest.mark.parametrize("changes", [TWO, {**TWO, **LEARNED}])
def test_a_batch_for_one_expert_is_neither_copied_nor_weighted(
    small: RunConfig, changes: dict[str, Any]
) -> None:
    config = changed(small, changes)
    model, inputs = model_of(config), inputs_of(config, [0.9, 0.95, 1.0])
    seen: list[tuple[int, Inputs]] = []
    for expert, network in enumerate(model.experts):
        network.register_forward_pre_hook(lambda m, args, e=expert: seen.append((e, args[0])))
    flow = model(inputs)
    assert [(expert, given is inputs) for expert, given in seen] == [(1, True)]
    flow.video_BCFHW.square().sum().backward()
    assert model.theta_J is None or model.theta_J.grad is None


@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.6, 0.8])
def test_the_answer_is_continuous_where_a_second_expert_begins_to_answer(
    small: RunConfig, sigma: float
) -> None:
    answers, num_blended = [], []
    # the boundary is moved, not the level, on which a network's answer depends in its own way
    for boundary in (0.7 - 4e-7, 0.7 + 4e-7):
        changes = {**TWO, **BLENDED, "noise_experts.boundaries": [boundary]}
        model = model_of(changed(small, changes))
        answers.append(model(inputs_of(small, [sigma] * 2)).video_BCFHW)
        assert model.noted is not None
        num_blended.append(int(((model.noted.weight_XB > 0).sum(0) > 1).sum()))
    assert sorted(num_blended) == [0, 2]
    assert float((answers[0] - answers[1]).abs().max()) < 1e-5


def test_an_expert_without_a_sample_stays_as_it_is(small: RunConfig) -> None:
    config = changed(small, {**TWO, **LEARNED, "optim.weight_decay": 0.5})
    model = model_of(config)
    optimizer = make_optimizer(model, config)

    def step(sigmas: list[float]) -> dict[str, Tensor]:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        model(inputs_of(config, sigmas)).video_BCFHW.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {n: p.detach() - before[n] for n, p in model.named_parameters()}

    # both have moments now, which would move a weight with a gradient of zero
    moved = step([0.2, 0.7, 0.9])
    assert bool(moved["theta_J"])
    moved = step([0.1, 0.3])
    of_idle = [by for name, by in moved.items() if name.startswith("experts.1.")]
    assert len(of_idle) > 10
    assert not any(bool(by.any()) for by in of_idle)
    assert any(bool(by.any()) for name, by in moved.items() if name.startswith("experts.0."))
    assert not bool(moved["theta_J"])


def test_a_boundary_has_no_weight_decay(small: RunConfig) -> None:
    config = changed(small, {**TWO, **LEARNED})
    model = model_of(config)
    for group in make_optimizer(model, config).param_groups:
        if any(p is model.theta_J for p in group["params"]):
            assert group["weight_decay"] == 0.0
            return
    pytest.fail("the optimizer does not know theta_J")


def test_an_answer_that_is_no_number_is_only_that_of_its_experts_samples(small: RunConfig) -> None:
    config = changed(small, {**TWO, **BLENDED})
    model, inputs = model_of(config), inputs_of(config, SIGMAS)
    network: Any = model.experts[1]
    with torch.no_grad():
        network.video_out.bias.fill_(float("nan"))
    is_nan_B = model(inputs).video_BCFHW.isnan().flatten(1).any(1)
    assert is_nan_B.tolist() == [False, True, True, False, True, True, False]


def test_experts_start_with_different_weights_that_the_seed_alone_decides(small: RunConfig) -> None:
    config = changed(small, TWO)
    torch.manual_seed(5)
    first = make_model(config).state_dict()
    torch.manual_seed(6)
    again = make_model(config).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = make_model(changed(config, {"seed": 1})).state_dict()
    name = "blocks.0.attention.qkv.weight"
    assert not torch.equal(first[f"experts.0.{name}"], first[f"experts.1.{name}"])
    assert not torch.equal(first[f"experts.0.{name}"], other[f"experts.0.{name}"])


def test_what_is_shared_is_there_once(family: RunConfig, tmp_path: Path) -> None:
    config = changed(family, {**THREE, **LEARNED, **SHARED})
    model = model_of(config)
    named = dict(model.named_parameters())
    assert len({p.data_ptr() for p in named.values()}) == len(named)
    # safetensors refuses tensors that share memory
    save_file(dict(model.state_dict()), tmp_path / "weights.safetensors")
    groups = make_optimizer(model, config).param_groups
    assert sum(len(group["params"]) for group in groups) == len(named)
    averages = [name for name in Ema(model, 0.9).state_dict() if name.startswith("average.")]
    assert sorted(averages) == sorted(f"average.{name}" for name in named)
    assert any(name.startswith("trunk.blocks.0.") for name in named)
    assert not any(name.startswith("trunk.blocks.1.") for name in named)
    for expert in range(3):
        mine = {name.split(".")[3] for name in named if name.startswith(f"experts.{expert}.blocks")}
        assert mine == {"1"}
    twin = make_model(config)
    twin.load_state_dict(model.state_dict())
    inputs = inputs_of(config, SIGMAS)
    assert torch.equal(twin(inputs).video_BCFHW, model(inputs).video_BCFHW)


def test_the_trunk_learns_from_every_expert(small: RunConfig) -> None:
    model = model_of(changed(small, {**TWO, **SHARED}))
    gradients = []
    for sigmas in ([0.1, 0.2], [0.8, 0.9], [0.1, 0.9]):
        model.zero_grad(set_to_none=True)
        model(inputs_of(changed(small, TWO), sigmas)).video_BCFHW.square().sum().backward()
        assert model.trunk is not None
        gradient = model.trunk.blocks[0].attention.qkv.weight.grad
        assert gradient is not None
        gradients.append(gradient)
        trained = {n.split(".")[1] for n, p in model.experts.named_parameters() if _has_gradient(p)}
        assert trained
    assert all(bool(gradient.any()) for gradient in gradients)


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None


def test_levels_on_the_host_change_no_answer(small: RunConfig) -> None:
    config = changed(small, {**TWO, **LEARNED})
    model, inputs = model_of(config), inputs_of(config, SIGMAS)
    without = model(inputs._replace(host_sigma_MB=None))
    assert torch.equal(model(inputs).video_BCFHW, without.video_BCFHW)
    got_XB = model.host_weights(inputs.sigma_MB[0])
    assert torch.equal(got_XB, model.weights(inputs.sigma_MB[0], model.boundaries()).detach())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_with_fixed_boundaries_it_waits_for_no_device(small: RunConfig) -> None:
    config = changed(small, {**TWO, **BLENDED, "moe.num_experts": 0})
    model = model_of(config).to("cuda")
    inputs = inputs_of(config, SIGMAS)
    there: Any = Inputs(*(None if t is None else t.to("cuda") for t in inputs))  # type: ignore[arg-type]
    there = there._replace(host_sigma_MB=inputs.host_sigma_MB)
    model(there)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        flow = model(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(torch.isfinite(flow.video_BCFHW).all())
