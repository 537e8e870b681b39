"""The optimizer, and which parameters are on Muon, which decay and which do not."""

from typing import Any

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..model.attention import Attention
from ..model.cross_attention import CrossAttention
from ..model.mlp import Mlp
from ..model_config import is_gated
from ..moe.experts import MoeLayer
from .muon import Cut, MuonAdamW


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """Makes a fused AdamW over the parameters that want gradients, in the module's order; with
    optim.optimizer muon the hidden matrices are on Muon.

    Weight decay applies to the matrices that tokens are multiplied with (also the stacked ones of
    the experts); not to gains, biases, embeddings, tables, kind vectors and the router.

    The fused update reads two attributes of the optimizer, `found_inf` and `grad_scale`. With
    `found_inf` set to a tensor of 1.0 on the device, a step changes neither weights nor moments nor
    step counters, whatever the gradients hold; with 0.0 it is a usual step. The loop sets the
    learning rate in each group before a step.
    """
    o = config.optim
    hidden: list[nn.Parameter] = []
    decays: list[nn.Parameter] = []
    keeps: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if o.optimizer == "muon" and _is_hidden(name, parameter, config):
            hidden.append(parameter)
        else:
            (decays if _decays(name, parameter) else keeps).append(parameter)
    groups = [
        {"params": decays, "weight_decay": o.weight_decay},
        {"params": keeps, "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": o.learning_rate, "betas": (o.beta1, o.beta2), "eps": o.eps}
    if o.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True, **options)
    on_muon = {
        "params": hidden,
        "weight_decay": o.weight_decay,
        "is_muon": True,
        "momentum": o.muon_momentum,
    }
    return MuonAdamW([on_muon, *groups], fused_matrices(model), **options)


def fused_matrices(model: nn.Module) -> dict[Tensor, Cut]:
    """Returns how the parameters that hold several matrices are cut: queries, keys, values and
    gates of attention, gate and up of SwiGLU, the vectors of a modulation."""
    cuts: dict[Tensor, Cut] = {}
    for module in model.modules():
        if isinstance(module, Attention):
            cuts[module.qkv.weight] = Cut(0, tuple(rows for rows in module.rows if rows))
        elif isinstance(module, CrossAttention):
            cuts[module.key_value.weight] = _in_parts(module.key_value.weight, 0, 2)
        elif isinstance(module, Mlp) and is_gated(module.form):
            cuts[module.w_in.weight] = _in_parts(module.w_in.weight, 0, 2)
        elif isinstance(module, MoeLayer) and is_gated(module.config.expert):
            cuts[module.w_in_EDG] = _in_parts(module.w_in_EDG, 2, 2)
    for name, parameter in model.named_parameters():
        if name.endswith("modulation.linear.weight"):
            width = parameter.shape[1]
            cuts[parameter] = _in_parts(parameter, 0, parameter.shape[0] // width)
    return cuts


def _in_parts(parameter: Tensor, dim: int, num: int) -> Cut:
    return Cut(dim, (parameter.shape[dim] // num,) * num)


def _is_hidden(name: str, parameter: nn.Parameter, config: RunConfig) -> bool:
    """Whether a parameter is a matrix, or a stack of them, between hidden layers: of the blocks,
    without biases, tables and, unless asked for, routers and modulations. Source: facts: model.md
    section 7."""
    o = config.optim
    is_in_block = ".blocks." in f".{name}"
    exempt = [
        *("b_in_EG", "b_out_ED", "table_ND"),
        *([] if o.is_router_on_muon else ["router."]),
        *([] if o.is_modulation_on_muon else ["modulation."]),
    ]
    return is_in_block and parameter.dim() >= 2 and not any(part in name for part in exempt)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    exempt = (
        *("router.", "text_in.byte.", "text_in.gram.", "label_in.", "class_place"),
        *("kind_GD", "table_ND", "b_in_EG", "b_out_ED"),
    )
    return parameter.dim() >= 2 and not any(part in name for part in exempt)
