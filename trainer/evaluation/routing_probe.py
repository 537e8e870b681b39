"""Where the tokens of a probe go: who works with whom, who gets which tokens, what rounding
changes, and what has changed since a checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...kernels.routing.reference import ExpertChoice, Routing
from ...platform import catalogue
from ..model.noise_experts import NoiseExperts
from ..moe.experts import MoeLayer
from ..moe.latent import LatentMoe
from ..moe.steps import moe_layers
from ..numerics import exact
from .token_traits import NONE, Trait

# R routers of a layer (its heads)  T tokens, B * S  E experts  V values of a trait  M rows of all
# layers

Array = NDArray[np.float32]

TOKENS_PER_PASS = 64
"""Tokens of a pass, evenly spaced, whose choices are kept to be compared with later ones."""


class RoutingProbe:
    """Counts the choices of all routers in the passes of one probe.

        routing = RoutingProbe(model, num_samples)
        for drawn, traits in ...:
            with routing.watching(traits):
                model(...)
        values, kept = routing.read()

    Traits of single samples are not counted where a router sees only some of the samples, as in
    experts by noise level.
    """

    def __init__(self, model: nn.Module, num_samples: int) -> None:
        self._layers = moe_layers(model)
        self._num_samples = num_samples
        self._has_parts = isinstance(model, NoiseExperts)
        self._counts: list[dict[str, Tensor]] = [{} for _ in self._layers]
        self._kept: list[list[Tensor]] = [[] for _ in self._layers]

    @contextmanager
    def watching(self, traits: Mapping[str, Trait]) -> Iterator[None]:
        """Counts the routing of the forwards inside. traits: of the pass's tokens, under the names
        of the signals."""
        with ExitStack() as hooks:
            for index, layer in enumerate(self._layers):
                hooks.enter_context(layer.router.register_forward_hook(self._hook(index, traits)))
            yield

    def read(self) -> tuple[dict[str, Array], NDArray[np.bool_]]:
        """Returns the signals, and which experts the kept tokens went to, (M, tokens, E); waits for
        the device. Nothing without layers of experts."""
        if not self._layers:
            return {}, np.zeros((0, 0, 0), np.bool_)
        values: dict[str, Array] = {}
        # a layer that no token reached, as of an expert without a noise level, counts nothing
        zeros = {n: torch.zeros_like(f) for counts in self._counts for n, f in counts.items()}
        for name, none in zeros.items():
            found = torch.cat([counts.get(name, none) for counts in self._counts]).cpu().numpy()
            values[name] = _SHARES.get(name, _rows_share)(found)
        kept = [
            torch.cat([layer.tally.counts_RE.new_zeros(rows, 0, num).bool(), *taken], dim=1)
            .cpu()
            .numpy()
            for layer, taken in zip(self._layers, self._kept, strict=True)
            for rows, num in [layer.tally.counts_RE.shape]
        ]
        most = max(part.shape[1] for part in kept)
        # layers that saw fewer tokens are filled up with tokens that went nowhere
        filled = [np.pad(k, ((0, 0), (0, most - k.shape[1]), (0, 0))) for k in kept]
        return values, np.concatenate(filled)

    def _hook(self, index: int, traits: Mapping[str, Trait]) -> Callable[..., None]:
        layer = self._layers[index]

        @torch.no_grad()
        def count(router: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            goes_RTE = membership(output, layer)
            counts = self._counts[index]
            if isinstance(output, Routing):
                _add(counts, catalogue.FLIP_RATE, flips(layer, args))
            # a product in bf16 would round counts above 256
            with exact(goes_RTE.device):
                tally(counts, goes_RTE)
            num = min(TOKENS_PER_PASS, goes_RTE.shape[1])
            place_n = torch.arange(num, device=goes_RTE.device) * goes_RTE.shape[1] // max(1, num)
            self._kept[index].append(goes_RTE[:, place_n] > 0)

        def tally(counts: dict[str, Tensor], goes_RTE: Tensor) -> None:
            _add(counts, catalogue.CO_ACTIVATION, goes_RTE.transpose(1, 2) @ goes_RTE)
            for name, trait in traits.items():
                value_T = self._tokens_of(trait, goes_RTE.shape[1])
                if value_T is not None:
                    # a token without a value is in the last column, which is cut off
                    one_TV = F.one_hot(
                        torch.where(value_T == NONE, trait.num_values, value_T),
                        trait.num_values + 1,
                    )[:, :-1].float()
                    _add(counts, name, one_TV.T @ goes_RTE)
                else:
                    shape = (len(goes_RTE), trait.num_values, goes_RTE.shape[2])
                    _add(counts, name, goes_RTE.new_zeros(shape))

        return count

    def _tokens_of(self, trait: Trait, num_tokens: int) -> Tensor | None:
        """Returns the trait of each token of a router, (T,), or None where they cannot be told."""
        rows, known = trait.value_BS.shape
        samples = self._num_samples
        if num_tokens % samples or num_tokens // samples < known:
            return None
        if self._has_parts and rows > 1:
            return None
        told = trait.value_BS.new_full((rows, num_tokens // samples - known), trait.of_told)
        value_BS = torch.cat((told, trait.value_BS), dim=1)
        return value_BS.expand(samples, -1).reshape(-1)


def membership(output: Routing | ExpertChoice, layer: MoeLayer | LatentMoe) -> Tensor:
    """Returns which token goes to which expert, (R, T, E) fp32 of 0 and 1."""
    rows, num = layer.tally.counts_RE.shape
    if isinstance(output, ExpertChoice):
        goes_TE = output.score_TE.new_zeros(output.score_TE.shape, dtype=torch.float32)
        expert_N = torch.arange(num, device=goes_TE.device).repeat_interleave(output.counts_E)
        goes_TE[output.token_N, expert_N] = 1.0
        return goes_TE[None]
    # row t * R + r is part r of token t, with experts r * E + e
    chosen_TRK = output.chosen_TK.unflatten(0, (-1, rows)) % num
    goes_TRE = torch.zeros(*chosen_TRK.shape[:2], num, device=chosen_TRK.device)
    return goes_TRE.scatter_(2, chosen_TRK, 1.0).transpose(0, 1)


def flips(layer: MoeLayer | LatentMoe, args: tuple[Tensor, ...]) -> Tensor:
    """Returns (R, 2): tokens whose set of experts is another in bf16 than in fp32, and all; args:
    what the layer's router was called with."""
    router, is_exact = layer.router, layer.router.is_exact
    device = args[0].device
    answers = []
    try:
        for router.is_exact in (True, False):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                # not called: the hooks are not to count it
                answers.append(membership(router.forward(*args), layer))
    finally:
        router.is_exact = is_exact
    differs_RT = (answers[0] != answers[1]).any(-1)
    both_R2 = torch.stack((differs_RT.sum(1), torch.ones_like(differs_RT).sum(1)), dim=-1)
    return both_R2.float()


def _add(counts: dict[str, Tensor], name: str, found: Tensor) -> None:
    counts[name] = counts[name] + found if name in counts else found


def _rows_share(count: Array) -> Array:
    """Each row's entries over their sum; 0 in an empty row."""
    return _divided(count, count.sum(-1, keepdims=True))


def _diagonal_share(count_MEE: Array) -> Array:
    """N_ij / N_i. Source: facts, health.md section 4, 17 (OLMoE)."""
    return _divided(count_MEE, np.diagonal(count_MEE, axis1=1, axis2=2)[..., None])


def _flip_share(count_M2: Array) -> Array:
    return _divided(count_M2[:, 0], count_M2[:, 1])


def _divided(part: Array, whole: Array) -> Array:
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


_SHARES = {catalogue.CO_ACTIVATION: _diagonal_share, catalogue.FLIP_RATE: _flip_share}


def saturation(now_MTE: NDArray[np.bool_], then_MTE: NDArray[np.bool_]) -> Array:
    """Share of the choices of `then` that still are made, (M,); 0 without tokens. Source: facts,
    health.md section 4, 17 (OLMoE)."""
    kept_M = (now_MTE & then_MTE).sum((1, 2)).astype(np.float32)
    return _divided(kept_M, then_MTE.sum((1, 2)).astype(np.float32))
