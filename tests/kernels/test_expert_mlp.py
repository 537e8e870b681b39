"""The routed experts: every path against the loop, forward and gradients, on odd shapes."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from moescope.kernels.choice import Path, choose_expert_path
from moescope.kernels.compare import relative_error
from moescope.kernels.expert_mlp.op import expert_mlp, expert_mlp_chosen
from moescope.kernels.expert_mlp.reference import Experts, Form, activate, is_gated
from moescope.kernels.routing.op import choose_tokens, count, route
from moescope.kernels.routing.reference import ExpertChoice, Routing, RoutingRule

# T tokens  D width  E experts  K chosen experts  H hidden  G rows of w_in: 2*H if gated, else H

FORMS: tuple[Form, ...] = get_args(Form)
FAST: tuple[Path, ...] = ("grouped_mm", "one_by_one")
DTYPES = [
    pytest.param(torch.float32, 1e-5, id="fp32"),
    # bf16 keeps 8 bits: each of the two products and the hidden layer rounds to 2^-9
    pytest.param(torch.bfloat16, 2e-2, id="bf16"),
]
SHAPES = [
    pytest.param(3, 8, 2, 16, 8, id="T3-E8-K2"),  # six places for eight experts: idle ones
    pytest.param(127, 4, 1, 16, 24, id="T127-E4-K1"),  # an odd number of rows
    pytest.param(40, 3, 3, 8, 16, id="T40-E3-K3"),  # every expert sees every token
    pytest.param(64, 5, 2, 32, 8, id="T64-E5-K2"),  # hidden narrower than the width
    pytest.param(1, 6, 2, 8, 8, id="T1-E6-K2"),  # a lone token
]


def _leaves(
    tokens: int,
    experts: int,
    width: int,
    hidden: int,
    form: Form = "swiglu",
    *,
    has_bias: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    torch.manual_seed(tokens)
    rows = 2 * hidden if is_gated(form) else hidden
    leaves = {
        "x_TD": torch.randn(tokens, width),
        "logit_TE": torch.randn(tokens, experts),
        "w_in_EDG": torch.randn(experts, width, rows) / width**0.5,
        "w_out_EHD": torch.randn(experts, hidden, width) / hidden**0.5,
    }
    if has_bias:
        leaves |= {"b_in_EG": torch.randn(experts, rows), "b_out_ED": torch.randn(experts, width)}
    return {
        name: (leaf if name == "logit_TE" else leaf.to(dtype)).requires_grad_()
        for name, leaf in leaves.items()
    }


def _route(logit_TE: Tensor, num_chosen: int, chooses: str) -> Routing | ExpertChoice:
    if chooses == "experts":
        return choose_tokens(logit_TE[None], num_chosen, "sigmoid", 2.0, "batch")
    return route(logit_TE, None, RoutingRule(num_chosen, scale=2.0))


def _compute(
    leaves: dict[str, Tensor], routing: Routing | ExpertChoice, form: Form, path: Path
) -> Tensor:
    x_TD = leaves["x_TD"]
    experts = Experts(
        leaves["w_in_EDG"],
        leaves["w_out_EHD"],
        leaves.get("b_in_EG"),
        leaves.get("b_out_ED"),
        form,
    )
    if isinstance(routing, ExpertChoice):
        return expert_mlp_chosen(x_TD, routing, experts, path)
    return expert_mlp(x_TD, routing, experts, path)


def _answers(
    leaves: dict[str, Tensor], num_chosen: int, chooses: str, form: Form, path: Path
) -> dict[str, Tensor]:
    """The result and the gradient of every leaf, upstream gradients being random."""
    out_TD = _compute(leaves, _route(leaves["logit_TE"], num_chosen, chooses), form, path)
    upstream_TD = torch.randn(out_TD.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(out_TD, list(leaves.values()), upstream_TD.to(out_TD.dtype))
    return {"out_TD": out_TD} | {f"d_{k}": d for k, d in zip(leaves, gradients, strict=True)}


def _wide(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in fp64. The logits are only widened: who is chosen must not change."""
    return {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}


def _check(
    leaves: dict[str, Tensor], num_chosen: int, chooses: str, form: Form, path: Path, bound: float
) -> None:
    want = _answers(_wide(leaves), num_chosen, chooses, form, "reference")
    got = _answers(leaves, num_chosen, chooses, form, path)
    for name in want:
        dtype = leaves["logit_TE" if name == "d_logit_TE" else "x_TD"].dtype
        assert got[name].dtype is dtype
        assert relative_error(name, want[name], got[name]) < bound


@pytest.mark.parametrize(("tokens", "experts", "chosen", "width", "hidden"), SHAPES)
@pytest.mark.parametrize("chooses", ["tokens", "experts"])
@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("path", [*FAST, "reference"])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_every_path_is_the_loop_in_double_precision(
    tokens: int,
    experts: int,
    chosen: int,
    width: int,
    hidden: int,
    chooses: str,
    dtype: torch.dtype,
    bound: float,
    path: Path,
) -> None:
    leaves = _leaves(tokens, experts, width, hidden, dtype=dtype)
    _check(leaves, chosen, chooses, "swiglu", path, bound)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("chooses", ["tokens", "experts"])
@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("path", [*FAST, "reference"])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_every_form_of_expert_is_the_loop_in_double_precision(
    form: Form, has_bias: bool, chooses: str, dtype: torch.dtype, bound: float, path: Path
) -> None:
    leaves = _leaves(33, 5, 16, 24, form, has_bias=has_bias, dtype=dtype)
    _check(leaves, 2, chooses, form, path, bound)


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("chooses", ["tokens", "experts"])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_fp16_experts_are_the_loop_in_double_precision(path: Path, chooses: str) -> None:
    # fp16 keeps 11 bits, three more than bf16
    leaves = _leaves(33, 5, 16, 24, has_bias=True, dtype=torch.float16)
    _check(leaves, 2, chooses, "swiglu", path, 3e-3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", FAST)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_all_tokens_to_one_expert_leaves_the_others_a_gradient_of_zero(
    form: Form, path: Path
) -> None:
    leaves = _leaves(20, 4, 16, 8, form, has_bias=True)
    with torch.no_grad():
        leaves["logit_TE"][:, 2] += 50  # it wins whatever the others are
    got = _answers(leaves, 1, "tokens", form, path)
    for name in ("d_w_in_EDG", "d_w_out_EHD", "d_b_in_EG", "d_b_out_ED"):
        is_idle = torch.arange(4) != 2
        assert bool((got[name][is_idle] == 0).all())
        assert bool((got[name][2] != 0).any())
    _check(leaves, 1, "tokens", form, path, 1e-5)


@pytest.mark.parametrize("path", [*FAST, "reference"])
@pytest.mark.parametrize("chooses", ["tokens", "experts"])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_no_tokens_give_no_answers_and_zero_gradients(path: Path, chooses: str) -> None:
    leaves = _leaves(0, 4, 16, 8, has_bias=True)
    empty_TK = torch.zeros(0, 2)
    routing: Routing | ExpertChoice = Routing(
        empty_TK.long(), empty_TK, leaves["logit_TE"], torch.zeros(4).long(), leaves["logit_TE"]
    )
    if chooses == "experts":
        routing = ExpertChoice(empty_TK[:, 0].long(), empty_TK[:, 0], *routing[2:])
    out_TD = _compute(leaves, routing, "swiglu", path)
    assert out_TD.shape == (0, 16)
    named = [name for name in leaves if name[1] == "_" and name[0] in "wb"]
    gradients = torch.autograd.grad(
        out_TD, [leaves[name] for name in named], torch.zeros_like(out_TD), allow_unused=True
    )
    for name, gradient in zip(named, gradients, strict=True):
        assert gradient is None or bool((gradient == 0).all()), name


@pytest.mark.parametrize("path", [*FAST, "reference"])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_a_token_that_no_expert_picked_gets_zeros(path: Path) -> None:
    leaves = _leaves(5, 2, 16, 8, has_bias=True)
    token_N = torch.tensor([1, 4, 0, 1])  # two picks of each expert; 2 and 3 are left out
    weight_N = torch.ones(4, requires_grad=True)
    choice = ExpertChoice(
        token_N, weight_N, leaves["logit_TE"], torch.tensor([2, 2]), leaves["logit_TE"]
    )
    out_TD = _compute(leaves, choice, "swiglu", path)
    (d_x_TD,) = torch.autograd.grad(out_TD, leaves["x_TD"], torch.ones_like(out_TD))
    for rows_TD in (out_TD, d_x_TD):
        assert (rows_TD != 0).any(1).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("path", [*FAST, "reference"])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_experts_that_pick_nobody_leave_zeros(path: Path) -> None:
    leaves = _leaves(3, 2, 16, 8)
    nobody_N = torch.zeros(0)
    choice = ExpertChoice(
        nobody_N.long(), nobody_N, leaves["logit_TE"], torch.zeros(2).long(), leaves["logit_TE"]
    )
    assert _compute(leaves, choice, "swiglu", path).tolist() == torch.zeros(3, 16).tolist()


@pytest.mark.parametrize("chooses", ["tokens", "experts"])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_one_by_one_passes_a_numerical_check(chooses: str, form: Form) -> None:
    leaves = _wide(_leaves(5, 3, 3, 2, form, has_bias=True))
    # weights of their own: a small change of a logit may change who is chosen
    chosen_TK = torch.tensor([[0, 1], [2, 0], [1, 0], [1, 2], [0, 2]])
    weight_N = torch.rand(10, dtype=torch.float64).requires_grad_()
    token_N = torch.tensor([0, 1, 2, 4, 0, 2, 3, 1, 3, 4])
    unused_TE, counts_E = torch.zeros(5, 3), count(chosen_TK, 3)

    def compute(x_TD: Tensor, weight_N: Tensor, *weights: Tensor) -> Tensor:
        routing: Routing | ExpertChoice = Routing(
            chosen_TK, weight_N.view(5, 2), unused_TE, counts_E, unused_TE
        )
        if chooses == "experts":
            routing = ExpertChoice(token_N, weight_N, unused_TE, counts_E, unused_TE)
        named = dict(zip(leaves, (x_TD, unused_TE, *weights), strict=True))
        return _compute(named, routing, form, "one_by_one")

    x_TD, _, *weights = leaves.values()
    assert torch.autograd.gradcheck(compute, (x_TD, weight_N, *weights))


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("wanted", ["x_TD", "logit_TE", "w_in_EDG", "w_out_EHD", "b_out_ED"])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_a_frozen_rest_changes_no_gradient(path: Path, wanted: str) -> None:
    leaves = _leaves(21, 4, 16, 8, has_bias=True)
    want = _answers(leaves, 2, "tokens", "swiglu", path)[f"d_{wanted}"]
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == wanted)
    out_TD = _compute(leaves, _route(leaves["logit_TE"], 2, "tokens"), "swiglu", path)
    upstream_TD = torch.randn(out_TD.shape, generator=torch.Generator().manual_seed(1))
    out_TD.backward(upstream_TD)
    got = leaves[wanted].grad
    assert got is not None
    assert torch.equal(got, want)
    assert all(leaf.grad is None for name, leaf in leaves.items() if name != wanted)


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("chooses", ["tokens", "experts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_answers_the_same_without_a_gradient(
    path: Path, chooses: str, dtype: torch.dtype
) -> None:
    leaves = _leaves(21, 4, 16, 8, has_bias=True, dtype=dtype)
    with_gradient = _compute(leaves, _route(leaves["logit_TE"], 2, chooses), "swiglu", path)
    with torch.no_grad():
        without = _compute(leaves, _route(leaves["logit_TE"], 2, chooses), "swiglu", path)
    assert with_gradient.requires_grad
    assert not without.requires_grad
    assert torch.equal(with_gradient, without)


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("chooses", ["tokens", "experts"])
def test_the_same_numbers_give_the_same_bits(path: Path, chooses: str) -> None:
    leaves = _leaves(200, 8, 16, 8, has_bias=True)
    first = _answers(leaves, 3, chooses, "swiglu", path)
    for _ in range(3):
        again = _answers(leaves, 3, chooses, "swiglu", path)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("form", FORMS)
def test_a_kept_graph_gives_its_gradients_twice(path: Path, form: Form) -> None:
    leaves = _leaves(21, 4, 16, 8, form, has_bias=True)
    out_TD = _compute(leaves, _route(leaves["logit_TE"], 2, "tokens"), form, path)
    upstream_TD = torch.randn_like(out_TD)
    # only the last pass may overwrite what was kept for it
    first, second, last = (
        torch.autograd.grad(out_TD, list(leaves.values()), upstream_TD, retain_graph=keeps)
        for keeps in (True, True, False)
    )
    for one, two, three in zip(first, second, last, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    leaves = _leaves(6, 2, 8, 8)
    out_TD = _compute(leaves, _route(leaves["logit_TE"], 1, "tokens"), "swiglu", "one_by_one")
    (d_x_TD,) = torch.autograd.grad(out_TD.square().sum(), leaves["x_TD"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_x_TD.sum().backward()


@pytest.mark.parametrize(
    ("form", "want"),
    [
        # silu(1) = 1 / (1 + 1/e) = 0.731059, times up = 3
        pytest.param("swiglu", 3 * 0.731059, id="swiglu"),
        pytest.param("silu", 0.731059, id="silu"),
        # sqrt(2/pi) * (1 + 0.044715) = 0.833563, 0.5 * (1 + tanh of it) = 0.841192
        pytest.param("gelu", 0.841192, id="gelu"),
        # 0.5 * (1 + erf(1 / sqrt 2)) = 0.5 * (1 + 0.682689)
        pytest.param("gelu_exact", 0.841345, id="gelu_exact"),
        # sigmoid(1.702) = 0.845795, times (3 + 1)
        pytest.param("swiglu7", 4 * 0.845795, id="swiglu7"),
        pytest.param("gelu7", 0.845795, id="gelu7"),
    ],
)
def test_a_form_is_what_its_name_says(form: Form, want: float) -> None:
    h_nG = torch.tensor([[1.0, 3.0]] if is_gated(form) else [[1.0]])
    assert activate(h_nG, form).item() == pytest.approx(want, abs=5e-6)


@pytest.mark.parametrize(
    ("device", "dtype", "width", "hidden", "path", "said"),
    [
        pytest.param("cpu", torch.float32, 128, 128, "grouped_mm", "one grouped", id="usual"),
        pytest.param("cpu", torch.float64, 128, 128, "one_by_one", "no float64", id="fp64"),
        pytest.param("cpu", torch.float32, 126, 128, "one_by_one", "126", id="width"),
        pytest.param("cpu", torch.bfloat16, 128, 12, "one_by_one", "12", id="hidden"),
        pytest.param("cuda", torch.float32, 128, 128, "one_by_one", "bfloat16", id="cuda-fp32"),
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_grouped_only_where_its_product_is_fast(dtype: torch.dtype) -> None:
    choice = choose_expert_path(torch.device("cpu"), dtype, 64, 64)
    supports = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    assert choice.path == ("grouped_mm" if supports[dtype]() else "one_by_one")
