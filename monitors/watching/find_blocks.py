"""Finds the blocks of a model of anybody's: the modules that its layers are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn

from ...platform.errors import MoescopeError, did_you_mean

MOST_BLOCKS = 256


@dataclass(frozen=True, slots=True)
class FoundBlocks:
    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    is_one_stack: bool
    """Whether they follow each other, as the entries of one list do."""


def find_blocks(
    model: nn.Module, not_blocks: Collection[int] = (), names: Sequence[str] | None = None
) -> FoundBlocks:
    """Returns the entries of the outermost lists of modules that have parameters, without lists of
    experts (`not_blocks`: their ids); where there is no list, the model's own parts.

    names: of the modules to take instead. Raises MoescopeError on a name that is no module.
    """
    modules = dict(model.named_modules())
    if names is not None:
        for name in names:
            if name not in modules or not name:
                hint = did_you_mean(name, modules)
                raise MoescopeError(f"blocks names {name!r}, which is no module of the model{hint}")
        return FoundBlocks(tuple(names), tuple(modules[name] for name in names), len(names) > 1)
    lists = [name for name, m in modules.items() if isinstance(m, nn.ModuleList)]
    # a stack of layers is a ModuleList mostly, and a Sequential beside it some small part
    wanted = lists or [name for name, m in modules.items() if isinstance(m, nn.Sequential)]
    stacks: list[str] = []
    for name in wanted:
        is_inside = any(name.startswith(f"{stack}.") for stack in stacks)
        is_stack = len(list(modules[name].children())) > 1 and id(modules[name]) not in not_blocks
        if name and is_stack and not is_inside:
            stacks.append(name)
    found = [
        (f"{stack}.{entry}", module)
        for stack in stacks
        for entry, module in modules[stack].named_children()
        if any(True for _ in module.parameters())
    ]
    if not found:
        found = [
            (name, child)
            for name, child in model.named_children()
            if any(True for _ in child.parameters()) and not isinstance(child, nn.Embedding)
        ]
    found = found[:MOST_BLOCKS]
    return FoundBlocks(
        tuple(name for name, _ in found), tuple(m for _, m in found), len(stacks) == 1
    )
