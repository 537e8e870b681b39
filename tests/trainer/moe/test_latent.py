"""Multi-Head LatentMoE against a loop over tokens, heads and choices in the words of its source."""

import math

import pytest
import torch
from torch import Tensor, nn

from moescope.kernels.compare import relative_error
from moescope.trainer.model_config import MoeConfig
from moescope.trainer.moe.balance import contrast_loss
from moescope.trainer.moe.latent import LatentMoe

# B batch  S stream tokens  T tokens (B*S)  D width  H heads  d width of a part  E experts of a head
# e hidden

WIDTH, LAYERS, HEADS, PART, EXPERTS, CHOSEN, HIDDEN = 11, 6, 3, 5, 4, 2, 7


def _layer(contrast_weight: float = 0.0) -> LatentMoe:
    torch.manual_seed(0)
    config = MoeConfig(
        layer="latent",
        router="softmax",
        num_shared=0,
        num_experts=EXPERTS,
        num_chosen=CHOSEN,
        hidden=HIDDEN,
        latent_heads=HEADS,
        latent_head_width=PART,
        contrast_weight=contrast_weight,
    )
    layer = LatentMoe(WIDTH, LAYERS, config)
    # larger than they start, so that a wrong order of the parts cannot hide behind small answers
    for parameter in (layer.w_out.weight, layer.router.weight_HED):
        nn.init.normal_(parameter, std=0.5)
    layer.router.bias_HE.normal_(std=0.3)
    return layer


def _by_hand(layer: LatentMoe, x_TD: Tensor) -> Tensor:
    """The definition in facts: model.md 3.6, one part of one token at a time."""
    rows = []
    for x_D in x_TD:
        z_N = layer.w_in.weight @ x_D
        answers = []
        for head in range(HEADS):
            z_d = z_N[head * PART : (head + 1) * PART]
            logit_E = layer.router.weight_HED[head] @ z_d
            order = (logit_E + layer.router.bias_HE[head]).argsort(descending=True)
            chosen = order[:CHOSEN].tolist()
            weight_K = torch.exp(logit_E[chosen]) / torch.exp(logit_E[chosen]).sum()
            answer_d = torch.zeros(PART)
            for expert, weight in zip(chosen, weight_K, strict=True):
                number = head * EXPERTS + expert
                hidden_e = z_d @ layer.w_in_EDG[number]
                # x * Phi(x), Phi the normal distribution's: not the tanh approximation
                hidden_e = hidden_e * 0.5 * (1 + torch.erf(hidden_e / math.sqrt(2)))
                answer_d = answer_d + weight * (hidden_e @ layer.w_out_EHD[number])
            answers.append(answer_d)
        rows.append(layer.w_out.weight @ torch.cat(answers))
    return torch.stack(rows)


@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.parametrize("shape", [(2, 9), (1, 1), (3, 50)], ids=str)
def test_forward_and_gradients_are_those_of_the_definition(shape: tuple[int, int]) -> None:
    layer = _layer()
    x_BSD = torch.randn(*shape, WIDTH, requires_grad=True)
    names = dict(layer.named_parameters())
    want_BSD = _by_hand(layer, x_BSD.flatten(0, 1)).view_as(x_BSD)
    got_BSD = layer(x_BSD)
    upstream_BSD = torch.randn_like(want_BSD)
    want = torch.autograd.grad(want_BSD, [x_BSD, *names.values()], upstream_BSD)
    got = torch.autograd.grad(got_BSD, [x_BSD, *names.values()], upstream_BSD)
    assert relative_error("out_BSD", want_BSD, got_BSD) < 1e-5
    for name, expected, found in zip(["x_BSD", *names], want, got, strict=True):
        assert expected.abs().max() > 1e-3, name
        assert relative_error(f"d_{name}", expected, found) < 1e-5
    assert layer.tally.counts_RE.sum(1).tolist() == [shape[0] * shape[1] * CHOSEN] * HEADS


def test_the_way_back_starts_as_small_as_the_network_is_deep() -> None:
    torch.manual_seed(0)
    config = MoeConfig(
        layer="latent", router="softmax", num_shared=0, latent_heads=4, latent_head_width=64
    )
    layer = LatentMoe(256, LAYERS, config)
    # 65,536 draws: the standard deviation is known to about 0.3 %
    assert float(layer.w_out.weight.detach().std()) == pytest.approx(0.02 / math.sqrt(12), rel=0.02)


def test_experts_are_kept_apart_within_their_head_and_not_across_heads() -> None:
    layer = _layer(contrast_weight=0.5)
    layer.tally.start_step()
    layer(torch.randn(2, 9, WIDTH))
    loss = layer.tally.loss()
    assert loss is not None
    heads = layer.w_in_EDG.view(HEADS, EXPERTS, PART, HIDDEN)
    want = 0.5 * sum(float(contrast_loss(head.detach())) for head in heads) / HEADS
    across = 0.5 * float(contrast_loss(layer.w_in_EDG.detach()))
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)
    assert want != pytest.approx(across, rel=1e-2)
