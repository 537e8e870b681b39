"""How many tokens each expert got in a step, from light hooks that stay: on the device where the
router says it, on the host where the experts are modules that see their tokens.

M routers  E experts
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .answers import counted
from .find_routers import FoundRouter


class Loads:
    """Counts until it is asked.

    A list of experts is looked at in the first step: where its modules see only the tokens that
    were sent to them, what they see is the truth from then on, whatever the router's logits say
    (capacity, biases, noise); where each sees all tokens, the router's answer is. `num_chosen` of a
    router that nobody told it follows from what its experts saw.
    """

    def __init__(
        self,
        routers: Sequence[FoundRouter],
        device: torch.device,
        *,
        is_counted: Callable[[], bool],
        on_fault: Callable[[str], None],
    ) -> None:
        num_experts = routers[0].num_experts if routers else 0
        self.num_chosen = [router.num_chosen or 1 for router in routers]
        self.counts_ME = torch.zeros(len(routers), num_experts, device=device)
        self._seen_ME = np.zeros((len(routers), num_experts), np.int64)
        self._tokens_M = np.zeros(len(routers), np.int64)
        self._routers = list(routers)
        self._by_experts = [False] * len(routers)
        self._is_first = True
        self._is_counted = is_counted
        self._on_fault = on_fault
        self._handles: list[Any] = []
        self._of_experts: dict[int, list[Any]] = {}
        for m, router in enumerate(routers):
            self._handles.append(router.module.register_forward_hook(self._router_hook(m)))
            if router.experts:
                self._of_experts[m] = [
                    expert.register_forward_pre_hook(self._expert_hook(m, e), with_kwargs=True)
                    for e, expert in enumerate(router.experts)
                ]

    def take(self) -> tuple[Tensor, NDArray[np.int64], list[bool]]:
        """Returns what was counted since the last call: on the device, on the host, and which rows
        the host has. The device's must be copied before the next forward."""
        if self._is_first and (self._tokens_M > 0).any():
            self._is_first = False
            self._choose_sources()
        seen_ME = self._seen_ME.copy()
        self._seen_ME[:], self._tokens_M[:] = 0, 0
        return self.counts_ME, seen_ME, list(self._by_experts)

    def begin(self) -> None:
        """Forgets what was counted on the device."""
        self.counts_ME.zero_()

    def close(self) -> None:
        for handle in (*self._handles, *(h for hs in self._of_experts.values() for h in hs)):
            handle.remove()
        self._handles.clear()
        self._of_experts.clear()

    def _choose_sources(self) -> None:
        for m, handles in list(self._of_experts.items()):
            router, num_tokens = self._routers[m], int(self._tokens_M[m])
            seen = int(self._seen_ME[m].sum())
            is_sparse = 0 < seen < num_tokens * router.num_experts
            self._by_experts[m] = is_sparse
            if is_sparse:
                if router.num_chosen is None:
                    self.num_chosen[m] = max(1, round(seen / num_tokens))
                continue
            for handle in handles:
                handle.remove()
            del self._of_experts[m]

    def _router_hook(self, m: int) -> Any:
        num_experts = self._routers[m].num_experts

        @torch.no_grad()
        def count(module: nn.Module, args: Any, output: Any) -> None:
            if not self._is_counted():
                return
            try:
                if self._is_first:
                    self._tokens_M[m] += _num_tokens(args, output)
                if not self._by_experts[m]:
                    counts_E = counted(output, num_experts, self.num_chosen[m])
                    if counts_E is not None:
                        self.counts_ME[m] += counts_E
            except Exception as error:  # a training of somebody else's goes on, whatever this does
                self._on_fault(f"{self._routers[m].name}: {type(error).__name__}: {error}")

        return count

    def _expert_hook(self, m: int, e: int) -> Any:
        def count(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._is_counted():
                x = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
                if x is not None and x.dim():
                    self._seen_ME[m, e] += x.shape[:-1].numel()

        return count


def _num_tokens(args: Any, output: Any) -> int:
    for value in (*(args or ()), output, *(output if isinstance(output, tuple | list) else ())):
        if isinstance(value, Tensor) and value.dim() > 1 and value.is_floating_point():
            return value.shape[:-1].numel()
    return 0
