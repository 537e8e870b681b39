"""What a step of the optimizer costs: Muon over stacked experts beside AdamW, and beside
torch.optim.Muon over single matrices.

The weights are those of `tiny` at width 192 with 16 experts in every second of 4 blocks.
torch.optim.Muon takes matrices only, so that each expert's, and each of a fused one's, is a
parameter of its own there; its AdamW has the rest. Nothing is timed before both have moved all
matrices alike.
"""

import torch
from torch import Tensor, nn
from turns import print_ratios

from moescope.platform.frozen import changed
from moescope.trainer.model.make import make_model
from moescope.trainer.optim.groups import fused_matrices, make_optimizer
from moescope.trainer.optim.muon import Cut
from moescope.trainer.recipes.stream import tiny

RATE = 1e-3
ROUNDS = 15
SIZES = {
    "model.width": 192,
    "model.layers": 4,
    "moe.num_experts": 16,
    "moe.hidden": 384,
    "optim.learning_rate": RATE,
    "optim.weight_decay": 0.1,
}
MOST_DIFFERENT = 0.05 * RATE
"""Theirs multiplies in bf16 (facts: model.md section 7); a step moves a weight by 0.2 * RATE."""


def ours(optimizer: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    config = changed(tiny(), {**SIZES, "optim.optimizer": optimizer})
    model = make_model(config)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model, make_optimizer(model, config)


def single_matrices(values: Tensor, cut: Cut | None) -> list[Tensor]:
    """The matrices that lie in a parameter or its gradient, copied one by one."""
    parts = [values] if cut is None else values.split(cut.sizes, cut.dim)
    singles = [
        matrix for part in parts for matrix in (part.unbind() if part.dim() == 3 else [part])
    ]
    return [matrix.detach().clone(memory_format=torch.contiguous_format) for matrix in singles]


def main() -> None:
    torch.set_num_threads(1)
    model, muon = ours("muon")
    _, adamw = ours("adamw")
    on_muon, *others = (group["params"] for group in muon.param_groups)
    cuts = fused_matrices(model)
    singles = []
    for parameter in on_muon:
        cut = cuts.get(parameter)
        for matrix, gradient in zip(
            single_matrices(parameter, cut), single_matrices(parameter.grad, cut), strict=True
        ):
            singles.append(nn.Parameter(matrix))
            singles[-1].grad = gradient
    theirs = torch.optim.Muon(
        singles, lr=RATE, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    rest = torch.optim.AdamW([p for group in others for p in group], lr=RATE, fused=True)

    def one_by_one() -> None:
        theirs.step()
        rest.step()

    muon.step()
    theirs.step()
    moved = [matrix for p in on_muon for matrix in single_matrices(p, cuts.get(p))]
    for got, want in zip(moved, singles, strict=True):
        assert float((got - want.detach()).abs().max()) < MOST_DIFFERENT, (
            "they move the weights otherwise"
        )
    print(
        f"{len(singles)} matrices, {sum(m.numel() for m in singles) / 1e6:.1f} M of "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
    )
    print_ratios(
        {"Muon, stacked": muon.step, "torch.optim.Muon": one_by_one, "AdamW": adamw.step}, ROUNDS
    )


if __name__ == "__main__":
    main()
