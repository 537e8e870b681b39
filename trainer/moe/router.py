"""Routers: which experts a token goes to. All of them compute in fp32, and their forward changes no
state.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.routing.op import route, route_heads
from ...kernels.routing.reference import Routing, RoutingRule
from ..numerics import exact
from .expert_choice import BatchChoiceRouter, ExpertChoiceRouter

# B batch  S stream tokens  T tokens (B*S)  D width  E experts  H heads  P width of a head


class TokenRouter(nn.Module):
    """What the routers have in common with which tokens choose: logits, a rule, and a bias.

    `bias_E` is a buffer without gradient, where `has_bias`, else None: it takes part in the choice,
    never in the weights. Source: facts: model.md section 4 (aux-loss-free balancing, arXiv
    2408.15664).
    """

    bias_E: Tensor | None
    is_exact: bool
    """Whether logits are fp32 in a stretch of other products (compute.has_exact_router)."""

    def __init__(self, num_experts: int, rule: RoutingRule, has_bias: bool) -> None:
        super().__init__()
        rule.check(num_experts)
        self.rule = rule
        self.is_exact = True
        self.register_buffer("bias_E", torch.zeros(num_experts) if has_bias else None)

    def logits(self, x_BSD: Tensor, told_BSD: Tensor | None) -> Tensor:
        """Returns (B, S, E). x_BSD, told_BSD: fp32."""
        raise NotImplementedError

    def forward(self, x_BSD: Tensor, told_BSD: Tensor | None = None) -> Routing:
        """x_BSD: (B, S, D), any float dtype. told_BSD: (B, any number, D) tokens that the
        cross-attention router reads beside, and the others do not; or None. Returns the routing of
        the B * S tokens, sample after sample."""
        with exact(x_BSD.device, self.is_exact):
            told_BSD = None if told_BSD is None else told_BSD.float()
            logit_TE = self.logits(x_BSD.float(), told_BSD).flatten(0, -2)
        with exact(x_BSD.device):
            return route(logit_TE.float(), self.bias_E, self.rule)

    def update_bias(self, counts_E: Tensor, speed: float, keep: Tensor) -> None:
        """As the function `update_bias`. Raises ValueError where the router has no bias."""
        if self.bias_E is None:
            raise ValueError("this router has no balancing bias: make it with has_bias=True")
        update_bias(self.bias_E, counts_E, speed, keep)


class LinearRouter(TokenRouter):
    """logit = x @ weight.T; sigmoid or softmax, as the rule says. E * D parameters. Source: facts:
    model.md 3.1, 3.2.
    """

    def __init__(
        self,
        width: int,
        num_experts: int,
        rule: RoutingRule,
        std: float = 0.02,  # facts: model.md 3.2
        *,
        has_bias: bool,
    ) -> None:
        super().__init__(num_experts, rule, has_bias)
        self.weight_ED = nn.Parameter(torch.randn(num_experts, width) * std)

    def logits(self, x_BSD: Tensor, told_BSD: Tensor | None) -> Tensor:
        return F.linear(x_BSD, self.weight_ED)


class MlpRouter(TokenRouter):
    """logit = last(gelu(first(x))), two linear layers with biases; D * hidden + hidden + hidden * E
    + E parameters.

    The last weights start at N(0, 0.002^2): at zero all scores tie, and the first experts win.
    Source: facts: model.md 3.3 (arXiv 2605.19378).
    """

    def __init__(
        self,
        width: int,
        num_experts: int,
        rule: RoutingRule,
        hidden: int = 256,
        *,
        has_bias: bool,
    ) -> None:
        super().__init__(num_experts, rule, has_bias)
        self.first = nn.Linear(width, hidden)
        self.last = _small_linear(hidden, num_experts)

    def logits(self, x_BSD: Tensor, told_BSD: Tensor | None) -> Tensor:
        logit_BSE: Tensor = self.last(F.gelu(self.first(x_BSD)))
        return logit_BSE


class CrossAttentionRouter(TokenRouter):
    """logit = last(attention of each token to the told tokens of its sample), as in
    torch.nn.MultiheadAttention; where nothing is told, to its own sample's tokens.

    4 * D^2 + 4 * D parameters of the attention, which start as those of MultiheadAttention do, and
    D * E + E of the last layer, whose weights start at N(0, 0.002^2) and biases at 0. Every told
    token is looked at: there is no mask. Source: facts: model.md 3.4 (arXiv 2605.19378); that the
    told tokens are the caption's rows of the same sequence is a moescope choice.
    """

    def __init__(
        self,
        width: int,
        num_experts: int,
        rule: RoutingRule,
        heads: int = 2,
        *,
        has_bias: bool,
    ) -> None:
        super().__init__(num_experts, rule, has_bias)
        if width % heads:
            raise ValueError(f"the router's {heads} heads do not divide the width {width}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.mix = nn.Linear(width, width)
        self.last = _small_linear(width, num_experts)
        # MultiheadAttention draws query, key and value as one Xavier matrix of 3 * D rows
        bound = math.sqrt(6 / (4 * width))
        for linear in (self.query, self.key_value):
            nn.init.uniform_(linear.weight, -bound, bound)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.mix.bias)

    def logits(self, x_BSD: Tensor, told_BSD: Tensor | None) -> Tensor:
        if told_BSD is None or not told_BSD.shape[1]:
            told_BSD = x_BSD
        key_BSD, value_BSD = self.key_value(told_BSD).chunk(2, dim=-1)
        answer_BHSP = F.scaled_dot_product_attention(
            self._by_head(self.query(x_BSD)), self._by_head(key_BSD), self._by_head(value_BSD)
        )
        logit_BSE: Tensor = self.last(self.mix(answer_BHSP.transpose(1, 2).flatten(2)))
        return logit_BSE

    def _by_head(self, x_BSD: Tensor) -> Tensor:
        x_BSHP: Tensor = x_BSD.unflatten(2, (self.heads, -1))
        return x_BSHP.transpose(1, 2)


class HeadRouters(nn.Module):
    """A router for each head of a token: logit = z_h @ weight_h.T; each part of a token goes to K
    experts of its head, weighed by a softmax over the K chosen logits. H * E * d parameters.

    `bias_HE` is a buffer without gradient that takes part in the choice only. K = 1 is refused: its
    weight would be 1 whatever the logit, and the router would learn nothing.
    Source: facts: model.md 3.6 (Multi-Head LatentMoE, arXiv 2602.04870).
    """

    bias_HE: Tensor

    def __init__(
        self,
        head_width: int,
        num_heads: int,
        num_experts: int,
        num_chosen: int,
        std: float = 0.02,  # facts: model.md 3.2
    ) -> None:
        super().__init__()
        if num_chosen < 2:
            raise ValueError(
                f"num_chosen is {num_chosen}, but a softmax over the chosen experts of a head has "
                "no gradient with fewer than 2"
            )
        RoutingRule(num_chosen).check(num_experts)
        self.num_chosen = num_chosen
        self.is_exact = True
        self.weight_HED = nn.Parameter(torch.randn(num_heads, num_experts, head_width) * std)
        self.register_buffer("bias_HE", torch.zeros(num_heads, num_experts))

    def forward(self, z_THD: Tensor) -> Routing:
        """z_THD: (T, H, d), any float dtype. Returns a Routing of the T * H parts, row t * H + h
        being part h of token t: chosen is h * E + expert, counts are (H, E), scores (a softmax over
        the head's experts) and logits are (H, T, E)."""
        with exact(z_THD.device, self.is_exact):
            logit_HTE = torch.bmm(z_THD.float().transpose(0, 1), self.weight_HED.transpose(1, 2))
        with exact(z_THD.device):
            return route_heads(logit_HTE.float(), self.bias_HE, self.num_chosen)

    def update_bias(self, counts_HE: Tensor, speed: float, keep: Tensor) -> None:
        """As the function `update_bias`, each head against its own mean."""
        update_bias(self.bias_HE, counts_HE, speed, keep)


Router = LinearRouter | MlpRouter | CrossAttentionRouter | ExpertChoiceRouter | BatchChoiceRouter
"""What a layer of experts can have: x_BSD, told_BSD -> Routing, or ExpertChoice."""


@torch.no_grad()
def update_bias(bias_E: Tensor, counts_E: Tensor, speed: float, keep: Tensor) -> None:
    """Raises the bias of experts that got less than the mean, lowers that of the others; once
    per optimizer step.

    bias += keep * speed * sign(mean(counts) - counts), along the last dimension
    counts_E: (..., E) tokens of the whole optimizer step, all ranks (`balance.sum_over_ranks`)
    and micro-batches. keep: 0/1 tensor on the same device; 0 changes nothing.
    Source: facts: model.md section 4 (arXiv 2408.15664).
    """
    counts_E = counts_E.float()
    mean_1 = counts_E.mean(-1, keepdim=True)
    bias_E.add_(torch.sign(mean_1 - counts_E) * (keep * speed))


def _small_linear(width: int, num_experts: int) -> nn.Linear:
    linear = nn.Linear(width, num_experts)
    nn.init.normal_(linear.weight, std=0.002)  # facts: model.md 3.3, 3.4
    nn.init.zeros_(linear.bias)
    return linear
