"""A block: the identity at the start, and each kind of token modulated by its own condition."""

from typing import Any

import pytest
import torch
from torch import nn

from moescope.kernels.compare import relative_error
from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.counts.parts import block_parts, linear
from moescope.trainer.model.block import Block, add_gated, modulate
from moescope.trainer.moe.experts import MoeLayer

# B batch  S stream tokens  D width  G kinds of token

TOKENS = (2, 3, 1)


def awake(block: Block) -> Block:
    """A block whose zero-initialised modulation has values, as after some training."""
    torch.manual_seed(1)
    for parameter in block.modulation.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("index", [0, 1], ids=["dense", "experts"])
def test_a_new_block_is_the_identity(small: RunConfig, norm: str, index: int) -> None:
    block = Block(changed(small, {"model.norm": norm}), index)
    assert isinstance(block.mlp, MoeLayer) == (index == 1)
    x_BSD = torch.randn(2, 6, 32)
    told_BGD = torch.randn(2, 3, 32)
    assert torch.equal(block(x_BSD, told_BGD, None, TOKENS), x_BSD)
    assert not torch.allclose(awake(block)(x_BSD, told_BGD, None, TOKENS), x_BSD)


def test_a_block_adds_its_attention_and_then_its_mlp_through_gates(small: RunConfig) -> None:
    block = awake(Block(changed(small, {"model.norm": "rms"}), 0))
    gains = {"attention_gain": torch.full((32,), 1.5), "mlp_gain": torch.full((32,), 0.5)}
    assert not block.load_state_dict(gains, strict=False).unexpected_keys
    x, condition = torch.randn(2, 6, 32), torch.randn(2, 1, 32)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = block.modulation(condition)

    def normed(y: torch.Tensor) -> torch.Tensor:
        return nn.functional.rms_norm(y, (32,), eps=1e-6)

    after = x + gate_1 * block.attention(normed(x) * 1.5 * (1 + scale_1) + shift_1, None)
    want = after + gate_2 * block.mlp(normed(after) * 0.5 * (1 + scale_2) + shift_2)
    assert relative_error("answer", want, block(x, condition, None, (6,))) < 1e-6


@pytest.mark.parametrize("changes", [{}, {"model.norm": "rms"}, {"model.kv_heads": 1}])
@pytest.mark.parametrize("index", [0, 1], ids=["dense", "experts"])
def test_every_parameter_of_a_block_gets_a_gradient(
    small: RunConfig, changes: dict[str, Any], index: int
) -> None:
    block = awake(Block(changed(small, changes), index))
    x_BSD = torch.randn(4, 12, 32)
    block(x_BSD, torch.randn(4, 1, 32), None, (12,)).square().mean().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < float(parameter.grad.abs().max()) < float("inf"), name


def test_modulation_and_residual_stay_exact_beside_products_in_half_precision(
    small: RunConfig,
) -> None:
    block = awake(Block(small, 0))
    x_BSD, condition = torch.randn(2, 6, 32), torch.randn(2, 1, 32)
    want = block.modulation(condition)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = block.modulation(condition)
        answer = block(x_BSD, condition, None, (6,))
        product = block.mlp.w_in(x_BSD)
    assert product.dtype == torch.bfloat16
    assert answer.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_a_gain_for_each_norm_is_all_that_rms_adds(small: RunConfig) -> None:
    nums = {}
    for norm in ("layer", "rms"):
        config = changed(small, {"model.norm": norm})
        blocks = [Block(config, index) for index in range(config.model.layers)]
        nums[norm] = sum(p.numel() for block in blocks for p in block.parameters())
    width, layers = small.model.width, small.model.layers
    assert nums["layer"] == sum(block_parts(small).values()) + layers * linear(width, 6 * width)
    assert nums["rms"] - nums["layer"] == 2 * width * layers


def test_each_kind_of_token_gets_its_own_vectors() -> None:
    x_BSD = torch.randn(1, 6, 4)
    shift_BGD = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1).expand(1, 3, 4)
    out_BSD = modulate(x_BSD, shift_BGD, torch.zeros(1, 3, 4), TOKENS)
    # a normalised token has mean 0, so that what is left is its kind's shift
    torch.testing.assert_close(
        out_BSD.mean(-1)[0], torch.tensor([10.0, 10, 20, 20, 20, 30]), atol=1e-4, rtol=0
    )


def test_with_a_gain_a_token_keeps_its_mean_and_has_length_one_per_channel() -> None:
    x_BSD = torch.tensor([[[3.0, 1.0, 3.0, 1.0]]])
    zero_BGD = torch.zeros(1, 1, 4)
    out_BSD = modulate(x_BSD, zero_BGD, zero_BGD, (1,), torch.tensor([1.0, 1.0, 2.0, 2.0]))
    # RMS of (3, 1, 3, 1) = sqrt(20 / 4) = sqrt(5); 3 / sqrt(5) = 1.3416408, 1 / sqrt(5) = 0.4472136
    assert out_BSD.flatten().tolist() == pytest.approx(
        [1.3416408, 0.4472136, 2.6832816, 0.8944272], rel=1e-6
    )


def test_a_gate_lets_its_kind_through_and_no_other() -> None:
    x_BSD, y_BSD = torch.zeros(1, 6, 4), torch.ones(1, 6, 4)
    gate_BGD = torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1).expand(1, 3, 4)
    out_BSD = add_gated(x_BSD, gate_BGD, y_BSD, TOKENS)
    assert out_BSD[0, :, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 0.5]
