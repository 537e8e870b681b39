"""A block: the identity at the start, and each kind of token modulated by its own condition."""

import torch

from moescope.trainer.model.block import Block, DenseMlp, add_gated, modulate
from moescope.trainer.model.positions import Extent

# B batch  S stream tokens  D width  G kinds of token

TOKENS = Extent(text=2, video=3, audio=1)


def test_a_new_block_is_the_identity() -> None:
    torch.manual_seed(0)
    block = Block(16, 2, DenseMlp(16, 32))
    x_BSD = torch.randn(2, 6, 16)
    still = torch.stack([torch.ones(6, 4), torch.zeros(6, 4)])
    assert torch.equal(block(x_BSD, torch.randn(2, 3, 16), still, TOKENS), x_BSD)


def test_each_kind_of_token_gets_its_own_vectors() -> None:
    x_BSD = torch.randn(1, 6, 4)
    shift_BGD = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1).expand(1, 3, 4)
    out_BSD = modulate(x_BSD, shift_BGD, torch.zeros(1, 3, 4), TOKENS)
    # a normalised token has mean 0, so that what is left is its kind's shift
    torch.testing.assert_close(
        out_BSD.mean(-1)[0], torch.tensor([10.0, 10, 20, 20, 20, 30]), atol=1e-4, rtol=0
    )


def test_a_gate_lets_its_kind_through_and_no_other() -> None:
    x_BSD, y_BSD = torch.zeros(1, 6, 4), torch.ones(1, 6, 4)
    gate_BGD = torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1).expand(1, 3, 4)
    out_BSD = add_gated(x_BSD, gate_BGD, y_BSD, TOKENS)
    assert out_BSD[0, :, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 0.5]
