"""The precision policy: what it says, that a training keeps to it, and the two traps of bf16."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from moescope.kernels.routing.op import route
from moescope.kernels.routing.reference import Routing
from moescope.platform.frozen import changed
from moescope.platform.precision import policy_of
from moescope.trainer.compute.gradients import step_gradients
from moescope.trainer.config import ComputeConfig, RunConfig
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.latents import seen
from moescope.trainer.measure import Measure
from moescope.trainer.model.make import make_model, watched_blocks
from moescope.trainer.moe.experts import MoeLayer
from moescope.trainer.moe.make import make_moe
from moescope.trainer.moe.router import LinearRouter
from moescope.trainer.moe.steps import ExpertSteps, moe_layers
from moescope.trainer.numerics import exact, matmul_dtype, mixed, policy_on
from moescope.trainer.objective.timesteps import draw
from moescope.trainer.optim.ema import Ema
from moescope.trainer.optim.groups import make_optimizer

CPU = torch.device("cpu")
BF16 = {"compute.precision": "bf16"}
OF_THE_LAYER = ("attention.qkv", "attention.out", "mlp.w_in", "mlp.w_out")
PRODUCTS = ("mm", "addmm", "bmm", "_grouped_mm", "scaled_dot_product")


@pytest.mark.parametrize(
    ("precision", "device", "products"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "cuda", "bfloat16"),
        ("auto", "NVIDIA H100 80GB HBM3", "bfloat16"),
        ("bf16", "cpu", "bfloat16"),
        ("fp32", "cuda", "float32"),
    ],
)
def test_products_alone_are_ever_bf16(precision: str, device: str, products: str) -> None:
    policy = policy_of(precision, device)
    assert policy.products == products
    assert {dtype for part, dtype in policy.rows().items() if part != "products"} == {"float32"}
    assert policy_of(precision, device, has_exact_router=False).router == products


def test_a_policy_is_told_in_a_line() -> None:
    assert str(policy_of("fp32", "cpu")) == "all in float32"
    assert str(policy_of("bf16", "cpu")) == "products in bfloat16, all else in float32"


def test_an_exact_stretch_keeps_fp32_inside_a_mixed_one() -> None:
    a = torch.randn(4, 4)
    with mixed(CPU, ComputeConfig()):
        assert (a @ a).dtype is matmul_dtype(CPU) is torch.float32
    with mixed(CPU, ComputeConfig(precision="bf16")):
        assert (a @ a).dtype is matmul_dtype(CPU) is torch.bfloat16
        with exact(CPU):
            assert (a @ a).dtype is matmul_dtype(CPU) is torch.float32


class Seen(TorchDispatchMode):
    """Notes the dtypes that go into matrix products and into layer norms, by name of operation."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        name = func.overloadpacket.__name__
        self.dtypes.setdefault(name, set()).update(t.dtype for t in tensors)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "family", ["sigmoid", "dsmoe", "jitmoe", "wan", "latent", "two noise experts"]
)
def test_a_bf16_training_keeps_to_the_policy(
    small: RunConfig, ways: dict[str, dict[str, Any]], family: str
) -> None:
    """One step of each family, with the dtype of every part asserted as it happens."""
    config = changed(small, ways[family] | BF16)
    model = make_model(config)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    found: dict[str, set[torch.dtype]] = {}

    def note(part: str, value: Any) -> None:
        found.setdefault(part, set()).add(value.dtype)

    def of_router(module: nn.Module, args: Any, routing: Any) -> None:
        for value in (routing.logit_TE, routing.score_TE, routing.weight_TK):
            note("router", value)

    for block in watched_blocks(model):
        block.register_forward_hook(lambda m, args, x: note("residual", x))
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear) and name in OF_THE_LAYER:
                module.register_forward_hook(lambda m, args, y: note("products", y))
            if name.endswith("modulation"):
                module.register_forward_hook(lambda m, args, y: note("modulation", y[0]))
    for layer in moe_layers(model):
        layer.router.register_forward_hook(of_router)
    optimizer, ema = make_optimizer(model, config), Ema(model, 0.9)
    with Batches(find_clips(config.data.folder), config.data, 0, ahead=0) as batches:
        batch = seen(batches.get(0), config, CPU)
    experts, measure = ExpertSteps(model, config.moe), Measure(model, config, CPU)
    ops = Seen()
    with ops:
        step = step_gradients(
            model, batch, draw(config, 0, batch), config, experts, measure.watching
        )
    optimizer.step()
    experts.end(torch.ones(()))
    ema.update(torch.ones(()))
    for part, dtype in policy_on(CPU, config.compute).rows().items():
        for seen_dtype in found.get(part, ()):
            assert seen_dtype is getattr(torch, dtype), part
    assert {"router", "residual", "products"} <= found.keys()
    experts_products = {"_grouped_mm", "mm"} & ops.dtypes.keys()
    assert any(torch.bfloat16 in ops.dtypes[name] for name in experts_products)
    for name in ("native_layer_norm", "_fused_rms_norm"):
        assert ops.dtypes.get(name, {torch.float32}) == {torch.float32}, name
    assert step.objective.dtype is torch.float32
    for tensor in [*model.parameters(), *model.buffers()]:
        assert tensor.dtype is torch.float32 or not tensor.is_floating_point()
        assert tensor.grad is None or tensor.grad.dtype is torch.float32
    moments = [v for entry in optimizer.state.values() for v in entry.values()]
    for tensor in [*moments, *ema.state_dict().values()]:
        assert tensor.dtype is torch.float32


def _routings(config: RunConfig) -> Iterator[tuple[Routing, Routing]]:
    """The routing in a stretch of bf16 products, and that of an fp32 router on the same input."""
    torch.manual_seed(0)
    layer = make_moe(config)
    assert isinstance(layer, MoeLayer)
    router = layer.router
    assert isinstance(router, LinearRouter)
    for seed in range(4):
        torch.manual_seed(seed)
        x_BSD = torch.randn(8, 256, config.model.width)
        with mixed(CPU, config.compute):
            got = router(x_BSD)
        logit_TE = nn.functional.linear(x_BSD.flatten(0, 1), router.weight_ED)
        yield got, route(logit_TE, router.bias_E, router.rule)


def test_no_routing_flips_between_the_policy_and_an_fp32_router(small: RunConfig) -> None:
    config = changed(small, {**BF16, "model.width": 64, "moe.num_experts": 16})
    for got, want in _routings(config):
        assert torch.equal(got.chosen_TK, want.chosen_TK)
        assert torch.equal(got.weight_TK, want.weight_TK)


def test_routings_do_flip_without_the_exact_router(small: RunConfig) -> None:
    changes = {**BF16, "compute.has_exact_router": False}
    config = changed(small, {**changes, "model.width": 64, "moe.num_experts": 16})
    flips = [
        float((got.chosen_TK.sort().values != want.chosen_TK.sort().values).any(1).float().mean())
        for got, want in _routings(config)
    ]
    # facts: model.md section 8 has 0.6 % at width 1024
    assert all(0.001 < share < 0.05 for share in flips)


def test_updates_that_bf16_would_lose_are_kept_by_the_masters(small: RunConfig) -> None:
    """The first trap: 100 updates of 1e-5 leave a bf16 weight of 0.02 where it is, as half its ulp
    is 6.1e-5 (facts: model.md section 9)."""
    updates = [1e-5] * 100
    lost = torch.tensor(0.02, dtype=torch.bfloat16)
    for update in updates:
        lost = lost + update
    assert float(lost) == float(torch.tensor(0.02, dtype=torch.bfloat16))

    config = changed(
        small, {**BF16, "optim.learning_rate": 1e-5, "optim.warmup_steps": 0, "optim.beta1": 0.0}
    )
    model = make_model(config)
    optimizer = make_optimizer(model, config)
    (weight,) = (p for n, p in model.named_parameters() if n == "blocks.0.attention.out.weight")
    nn.init.constant_(weight, 0.02)
    for _ in range(100):
        weight.grad = -torch.ones_like(weight)
        optimizer.step()
    # 0.02 + 100 * 1e-5, less the decay of 1e-7 of it a step
    assert weight.detach().flatten().tolist() == pytest.approx([0.021] * weight.numel(), rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_shared_expert_of_zeros_never_moves_and_one_of_noise_does(
    small: RunConfig, precision: str
) -> None:
    """The second trap, which fp32 does not mend: where both matrices are zero, so are both
    gradients (facts: model.md section 9)."""
    config = changed(small, {"compute.precision": precision})
    for noise, moves in ((0.0, False), (1e-4, True)):
        torch.manual_seed(0)
        layer = make_moe(config)
        assert isinstance(layer, MoeLayer)
        assert layer.shared is not None
        matrices = list(layer.shared.parameters())
        for matrix in matrices:
            nn.init.normal_(matrix, std=noise)
        before = [matrix.detach().clone() for matrix in matrices]
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.0)
        for _ in range(5):
            with mixed(CPU, config.compute):
                answer = layer(torch.randn(2, 16, config.model.width))
            optimizer.zero_grad()
            answer.square().mean().backward()
            optimizer.step()
        moved = [not torch.equal(a, b) for a, b in zip(before, matrices, strict=True)]
        assert moved == [moves] * len(matrices)


def test_a_run_says_its_precision_at_the_start(
    small: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from moescope.platform.settings import Settings
    from moescope.trainer.run import train

    config = changed(small, {**BF16, "steps": 2})
    result = train(config, settings=Settings(home=tmp_path, mlflow="off"), progress=True)
    assert result.status == "finished"
    said = capsys.readouterr()
    assert "precision: products in bfloat16, all else in float32" in said.out + said.err
