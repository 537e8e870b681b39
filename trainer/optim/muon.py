"""Muon: a matrix moves along its orthogonalised momentum, many matrices of one shape at a time."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# X matrices  R rows  C columns

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
LEAST_NORM = 1e-7
AT_ONCE = {"cpu": 2**19, "cuda": 2**26}
"""Elements of matrices that are worked on together: on a processor what its cache holds."""
UPDATE_RMS = 0.2
"""Of an update over the learning rate, about AdamW's, so that both share rate and decay."""


class Cut(NamedTuple):
    """How a parameter holds several matrices side by side."""

    dim: int
    sizes: tuple[int, ...]


class MuonAdamW(torch.optim.AdamW):
    """Muon for the groups with `is_muon`, AdamW for the others; one optimizer, one state.

    m = mu m + (1 - mu) g;  u = NS((1 - mu) g + mu m);  w = w - lr wd w - lr 0.2 sqrt(max(R, C)) u
    NS: five Newton-Schulz steps towards the nearest matrix of which all singular values are 1. A
    parameter of more than two dimensions is a stack of matrices, each orthogonalised by itself;
    what `cuts` names is split before that. As the fused AdamW, a step with `found_inf` of 1.0
    changes neither weights nor moments. Source: facts: model.md section 7 (Moonlight's factor;
    torch.optim.Muon with match_rms_adamw).
    """

    found_inf: Tensor | None = None

    def __init__(
        self, groups: list[dict[str, Any]], cuts: dict[Tensor, Cut], **options: Any
    ) -> None:
        """groups: as torch's, those of Muon with `is_muon` and `momentum`. options: AdamW's."""
        for group in groups:
            group.setdefault("is_muon", False)
            group.setdefault("momentum", 0.0)
        super().__init__(groups, fused=True, **options)
        self._cuts = cuts

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves all weights once. closure: none is taken."""
        assert closure is None, "a closure is not evaluated"
        groups = self.param_groups
        # AdamW's own step goes through all groups that it sees
        self.param_groups = [group for group in groups if not group["is_muon"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["is_muon"]:
                self._move(group)

    def _move(self, group: dict[str, Any]) -> None:
        moving = [p for p in group["params"] if p.grad is not None]
        directions = [self._direction(p, group["momentum"]) for p in moving]
        cut = [self._matrices(p, u) for p, u in zip(moving, directions, strict=True)]
        found = iter(orthogonalised(list(chain.from_iterable(cut))))
        for parameter in moving:
            rate = parameter.new_full((), group["lr"])
            # 0 where the step is held back: what is added is finite then, too
            rate = rate if self.found_inf is None else rate * (1.0 - self.found_inf)
            parameter.mul_(1.0 - rate * group["weight_decay"])
            for matrices in self._matrices(parameter, parameter):
                # of each matrix: parts of a fused one differ
                factor = UPDATE_RMS * max(matrices.shape[-2:]) ** 0.5
                matrices.addcmul_(next(found), -factor * rate)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Takes the gradient into the momentum and returns Nesterov's mixture of both."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            # AdamW, which reads this state back in, wants a counter in every entry
            state["step"] = torch.zeros((), device=parameter.device)
            state["momentum"] = torch.zeros_like(parameter)
        held = state["momentum"]
        state["step"] += 1.0 if self.found_inf is None else 1.0 - self.found_inf
        # selected and not multiplied: what is held back may be a NaN
        gradient = self._unless_held(gradient, held)
        held.lerp_(gradient, 1 - momentum)
        return gradient.lerp(held, momentum)

    def _unless_held(self, new: Tensor, old: Tensor) -> Tensor:
        if self.found_inf is None:
            return new
        return torch.where(self.found_inf > 0, old, new)

    def _matrices(self, parameter: nn.Parameter, values: Tensor) -> Sequence[Tensor]:
        """Returns views of what lies side by side in a parameter, or in values of its shape."""
        cut = self._cuts.get(parameter)
        return [values] if cut is None else values.split(cut.sizes, cut.dim)


def orthogonalised(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Returns each matrix U S V^T as about U V^T, in bf16; stacks (..., R, C) of one shape are
    worked on together.

    X = G / (|G| + 1e-7), then five times X = a X + (b A + c A^2) X with A = X X^T; wide rather than
    tall, on a processor as on a GPU. Source: facts: model.md section 7.
    """
    found: list[Tensor | None] = [None] * len(stacks)
    for members in _of_one_shape(stacks):
        rows, columns = stacks[members[0]].shape[-2:]
        flat = [stacks[i].bfloat16().reshape(-1, rows, columns) for i in members]
        stack_XRC = torch.cat(flat) if len(flat) > 1 else flat[0]
        num = max(1, AT_ONCE.get(stack_XRC.device.type, AT_ONCE["cpu"]) // (rows * columns))
        done = torch.cat([_newton_schulz(some_xRC) for some_xRC in stack_XRC.split(num)])
        for i, part in zip(members, done.split([len(f) for f in flat]), strict=True):
            found[i] = part.reshape(stacks[i].shape)
    return [part for part in found if part is not None]


def _newton_schulz(g_XRC: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    is_tall = g_XRC.shape[1] > g_XRC.shape[2]
    x_XRC = g_XRC.transpose(1, 2) if is_tall else g_XRC
    norm_X11 = torch.linalg.vector_norm(x_XRC, dim=(1, 2), keepdim=True)
    x_XRC = x_XRC / norm_X11.clamp_min(LEAST_NORM)
    for _ in range(NUM_ITERATIONS):
        a_XRR = x_XRC @ x_XRC.transpose(1, 2)
        a_XRR = torch.baddbmm(a_XRR, a_XRR, a_XRR, beta=b, alpha=c)
        x_XRC = torch.baddbmm(x_XRC, a_XRR, x_XRC, beta=a)
    return x_XRC.transpose(1, 2) if is_tall else x_XRC


def _of_one_shape(stacks: Sequence[Tensor]) -> Iterable[list[int]]:
    by_shape: dict[torch.Size, list[int]] = {}
    for i, stack in enumerate(stacks):
        by_shape.setdefault(stack.shape[-2:], []).append(i)
    return by_shape.values()
