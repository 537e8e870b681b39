"""The definition of sorting routed tokens by expert."""

import torch
from torch import Tensor

# T tokens  D width  K chosen experts  N rows (T*K)


def permute_reference(x_TD: Tensor, chosen_TK: Tensor) -> Tensor:
    """Copies each token once per chosen expert, all rows of expert 0 first, tokens in order
    within an expert.

    Returns (N, D). Differentiable: the gradient of a token is the sum over its rows.
    """
    pairs = [(int(e), t) for t, row in enumerate(chosen_TK) for e in row]
    token_N = torch.tensor([t for _, t in sorted(pairs)], dtype=torch.int64, device=x_TD.device)
    return x_TD[token_N]


def unpermute_reference(y_ND: Tensor, chosen_TK: Tensor) -> Tensor:
    """Brings sorted rows back to their tokens: returns (T, K, D), where [t, k] answers expert
    chosen[t, k]."""
    tokens, chosen = chosen_TK.shape
    pairs = sorted((int(e), t, k) for t, row in enumerate(chosen_TK) for k, e in enumerate(row))
    place = {(t, k): n for n, (_, t, k) in enumerate(pairs)}
    order = [place[t, k] for t in range(tokens) for k in range(chosen)]
    index_N = torch.tensor(order, dtype=torch.int64, device=y_ND.device)
    return y_ND[index_N].reshape(tokens, chosen, y_ND.shape[1])
