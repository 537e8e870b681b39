"""The measure that all comparisons of tensors use."""

import pytest
import torch

from moescope.kernels.compare import relative_error


def test_the_error_is_relative_to_what_was_wanted() -> None:
    # errors 0 and 1 over values 3 and 4: sqrt(1/2) / sqrt(25/2) = 1/5
    error = relative_error("x", torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0]))
    assert error == pytest.approx(0.2)


def test_an_unwritten_value_is_named_and_never_a_small_error() -> None:
    with pytest.raises(AssertionError, match=r"d_w: 1 of 2 got values are not finite"):
        relative_error("d_w", torch.ones(2), torch.tensor([1.0, float("nan")]))


def test_different_shapes_are_named() -> None:
    with pytest.raises(AssertionError, match=r"d_w: shape \(3,\), expected \(2,\)"):
        relative_error("d_w", torch.ones(2), torch.ones(3))
