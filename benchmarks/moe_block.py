"""How fast a MoE block is: ours beside that of transformers, a loop over experts and a dense MLP.

The blocks are those of DSMoE-S-E16 and -E48 (facts: model.md 1.3); a step is forward and backward,
with gradients of the input and all weights. First every candidate has to give the same result and
the same gradients as ours. Then the candidates take turns, and each round gives one ratio per
candidate. CPU time of one thread, as other work may share the cores.

Of transformers' ways to compute experts, deepgemm and sonicmoe need CUDA, and batched_mm copies an
expert's weights for every row (7 GB for 1024 tokens), so that it takes part with few tokens only.
The dense MLP has the block's active parameters: a hidden layer of (1 + K) * H.

Memory comes in huge pages, as in `moescope train`; with THP_MEM_ALLOC_ENABLE=0 it does not.

    python benchmarks/moe_block.py
"""

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from moescope.kernels.choice import choose_expert_path
from moescope.kernels.compare import relative_error
from moescope.kernels.expert_mlp.op import expert_mlp
from moescope.kernels.expert_mlp.reference import Experts
from moescope.kernels.host_memory import use_huge_pages
from moescope.kernels.routing.op import route
from moescope.kernels.routing.reference import RoutingRule

# T tokens  D width  E experts  K chosen experts  H hidden

WIDTH = 384
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


class Shape(NamedTuple):
    num_experts: int
    num_chosen: int
    hidden: int
    groups: int

    def rule(self) -> RoutingRule:
        return RoutingRule(
            self.num_chosen, scale=2.0, num_groups=self.groups, num_chosen_groups=self.groups
        )


E16 = Shape(16, 2, 768, 2)
E48 = Shape(48, 5, 128, 1)
# tokens, dtype, rounds; products of bf16 take transformers seconds where a processor has none
CASES = [
    (E16, 64, torch.float32, 9),
    (E16, 1024, torch.float32, 15),
    (E16, 4096, torch.float32, 7),
    (E48, 1024, torch.float32, 9),
    (E16, 512, torch.bfloat16, 3),
]
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""Of relative errors. In bf16 the others add up a token's experts in bf16, ours in fp32."""


class OursBlock(nn.Module):
    """Router, experts and shared expert out of our kernels, with the weights of theirs."""

    def __init__(self, theirs: DeepseekV3MoE, shape: Shape) -> None:
        super().__init__()
        self.rule = shape.rule()
        experts, shared = theirs.experts, theirs.shared_experts
        self.router_ED = _copy(theirs.gate.weight)
        self.w_in_EDG = _copy(experts.gate_up_proj.transpose(1, 2))
        self.w_out_EHD = _copy(experts.down_proj.transpose(1, 2))
        self.shared_in_GD = _copy(torch.cat([shared.gate_proj.weight, shared.up_proj.weight]))
        self.shared_out_DH = _copy(shared.down_proj.weight)
        dtype = self.w_in_EDG.dtype
        self.path = choose_expert_path(torch.device("cpu"), dtype, WIDTH, shape.hidden).path

    def forward(self, x_TD: Tensor) -> Tensor:
        routing = route(F.linear(x_TD.float(), self.router_ED.float()), None, self.rule)
        routed_TD = expert_mlp(x_TD, routing, Experts(self.w_in_EDG, self.w_out_EHD), self.path)
        return routed_TD + swiglu(x_TD, self.shared_in_GD, self.shared_out_DH)

    def gradients(self) -> dict[str, Tensor]:
        return {
            "router": _gradient(self.router_ED),
            "w_in": _gradient(self.w_in_EDG).transpose(1, 2),
            "w_out": _gradient(self.w_out_EHD).transpose(1, 2),
            "shared_in": _gradient(self.shared_in_GD),
            "shared_out": _gradient(self.shared_out_DH),
        }


class LoopBlock(OursBlock):
    """The same with a plain loop over experts, as one would write it."""

    def forward(self, x_TD: Tensor) -> Tensor:
        routing = route(F.linear(x_TD.float(), self.router_ED.float()), None, self.rule)
        out_TD = torch.zeros_like(x_TD)
        # unbind: indexing a stack writes a gradient of the whole stack for each expert
        weights = zip(self.w_in_EDG.unbind(), self.w_out_EHD.unbind(), strict=True)
        for expert, (w_in_DG, w_out_HD) in enumerate(weights):
            token_n, k_n = torch.where(routing.chosen_TK == expert)
            gate_nH, up_nH = (x_TD[token_n] @ w_in_DG).chunk(2, dim=-1)
            y_nD = (F.silu(gate_nH) * up_nH) @ w_out_HD
            weighted_nD = y_nD * routing.weight_TK[token_n, k_n][:, None]
            out_TD = out_TD.index_add(0, token_n, weighted_nD.to(x_TD.dtype))
        return out_TD + swiglu(x_TD, self.shared_in_GD, self.shared_out_DH)


class TheirBlock(nn.Module):
    """The block of transformers with one of its ways to compute experts."""

    def __init__(self, block: DeepseekV3MoE, implementation: str) -> None:
        super().__init__()
        self.block = block
        self.implementation = implementation

    def forward(self, x_TD: Tensor) -> Tensor:
        self.block.config._experts_implementation = self.implementation
        out_TD: Tensor = self.block(x_TD[None])[0]
        return out_TD

    def gradients(self) -> dict[str, Tensor]:
        block, shared = self.block, self.block.shared_experts
        halves = (_gradient(shared.gate_proj.weight), _gradient(shared.up_proj.weight))
        return {
            "router": _gradient(block.gate.weight),
            "w_in": _gradient(block.experts.gate_up_proj),
            "w_out": _gradient(block.experts.down_proj),
            "shared_in": torch.cat(halves),
            "shared_out": _gradient(shared.down_proj.weight),
        }


class DenseMlp(nn.Module):
    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        super().__init__()
        hidden = (1 + shape.num_chosen) * shape.hidden
        self.w_in_GD = nn.Parameter(torch.randn(2 * hidden, WIDTH, dtype=dtype) / WIDTH**0.5)
        self.w_out_DH = nn.Parameter(torch.randn(WIDTH, hidden, dtype=dtype) / hidden**0.5)

    def forward(self, x_TD: Tensor) -> Tensor:
        return swiglu(x_TD, self.w_in_GD, self.w_out_DH)


def swiglu(x_TD: Tensor, w_in_GD: Tensor, w_out_DH: Tensor) -> Tensor:
    gate_TH, up_TH = F.linear(x_TD, w_in_GD).chunk(2, dim=-1)
    return F.linear(F.silu(gate_TH) * up_TH, w_out_DH)


def their_block(shape: Shape, dtype: torch.dtype) -> DeepseekV3MoE:
    rule = shape.rule()
    config = DeepseekV3Config(
        hidden_size=WIDTH,
        moe_intermediate_size=shape.hidden,
        n_routed_experts=shape.num_experts,
        num_experts_per_tok=rule.num_chosen,
        n_shared_experts=1,
        n_group=rule.num_groups,
        topk_group=rule.num_chosen_groups,
        routed_scaling_factor=rule.scale,
        norm_topk_prob=rule.is_normalised,
    )
    block = DeepseekV3MoE(config)
    for weight in block.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return block.to(dtype)


def main() -> None:
    torch.set_num_threads(1)
    print(
        f"machine: {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, 1 thread, huge pages: {os.environ[HUGE_PAGES]}"
    )
    for case in CASES:
        measure(*case)


def measure(shape: Shape, tokens: int, dtype: torch.dtype, rounds: int) -> None:
    torch.manual_seed(0)
    theirs = their_block(shape, dtype)
    ours = OursBlock(theirs, shape)
    candidates: dict[str, nn.Module] = {
        "moescope": ours,
        "transformers, grouped_mm": TheirBlock(theirs, "grouped_mm"),
        "transformers, eager": TheirBlock(theirs, "eager"),
        "loop over experts": LoopBlock(theirs, shape),
    }
    if dtype is torch.float32:
        candidates["dense MLP"] = DenseMlp(shape, dtype)
    if tokens <= 64:
        candidates["transformers, batched_mm"] = TheirBlock(theirs, "batched_mm")
    x_TD = torch.randn(tokens, WIDTH, dtype=dtype, requires_grad=True)
    upstream_TD = torch.randn(tokens, WIDTH, dtype=dtype)

    def step(block: nn.Module) -> Tensor:
        x_TD.grad = None
        for weight in block.parameters():
            weight.grad = None
        out_TD: Tensor = block(x_TD)
        out_TD.backward(upstream_TD)
        return out_TD

    print(
        f"{shape.num_experts} experts of {shape.hidden}, {shape.num_chosen} chosen, "
        f"{tokens} tokens, {str(dtype).removeprefix('torch.')}: {ours.path}, {rounds} rounds"
    )
    worst = compare(candidates, step, x_TD, BOUNDS[dtype])
    print(f"  same result and gradients: largest relative error {worst:.1e}")
    seconds, faults = take_turns(candidates, step, rounds)
    for name, of_name in seconds.items():
        low, median, high = np.percentile(seconds["moescope"] / of_name, [25, 50, 75])
        print(
            f"  {name:25s} {1000 * np.median(of_name):7.0f} ms"
            f" {tokens / np.median(of_name):7.0f} tokens/s {np.median(faults[name]):6.0f} faults"
            f" {kept_bytes(candidates[name], x_TD) / 2**20:6.1f} MiB kept"
            f"   moescope takes {median:.3f} of it ({low:.3f} to {high:.3f})"
        )


def compare(
    candidates: dict[str, nn.Module],
    step: Callable[[nn.Module], Tensor],
    x_TD: Tensor,
    bound: float,
) -> float:
    """Raises AssertionError unless all agree with ours; returns the largest relative error."""
    want: dict[str, Tensor] = {}
    worst = 0.0
    for block in candidates.values():
        out_TD = step(block)
        if isinstance(block, DenseMlp):
            continue
        got = {"out": out_TD, "x": _gradient(x_TD), **block.gradients()}
        want = want or {name: tensor.clone() for name, tensor in got.items()}
        for name, tensor in got.items():
            error = relative_error(name, want[name], tensor)
            assert error < bound, f"{name} differs by {error:.1e}, allowed is {bound:.1e}"
            worst = max(worst, error)
    return worst


def take_turns(
    candidates: dict[str, nn.Module], step: Callable[[nn.Module], Tensor], rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Returns each candidate's CPU seconds and page faults, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    faults: dict[str, list[int]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(rounds):
        first = turn % len(names)  # everybody follows everybody's place in turn
        for name in names[first:] + names[:first]:
            start_s, before = time.process_time(), _page_faults()
            step(candidates[name])
            seconds[name].append(time.process_time() - start_s)
            faults[name].append(_page_faults() - before)
    return {name: np.array(values) for name, values in seconds.items()}, faults


def kept_bytes(block: nn.Module, x_TD: Tensor) -> int:
    """Returns the bytes that a forward keeps for the gradient beside its input and the weights."""
    given = {tensor.untyped_storage().data_ptr() for tensor in (x_TD, *block.parameters())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out_TD = block(x_TD)
    assert out_TD.requires_grad  # alive until here, and with it what it keeps
    return sum(kept.values())


def _copy(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    if HUGE_PAGES not in os.environ:
        use_huge_pages()
        # torch has read the setting when it was imported: start anew
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
