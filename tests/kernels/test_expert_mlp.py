"""The routed experts: grouped products against the loop, forward and gradients, on odd shapes."""

import pytest
import torch
from torch import Tensor

from moescope.kernels.choice import choose_expert_path
from moescope.kernels.compare import relative_error
from moescope.kernels.expert_mlp.op import combine, expert_mlp
from moescope.kernels.expert_mlp.reference import Experts
from moescope.kernels.routing.op import route
from moescope.kernels.routing.reference import RoutingRule

# T tokens  D width  E experts  K chosen experts  H hidden  G 2*H

SHAPES = [
    pytest.param(3, 8, 2, 16, 8, id="T3-E8-K2"),  # an idle expert's gradient is zero, not NaN
    pytest.param(127, 4, 1, 16, 24, id="T127-E4-K1"),  # an odd number of rows
    pytest.param(40, 3, 3, 8, 16, id="T40-E3-K3"),  # every expert sees every token
    pytest.param(64, 5, 2, 32, 8, id="T64-E5-K2"),  # hidden narrower than the width
]


def _inputs(
    tokens: int, experts: int, width: int, hidden: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(tokens)
    x_TD = torch.randn(tokens, width).to(dtype).requires_grad_()
    logit_TE = torch.randn(tokens, experts).requires_grad_()
    w_in_EDG = (torch.randn(experts, width, 2 * hidden) / width**0.5).to(dtype).requires_grad_()
    w_out_EHD = (torch.randn(experts, hidden, width) / hidden**0.5).to(dtype).requires_grad_()
    return x_TD, logit_TE, w_in_EDG, w_out_EHD


@pytest.mark.parametrize(("tokens", "experts", "chosen", "width", "hidden"), SHAPES)
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        pytest.param(torch.float32, 1e-5, id="fp32"),
        # bf16 keeps 8 bits: each of the two products and the hidden layer rounds to 2^-9
        pytest.param(torch.bfloat16, 2e-2, id="bf16"),
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_grouped_products_are_the_loop_over_experts(
    tokens: int,
    experts: int,
    chosen: int,
    width: int,
    hidden: int,
    dtype: torch.dtype,
    bound: float,
) -> None:
    inputs = _inputs(tokens, experts, width, hidden, dtype)
    x_TD, logit_TE, w_in_EDG, w_out_EHD = inputs
    upstream_TD = torch.randn(tokens, width).to(dtype)
    results = []
    for path in ("reference", "grouped_mm"):
        routing = route(logit_TE, torch.zeros(experts), RoutingRule(chosen, scale=2.0))
        out_TD = expert_mlp(x_TD, routing, Experts(w_in_EDG, w_out_EHD), path)
        results.append((out_TD, *torch.autograd.grad(out_TD, inputs, upstream_TD)))
    names = ("out_TD", "d_x_TD", "d_logit_TE", "d_w_in_EDG", "d_w_out_EHD")
    for name, want, got in zip(names, *results, strict=True):
        if name == "d_logit_TE" and chosen == 1:
            continue  # one expert has weight `scale` whatever its score: the gradient is rounding
        assert relative_error(name, want, got) < bound


@pytest.mark.usefixtures("unwritten_is_nan")
def test_the_gradient_of_an_idle_expert_is_zero() -> None:
    x_TD, _, w_in_EDG, w_out_EHD = _inputs(6, 4, 16, 8, torch.float32)
    # the first two experts win by far, so that the last two get nothing
    logit_TE = torch.tensor([3.0, 2.0, -3.0, -4.0]).repeat(6, 1)
    routing = route(logit_TE, torch.zeros(4), RoutingRule(2))
    out_TD = expert_mlp(x_TD, routing, Experts(w_in_EDG, w_out_EHD), "grouped_mm")
    d_in, d_out = torch.autograd.grad(out_TD, (w_in_EDG, w_out_EHD), torch.randn_like(out_TD))
    for gradient in (d_in, d_out):
        assert bool((gradient[2:] == 0).all())
        assert bool(torch.isfinite(gradient).all())
        assert bool((gradient[:2] != 0).any())


@pytest.mark.parametrize("path", ["reference", "grouped_mm"])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_no_tokens_give_no_answers_and_zero_gradients(path: str) -> None:
    x_TD, logit_TE, w_in_EDG, w_out_EHD = _inputs(0, 4, 16, 8, torch.float32)
    routing = route(logit_TE, torch.zeros(4), RoutingRule(2))
    out_TD = expert_mlp(x_TD, routing, Experts(w_in_EDG, w_out_EHD), path)  # type: ignore[arg-type]
    assert out_TD.shape == (0, 16)
    (d_in,) = torch.autograd.grad(out_TD, w_in_EDG, torch.zeros_like(out_TD))
    assert bool((d_in == 0).all())


def test_the_loop_passes_a_numerical_check_of_its_gradient() -> None:
    torch.manual_seed(0)
    x_TD = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    w_in_EDG = torch.randn(3, 3, 4, dtype=torch.float64, requires_grad=True)
    w_out_EHD = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    routing = route(torch.randn(4, 3), torch.zeros(3), RoutingRule(2))

    def loop(x_TD: Tensor, w_in_EDG: Tensor, w_out_EHD: Tensor) -> Tensor:
        return expert_mlp(x_TD, routing, Experts(w_in_EDG, w_out_EHD), "reference")

    assert torch.autograd.gradcheck(loop, (x_TD, w_in_EDG, w_out_EHD))


def test_combining_weighs_and_adds_up() -> None:
    y_TKD = torch.tensor([[[1.0, 2.0], [10.0, 20.0]]])
    # 0.5 * (1, 2) + 0.1 * (10, 20)
    assert combine(y_TKD, torch.tensor([[0.5, 0.1]]))[0].tolist() == pytest.approx([1.5, 3.0])


@pytest.mark.parametrize(
    ("device", "dtype", "width", "hidden", "path", "said"),
    [
        pytest.param("cpu", torch.float32, 128, 128, "grouped_mm", "one grouped", id="usual"),
        pytest.param("cpu", torch.float64, 128, 128, "reference", "no float64", id="fp64"),
        pytest.param("cpu", torch.float32, 126, 128, "reference", "126", id="width"),
        pytest.param("cpu", torch.bfloat16, 128, 12, "reference", "12", id="hidden"),
        pytest.param("cuda", torch.float32, 128, 128, "reference", "bfloat16", id="cuda-fp32"),
        pytest.param("cuda", torch.bfloat16, 128, 128, "grouped_mm", "cuda", id="cuda-bf16"),
        pytest.param("mps", torch.float32, 128, 128, "reference", "mps", id="other"),
    ],
)
def test_the_choice_says_why(
    device: str, dtype: torch.dtype, width: int, hidden: int, path: str, said: str
) -> None:
    choice = choose_expert_path(torch.device(device), dtype, width, hidden)
    assert choice.path == path
    assert said in choice.reason
