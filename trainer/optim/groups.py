"""AdamW with two groups of parameters: those that decay and those that do not."""

import torch
from torch import nn

from ..config import RunConfig


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """Makes a fused AdamW over the parameters that want gradients, in the module's order.

    Weight decay applies to the matrices that tokens are multiplied with (also the stacked ones of
    the experts); not to gains, biases, embeddings, tables, kind vectors and the router.

    The fused update reads two attributes of the optimizer, `found_inf` and `grad_scale`. With
    `found_inf` set to a tensor of 1.0 on the device, a step changes neither weights nor moments nor
    step counters, whatever the gradients hold; with 0.0 it is a usual step. The loop sets the
    learning rate in each group before a step.
    """
    o = config.optim
    decays: list[nn.Parameter] = []
    keeps: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decays if _decays(name, parameter) else keeps).append(parameter)
    groups = [
        {"params": decays, "weight_decay": o.weight_decay},
        {"params": keeps, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=o.learning_rate, betas=(o.beta1, o.beta2), eps=o.eps, fused=True
    )


def _decays(name: str, parameter: nn.Parameter) -> bool:
    exempt = (
        *("router.", "text_in.byte.", "text_in.gram.", "label_in.", "class_place"),
        *("kind_GD", "table_ND", "b_in_EG", "b_out_ED"),
    )
    return parameter.dim() >= 2 and not any(part in name for part in exempt)
