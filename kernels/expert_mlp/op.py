"""The routed experts: rows sorted by expert, computed by the chosen path, added up by token."""

from torch import Tensor

from ..choice import Path
from ..permutation.op import Order, by_token, chosen_order, expert_order
from ..routing.reference import ExpertChoice, Routing
from .products import Grouped, OneByOne
from .reference import Experts, expert_mlp_chosen_reference, expert_mlp_reference
from .routed_experts import routed_experts

# T tokens  D width  K chosen experts  N rows: a token and an expert that works on it


def expert_mlp(x_TD: Tensor, routing: Routing, experts: Experts, path: Path) -> Tensor:
    """Does what `reference.expert_mlp_reference` defines, by the path that
    `choice.choose_expert_path` chose.

    x_TD and the experts' weights: one dtype. Returns (T, D) in it. No tokens, and experts without
    tokens, are fine. The same bits come out every time, on CUDA too: no sum is a scatter.
    """
    if path == "reference":
        return expert_mlp_reference(x_TD, routing, experts)
    order = expert_order(routing.chosen_TK, routing.counts_E)
    return _compute(x_TD, routing.weight_TK.reshape(-1), order, experts, path)


def expert_mlp_chosen(x_TD: Tensor, choice: ExpertChoice, experts: Experts, path: Path) -> Tensor:
    """Does what `reference.expert_mlp_chosen_reference` defines; dtypes and promises as in
    `expert_mlp`.

    The rows are sorted by token once; what a token gets is the sum over its part of that list.
    """
    if path == "reference":
        return expert_mlp_chosen_reference(x_TD, choice, experts)
    order = chosen_order(choice.token_N, choice.counts_E, x_TD.shape[0])
    return _compute(x_TD, by_token(choice.weight_N, order), order, experts, path)


def _compute(x_TD: Tensor, weight_N: Tensor, order: Order, experts: Experts, path: Path) -> Tensor:
    products = Grouped(order) if path == "grouped_mm" else OneByOne(order)
    return routed_experts(x_TD, weight_N, order, experts, products)
