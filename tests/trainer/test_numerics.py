"""The dtype policy, as far as a machine without a GPU can show it."""

import torch

from moescope.trainer.numerics import exact, matmul_dtype, mixed


def test_products_are_fp32_on_a_cpu_and_bf16_on_cuda() -> None:
    assert matmul_dtype(torch.device("cpu")) is torch.float32
    assert matmul_dtype(torch.device("cuda")) is torch.bfloat16


def test_on_a_cpu_the_policy_changes_nothing() -> None:
    a, b = torch.randn(4, 4), torch.randn(4, 4)
    with mixed(torch.device("cpu")):
        inside = a @ b
    assert inside.dtype is torch.float32
    assert torch.equal(inside, a @ b)


def test_an_exact_stretch_keeps_fp32_inside_a_mixed_one() -> None:
    a = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype is torch.bfloat16
        with exact(torch.device("cpu")):
            assert (a @ a).dtype is torch.float32
