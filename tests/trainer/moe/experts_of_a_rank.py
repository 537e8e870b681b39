"""One rank of two optimizer steps of layers of experts; started by test_experts_of_ranks.py as a
process of its own.

Its arguments: rank, number of ranks, a folder to meet in. Each rank writes what came out for it.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moescope.platform.frozen import changed
from moescope.trainer.config import RunConfig
from moescope.trainer.moe.experts import MoeLayer
from moescope.trainer.moe.make import make_moe
from moescope.trainer.moe.router import LinearRouter
from moescope.trainer.moe.steps import ExpertSteps
from moescope.trainer.recipes.stream import tiny

# B batch  S stream tokens  D width  E experts  L layers

WIDTH, EXPERTS, CHOSEN, SAMPLES, TOKENS, LAYERS = 16, 8, 2, 8, 12, 2
RATE = 0.01


def make_config(balance_scope: str = "global_batch") -> RunConfig:
    return changed(
        tiny(),
        {
            "model.width": WIDTH,
            "model.heads": 1,
            "model.rotary": "none",
            "moe.router": "softmax",
            "moe.num_experts": EXPERTS,
            "moe.num_chosen": CHOSEN,
            "moe.hidden": 12,
            "moe.bias_update_speed": 0.01,
            "moe.balance_weight": 0.5,
            "moe.balance_scope": balance_scope,
            "moe.z_loss_weight": 0.1,
        },
    )


def make_layers(config: RunConfig) -> list[MoeLayer]:
    """Two layers, the same on every rank; their routers prefer some experts from the start."""
    torch.manual_seed(0)
    layers = []
    for _ in range(LAYERS):
        layer = make_moe(config)
        assert isinstance(layer, MoeLayer)
        nn.init.normal_(router_of(layer).weight_ED, std=0.5)
        bias_of(layer).normal_(std=0.05)
        layers.append(layer)
    return layers


def router_of(layer: MoeLayer) -> LinearRouter:
    assert isinstance(layer.router, LinearRouter)
    return layer.router


def bias_of(layer: MoeLayer) -> Tensor:
    bias_E = router_of(layer).bias_E
    assert bias_E is not None
    return bias_E


def joined_batch() -> Tensor:
    """The halves differ, so that counts of a rank are not those of all."""
    chance = torch.Generator().manual_seed(1)
    x_BSD = torch.randn(SAMPLES, TOKENS, WIDTH, generator=chance)
    x_BSD[SAMPLES // 2 :] += 0.5 * torch.randn(WIDTH, generator=chance)
    return x_BSD


def two_steps(x_BSD: Tensor, config: RunConfig) -> dict[str, Tensor]:
    """Takes two optimizer steps of plain gradient descent, gradients averaged over the ranks where
    there are any, and holds a third one back. Returns each step's losses, gradients, counts and
    biases by name and step."""
    layers = make_layers(config)
    model = nn.Sequential(*layers)
    steps = ExpertSteps(model, config.moe)
    found: dict[str, Tensor] = {}
    for step in range(3):
        steps.start()
        out_BSD = model(x_BSD)
        extra = steps.loss()
        assert extra is not None
        objective = out_BSD.square().mean() + extra
        objective.backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            if dist.is_initialized():
                dist.all_reduce(weight.grad)
                weight.grad /= dist.get_world_size()
            found[f"{step} d_{name}"] = weight.grad.clone()
            with torch.no_grad():
                weight.sub_(weight.grad, alpha=RATE)
            weight.grad = None
        steps.end(torch.tensor(1.0 if step < 2 else 0.0))
        found[f"{step} extra"] = extra.detach()
        found[f"{step} objective"] = objective.detach()
        found[f"{step} counts_LE"] = torch.cat([layer.tally.counts_RE for layer in layers])
        found[f"{step} bias_LE"] = torch.stack([bias_of(layer) for layer in layers])
    return found


def main() -> None:
    rank, num_ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=num_ranks
    )
    found = two_steps(joined_batch().chunk(num_ranks)[rank], make_config())
    torch.save(found, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
