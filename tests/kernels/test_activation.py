"""The hidden layer and its slope: against autograd, in blocks, and in the memory they say."""

from typing import get_args

import pytest
import torch

from moescope.kernels.compare import relative_error
from moescope.kernels.expert_mlp import activation
from moescope.kernels.expert_mlp.activation import activate_with_slope, slope_times
from moescope.kernels.expert_mlp.reference import Form, activate

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
