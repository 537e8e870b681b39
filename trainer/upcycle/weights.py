"""Upcycling: the weights of a network with experts, out of those of the same network without.

Pure functions on state dicts. A layer of experts is named by its path in the network, such as
`blocks.1.mlp`, where the dense network has its MLP.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..data.chance import generator
from ..model_config import MlpForm, is_gated
from ..moe.experts import MoeLayer

# E experts  D width  H hidden  G rows of w_in: 2*H where gated, else H  N shared experts * H

Weights = dict[str, Tensor]


def expert_paths(model: nn.Module) -> list[str]:
    """Returns the paths of the layers of experts, in the network's order; one that two parts of a
    network share has a path in each."""
    return [
        path
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, MoeLayer)
    ]


def clones(
    dense: Mapping[str, Tensor], fresh: Mapping[str, Tensor], paths: Sequence[str]
) -> Weights:
    """Returns the weights of a network that answers as the dense one does.

    Every routed expert is the dense MLP, unscaled; shared experts are zero; routers are as in
    `fresh`, the state of a new network with experts; all else is the dense network's. The answer is
    the same as long as a token's weights add up to 1. Copies, none shares memory with its source.
    Raises ValueError where the networks differ in more than their experts.
    Source: facts: model.md section 10 (arXiv 2605.19378, 3.2 to 3.4).
    """
    made: Weights = {}
    for name, value in fresh.items():
        path, part = _split(name, paths)
        if path is None:
            source = dense.get(name)
        elif part.startswith("router."):
            source = value
        elif part.startswith("shared."):
            source = torch.zeros_like(value)
        else:
            source = _routed(dense, path, part, len(value))
        if source is None or source.shape != value.shape:
            there = "absent" if source is None else f"{list(source.shape)}"
            raise ValueError(f"{name} is {list(value.shape)}, but its source is {there}")
        made[name] = source.clone()
    return made


def with_shared_noise(weights: Weights, paths: Sequence[str], std: float, seed: int) -> Weights:
    """Draws the shared experts' matrices from N(0, std^2); their biases are 0.

    At exactly zero both matrices of an expert have no gradient and it never learns. Each matrix has
    a chance of its own, keyed by seed and name. Source: facts: model.md sections 9 and 10 (1e-4).
    """
    made = dict(weights)
    for name, _, _ in _shared(weights, paths):
        value = weights[name]
        if value.dim() < 2:
            made[name] = torch.zeros_like(value)
            continue
        chance = generator(seed, name, 0, "upcycle shared")
        drawn = chance.standard_normal(tuple(value.shape), dtype=np.float32) * np.float32(std)
        made[name] = torch.from_numpy(drawn).to(value)
    return made


def with_dense_shared(
    weights: Weights, dense: Mapping[str, Tensor], paths: Sequence[str]
) -> Weights:
    """Makes the shared expert the dense MLP, too: with clones as routed experts, each layer then
    answers with twice what the dense MLP says.

    Raises ValueError where the shared expert is not as wide as the dense MLP. Source: the control
    run of arXiv 2605.19378, in which deadlocks were rare (facts: model.md section 9).
    """
    made = dict(weights)
    for name, path, part in _shared(weights, paths):
        source = dense[f"{path}.{part}"]
        if source.shape != weights[name].shape:
            raise ValueError(
                f"{name} is {list(weights[name].shape)}, but the dense MLP has {list(source.shape)}"
            )
        made[name] = source.clone()
    return made


def with_dropped_channels(
    weights: Weights, paths: Sequence[str], form: MlpForm, share: float, seed: int
) -> Weights:
    """Draws a share of the hidden channels of each routed expert anew, so that clones differ.

    floor(share * H) channels per expert; the same ones in w_in (gate and up, where gated), its bias
    and w_out. What is drawn comes from N(mean, std^2) of the very values that it replaces, apart
    for gate, up, out and biases. b_out belongs to no channel and stays. Which channels and what
    values is keyed by seed, layer and expert. Raises ValueError where the share is no channel.
    Source: Drop-Upcycling, arXiv 2502.19261, and its code, where the routed experts have no biases
    and each matrix has channels of its own: the same ones, as in its text, and the biases are
    moescope's reading.
    """
    made = dict(weights)
    for path in paths:
        w_in_EDG = weights[f"{path}.w_in_EDG"].clone()
        w_out_EHD = weights[f"{path}.w_out_EHD"].clone()
        b_in_EG = weights[f"{path}.b_in_EG"].clone() if f"{path}.b_in_EG" in weights else None
        hidden = w_out_EHD.shape[1]
        # the nearest float below a share such as 0.29 must not cost a channel
        num_dropped = int(share * hidden + 1e-9)
        if not num_dropped:
            raise ValueError(f"{share} of {hidden} hidden channels is none: drop a larger share")
        for expert in range(len(w_in_EDG)):
            chance = generator(seed, path, expert, "upcycle drop")
            channels = chance.choice(hidden, num_dropped, replace=False)
            dropped_n = torch.from_numpy(np.sort(channels)).to(w_in_EDG.device)
            # gate before up
            for first in (0, hidden) if is_gated(form) else (0,):
                _redraw(w_in_EDG[expert].t(), dropped_n + first, chance)
                if b_in_EG is not None:
                    _redraw(b_in_EG[expert], dropped_n + first, chance)
            _redraw(w_out_EHD[expert], dropped_n, chance)
        made |= {f"{path}.w_in_EDG": w_in_EDG, f"{path}.w_out_EHD": w_out_EHD}
        if b_in_EG is not None:
            made[f"{path}.b_in_EG"] = b_in_EG
    return made


def _redraw(rows: Tensor, which_n: Tensor, chance: np.random.Generator) -> None:
    """Replaces rows (a view of the weights) by normal numbers of the same mean and spread."""
    old = rows[which_n]
    drawn = chance.standard_normal(tuple(old.shape), dtype=np.float32)
    # spread over n, not n - 1: a single value has one, too
    std = old.std(correction=0)
    rows[which_n] = old.mean() + std * torch.from_numpy(drawn).to(old)


def _routed(dense: Mapping[str, Tensor], path: str, part: str, num_experts: int) -> Tensor | None:
    """Returns what stands for all routed experts, expanded over them; None for an unknown part."""
    of = {
        "w_in_EDG": "w_in.weight",
        "w_out_EHD": "w_out.weight",
        "b_in_EG": "w_in.bias",
        "b_out_ED": "w_out.bias",
    }
    source = dense.get(f"{path}.{of[part]}") if part in of else None
    if source is None:
        return None
    # a linear layer holds its matrix as outputs x inputs, stacked experts as inputs x outputs
    return source.t().expand(num_experts, *source.t().shape)


def _split(name: str, paths: Sequence[str]) -> tuple[str | None, str]:
    for path in paths:
        if name.startswith(f"{path}."):
            return path, name.removeprefix(f"{path}.")
    return None, name


def _shared(weights: Mapping[str, Tensor], paths: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yields (name, path, name below the layer's `shared`) of the shared experts' weights."""
    for name in weights:
        path, part = _split(name, paths)
        if path is not None and part.startswith("shared."):
            yield name, path, part.removeprefix("shared.")
