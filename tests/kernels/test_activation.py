"""The hidden layer and its slope: against autograd, in blocks, and in the memory they say."""

from typing import get_args

import pytest
import torch
from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from moescope.kernels.compare import relative_error
from moescope.kernels.expert_mlp import activation
from moescope.kernels.expert_mlp.activation import activate_with_slope, slope_times
from moescope.kernels.expert_mlp.reference import Form, activate, count_clamped

# H hidden  G columns of w_in  N rows

FORMS: tuple[Form, ...] = get_args(Form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        pytest.param(torch.float64, 1e-14, id="fp64"),
        pytest.param(torch.float32, 1e-6, id="fp32"),
        # the layer, its slope and the product are rounded once each, to 2^-9
        pytest.param(torch.bfloat16, 4e-3, id="bf16"),
    ],
)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_slope_times_gradient_is_what_autograd_finds(
    form: Form, dtype: torch.dtype, bound: float
) -> None:
    torch.manual_seed(0)
    h_NG = torch.randn(33, 20).mul(3).to(dtype)
    wide_NG = h_NG.double().clone().requires_grad_()
    want_NH = activate(wide_NG, form)
    d_NH = torch.randn(want_NH.shape).to(dtype)
    (want_d_h_NG,) = torch.autograd.grad(want_NH, wide_NG, d_NH.double())
    hidden_NH, slope_NG = activate_with_slope(h_NG, form, wants_slope=True)
    assert slope_NG is not None
    assert slope_NG.data_ptr() == h_NG.data_ptr()  # no memory of its own
    assert hidden_NH.dtype is slope_NG.dtype is dtype
    assert relative_error("hidden_NH", want_NH, hidden_NH) < bound
    kept_NG = slope_NG.clone()
    apart_NG = slope_times(slope_NG, d_NH, may_overwrite=False)
    assert torch.equal(slope_NG, kept_NG)
    assert relative_error("d_h_NG", want_d_h_NG, apart_NG) < bound
    in_place_NG = slope_times(slope_NG, d_NH, may_overwrite=True)
    assert torch.equal(in_place_NG, apart_NG)
    assert in_place_NG.data_ptr() == slope_NG.data_ptr()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_blocks_change_no_more_than_rounding_and_leaving_out_the_slope_no_bit(
    form: Form, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    h_NG = torch.randn(50, 16).to(dtype)
    whole_NH, whole_slope_NG = activate_with_slope(h_NG.clone(), form, wants_slope=True)
    # 7 rows of 16 in a block, so that the last of eight has one row
    monkeypatch.setitem(activation.BLOCK_ELEMENTS, "cpu", 7 * 16 + 3)
    hidden_NH, slope_NG = activate_with_slope(h_NG.clone(), form, wants_slope=True)
    bare_NH, nothing = activate_with_slope(h_NG, form, wants_slope=False)
    assert nothing is None
    assert whole_slope_NG is not None
    assert slope_NG is not None
    # the last rows of a block go through other instructions, which may differ in the last bit
    bound = 1e-7 if dtype is torch.float32 else 1e-3
    assert relative_error("hidden_NH", whole_NH, hidden_NH) < bound
    assert relative_error("slope_NG", whole_slope_NG, slope_NG) < bound
    assert torch.equal(hidden_NH, bare_NH)


def test_the_bounds_of_swiglu7_are_the_published_ones() -> None:
    # 7 sigmoid(11.914) * 8 = 56.0 at the most; -6 of it at the least (facts: model.md section 8)
    far_nG = torch.tensor([[1e4, 1e4], [1e4, -1e4]])
    assert activate(far_nG, "swiglu7").flatten().tolist() == pytest.approx([56.0, -42.0], abs=1e-3)
    assert activate(torch.tensor([[1e4], [-1e4]]), "gelu7").flatten().tolist() == pytest.approx(
        [7.0, 0.0], abs=1e-3
    )


@pytest.mark.parametrize("bound", [7.0, 1.5])
def test_swiglu7_is_the_gate_of_gpt_oss(bound: float) -> None:
    config = GptOssConfig(
        hidden_size=8, intermediate_size=6, num_local_experts=2, swiglu_limit=bound
    )
    theirs = GptOssExperts(config)
    h_nG = torch.randn(40, 12, generator=torch.Generator().manual_seed(0)).mul(4)
    # theirs has gate and up in turns, ours side by side
    in_turns_nG = torch.stack(h_nG.chunk(2, -1), dim=-1).flatten(-2)
    theirs.limit = bound
    want_nH = theirs._apply_gate(in_turns_nG)
    assert relative_error("hidden", want_nH, activate(h_nG, "swiglu7", bound)) < 1e-6


@pytest.mark.parametrize("form", ["swiglu7", "gelu7"])
def test_another_bound_holds_in_value_and_slope(form: Form) -> None:
    torch.manual_seed(0)
    h_NG = torch.randn(60, 8).mul(3).double()
    leaf_NG = h_NG.clone().requires_grad_()
    want_NH = activate(leaf_NG, form, 1.25)
    (want_NG,) = torch.autograd.grad(want_NH.sum(), leaf_NG)
    hidden_NH, slope_NG = activate_with_slope(h_NG.clone(), form, True, 1.25)
    assert slope_NG is not None
    torch.testing.assert_close(hidden_NH, want_NH)
    torch.testing.assert_close(slope_NG, want_NG)
    assert not torch.allclose(want_NH, activate(h_NG, form))


@pytest.mark.parametrize(
    ("form", "clamped"),
    [
        # gates above 2, and up beyond 2 on either side
        ("swiglu7", 3),
        # above 2 only
        ("gelu7", 2),
    ],
)
def test_what_is_clamped_is_counted(form: Form, clamped: int) -> None:
    h_nG = torch.tensor([[3.0, -5.0, 2.0, 0.0], [0.0, 1.0, -2.5, 2.5]])
    clamped_2 = torch.tensor([10.0, 100.0])
    count_clamped(h_nG, form, 2.0, clamped_2)
    assert clamped_2.tolist() == [10.0 + clamped, 108.0]
