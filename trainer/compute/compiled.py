"""Blocks through torch.compile, one by one; what is watched or depends on the routing stays
outside.
"""

import shutil

import torch
from torch import nn

from ...platform.errors import MoescopeError
from ..model.make import watched_blocks
from ..moe.steps import moe_layers

COMPILERS = ("c++", "g++", "clang++")


def compile_blocks(model: nn.Module) -> None:
    """Has each block's forward compiled when it first runs, blocks of one form together.

    Hooks sit on the blocks' calls and inside the layers of experts, which are left to eager code
    between two graphs: their rows depend on the routing, and fp32 grouped products do not compile.
    So a sampled step needs hooks but no other graph; only where clamped elements are counted there
    are two, a watched and a plain one. Raises MoescopeError where there is no C++ compiler.
    """
    if not any(map(shutil.which, COMPILERS)):
        raise MoescopeError(
            "compute.is_compiled is true, but there is no C++ compiler here, which torch.compile "
            "needs: install g++, or use compute.is_compiled=false"
        )
    # not as decorators: importing what compiles takes seconds, and few ask for it
    for layer in moe_layers(model):
        layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
    for block in watched_blocks(model):
        block.forward = torch.compile(block.forward)
