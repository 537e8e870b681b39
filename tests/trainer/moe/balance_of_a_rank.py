"""One rank of a step on a split batch; started by test_balance.py as a process of its own.

Its arguments: rank, number of ranks, a folder to meet in. Rank 0 writes what came out, beside the
same of a single forward of the joined batch.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from moescope.kernels.routing.reference import RoutingRule
from moescope.trainer.moe.balance import balance_loss, sum_over_ranks
from moescope.trainer.moe.expert_choice import BatchChoiceRouter
from moescope.trainer.moe.router import LinearRouter

# B batch  S stream tokens  D width

WIDTH, EXPERTS, CHOSEN = 16, 8, 2
NUM_MICRO = 2


def make_router() -> LinearRouter:
    """The same on every rank, and in the process that sees the joined batch."""
    torch.manual_seed(0)
    router = LinearRouter(WIDTH, EXPERTS, RoutingRule(CHOSEN), std=1.0, has_bias=True)
    assert router.bias_E is not None
    router.bias_E.normal_(std=0.1)
    return router


def make_batch_choice() -> BatchChoiceRouter:
    torch.manual_seed(0)
    return BatchChoiceRouter(WIDTH, EXPERTS, CHOSEN, "softmax", 1.0)


def joined_batch() -> Tensor:
    """Eight samples; the halves differ, so that counts of a part are not those of the whole."""
    generator = torch.Generator().manual_seed(1)
    x_BSD = torch.randn(8, 6, WIDTH, generator=generator)
    x_BSD[4:] += torch.randn(WIDTH, generator=generator)
    return x_BSD


def joined_step() -> dict[str, Tensor]:
    """One optimizer step in one forward, as one process would do it."""
    x_BSD, router = joined_batch(), make_router()
    routing = router(x_BSD)
    loss = balance_loss(routing.score_TE, routing.counts_E, CHOSEN)
    (gradient,) = torch.autograd.grad(loss, router.weight_ED)
    router.update_bias(routing.counts_E, 0.01, torch.ones(()))
    assert router.bias_E is not None
    # a cut-off is that of a forward, so that the same parts are looked at here
    choice, cutoffs = make_batch_choice(), []
    for part_BSD in x_BSD.chunk(2 * NUM_MICRO):
        predicted_TE = torch.sigmoid(choice.last(F.silu(choice.first(part_BSD.flatten(0, 1)))))
        # 12 tokens * 2 / 8 experts = 3
        cutoffs.append(predicted_TE.sort(dim=0, descending=True).values[2])
    return {
        "loss": loss.detach(),
        "gradient": gradient,
        "total": routing.counts_E,
        "bias": router.bias_E,
        "threshold": torch.stack(cutoffs).mean(0).detach(),
    }


def split_step(rank: int, num_ranks: int) -> dict[str, Tensor]:
    """One optimizer step on this rank's part, in two micro-batches."""
    part_BSD = joined_batch().chunk(num_ranks)[rank]
    micro = part_BSD.chunk(NUM_MICRO)
    router = make_router()
    with torch.no_grad():
        counts_ME = torch.stack([router(x_BSD).counts_E for x_BSD in micro])
    total_E = sum_over_ranks(counts_ME.sum(0))
    loss = torch.zeros(())
    for x_BSD in micro:
        routing = router(x_BSD)
        part = balance_loss(routing.score_TE, routing.counts_E, CHOSEN, total_E) / NUM_MICRO
        part.backward()
        loss += part.detach()
    gradient = router.weight_ED.grad
    assert gradient is not None
    for values in (loss, gradient):
        dist.all_reduce(values)
        values /= num_ranks
    router.update_bias(total_E, 0.01, torch.ones(()))

    choice = make_batch_choice()
    for x_BSD in micro:
        choice(x_BSD)
    choice.update_thresholds(torch.ones(()))
    assert router.bias_E is not None
    return {
        "loss": loss,
        "gradient": gradient,
        "total": total_E,
        "bias": router.bias_E,
        "so_far": sum_over_ranks(counts_ME.cumsum(0)),
        "threshold": choice.threshold_E,
    }


def main() -> None:
    rank, num_ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=num_ranks
    )
    found = {"split": split_step(rank, num_ranks)}
    if rank == 0:
        torch.save({**found, "joined": joined_step()}, folder / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
