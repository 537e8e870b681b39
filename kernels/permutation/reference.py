"""The definition of sorting routed tokens by expert, and of adding rows up by token."""

import torch
from torch import Tensor

# T tokens  D width  K chosen experts  N rows: a token and an expert that works on it


def permute_reference(x_TD: Tensor, chosen_TK: Tensor) -> Tensor:
    """Copies each token once per chosen expert, all rows of expert 0 first, tokens in order
    within an expert.

    Returns (N, D). Differentiable: the gradient of a token is the sum over its rows.
    """
    pairs = [(int(e), t) for t, row in enumerate(chosen_TK) for e in row]
    token_N = torch.tensor([t for _, t in sorted(pairs)], dtype=torch.int64, device=x_TD.device)
    return x_TD[token_N]


def sum_by_token_reference(y_ND: Tensor, token_N: Tensor, num_tokens: int) -> Tensor:
    """Adds up the rows of each token: out[t] = sum of y[n] over the n with token[n] = t.

    Returns (T, D); a token without rows gets zeros. Rows are added in their order.
    """
    rows: list[list[Tensor]] = [[] for _ in range(num_tokens)]
    for row, token in enumerate(token_N.tolist()):
        rows[token].append(y_ND[row])
    nothing = y_ND[:0].sum(0)
    return torch.stack([sum(of_token, nothing) for of_token in rows] or [nothing])[:num_tokens]
