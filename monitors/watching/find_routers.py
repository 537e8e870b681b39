"""Finds routers and their experts in a model of anybody's, by structure: a matrix with a row for
each expert beside a list of so many modules, or beside weights with so many slices.

E experts  D width
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ...platform.errors import MoescopeError, did_you_mean
from .answers import Scores

_NUM_CHOSEN = (
    *("top_k", "num_experts_per_tok", "num_experts_per_token", "topk", "k", "num_chosen"),
    *("moe_top_k", "num_selected", "num_selected_experts", "n_activated_experts", "experts_top_k"),
)
"""What attributes are called that say how many experts a token goes to."""
_ROUTER_WORDS = ("gate", "rout", "switch")
_NOT_EXPERTS = ("norm", "attention", "attn", "embedding")
"""Classes of parts that blocks have and experts do not."""
_CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)
"""Their kernels have three dimensions, too."""
ExpertList = nn.ModuleList | nn.ModuleDict


@dataclass(frozen=True, slots=True)
class FoundRouter:
    name: str
    module: nn.Module
    num_experts: int
    num_chosen: int | None
    """None: nobody said it; it is measured at the first step."""
    scores: Scores
    expert_list: ExpertList | None
    """The experts, where each is a module of its own."""
    matrices: tuple[nn.Parameter, ...]
    """A weight of all experts, (E, ...), or one of each expert."""

    @property
    def experts(self) -> list[nn.Module]:
        """Those that are modules of their own, in order; or none."""
        return [] if self.expert_list is None else _entries(self.expert_list)


@dataclass(frozen=True, slots=True)
class Found:
    routers: tuple[FoundRouter, ...]
    left: tuple[str, ...]
    """Lines about what looks like experts and is not watched, and why."""


def find_routers(
    model: nn.Module, names: Sequence[str] | None = None, top_k: int | None = None
) -> Found:
    """Returns the routers of a model in its own order.

    names: of modules that are routers, whatever they look like; None: they are looked for. top_k:
    experts that a token goes to, where no attribute says it. Routers of other numbers of experts
    than most are left. Raises MoescopeError on a name that is no module of the model.
    """
    modules = dict(model.named_modules())
    left: list[str] = []
    if names is not None:
        found = [_named(name, modules, top_k) for name in names]
    else:
        found = list(_looked_for(modules, top_k, left))
    widths = Counter(router.num_experts for router in found)
    if len(widths) > 1:
        usual = widths.most_common(1)[0][0]
        odd = [router for router in found if router.num_experts != usual]
        left += [f"{r.name}: has {r.num_experts} experts, most routers {usual}" for r in odd]
        found = [router for router in found if router.num_experts == usual]
    return Found(tuple(found), tuple(left))


def _named(name: str, modules: Mapping[str, nn.Module], top_k: int | None) -> FoundRouter:
    if name not in modules or not name:
        raise MoescopeError(
            f"routers names {name!r}, which is no module of the model{did_you_mean(name, modules)}"
        )
    module = modules[name]
    inner = ((f"{name}.{n}.", part) for n, part in module.named_modules())
    held = (f"{where}{place}" for where, part in inner for place, _, _ in _experts_in(part))
    if _looks_like_experts(name.rpartition(".")[2]) or any(map(_looks_like_experts, held)):
        raise MoescopeError(
            f"routers names {name}, a {type(module).__name__} that holds the experts: name the "
            "module that answers with the logits; a router that is no module cannot be watched"
        )
    rows = [p.shape[0] for p in module.parameters() if p.dim() == 2]
    outs = [m.out_features for m in module.modules() if isinstance(m, nn.Linear)]
    num_experts = next(iter([*outs[-1:], *rows[-1:]]), 0)
    if num_experts < 2:
        raise MoescopeError(
            f"routers names {name}, a {type(module).__name__} without a matrix that has a row for "
            "each expert: name the module that answers with the logits"
        )
    for holder_name, holder in _upwards(name, modules):
        for _, experts, matrices in _experts_in(holder):
            if _count_of(experts, matrices) == num_experts:
                near = _near(name, modules)
                return _router(name, module, num_experts, experts, matrices, near, top_k)
        if not holder_name:
            break
    return _router(name, module, num_experts, None, (), _near(name, modules), top_k)


def _looked_for(
    modules: Mapping[str, nn.Module], top_k: int | None, left: list[str]
) -> Iterator[FoundRouter]:
    taken: set[int] = set()
    for name, holder in modules.items():
        for place, experts, matrices in _experts_in(holder):
            num_experts = _count_of(experts, matrices)
            where = f"{name}.{place}".strip(".")
            inside = {id(m) for m in (experts.modules() if experts is not None else ())}
            candidates = [
                (router_name, router)
                for router_name, router in _beside(name, modules, num_experts)
                if id(router) not in inside and all(part is not holder for part in router.modules())
            ]
            if not candidates:
                if _looks_like_experts(where) and id(holder) not in taken:
                    left.append(
                        f"{where}: {num_experts} experts, but no module beside them has a matrix "
                        f"with {num_experts} rows: name it with routers="
                    )
                continue
            candidates.sort(key=lambda pair: not _is_called_router(pair[0]))
            router_name, router = candidates[0]
            if not _is_called_router(router_name) and not _looks_like_experts(where):
                if experts is not None:
                    left.append(
                        f"{where}: {num_experts} modules beside {router_name}, which answers with "
                        f"as many numbers, but neither is called so: name it with routers="
                    )
                continue
            if id(router) in taken:
                continue
            taken |= {id(router), id(holder), *(id(m) for m in holder.children())}
            near = [*_near(router_name, modules), holder]
            yield _router(router_name, router, num_experts, experts, matrices, near, top_k)


def _experts_in(
    holder: nn.Module,
) -> Iterator[tuple[str, ExpertList | None, tuple[nn.Parameter, ...]]]:
    """What of a module may be experts: (name, list of modules or None, their matrices)."""
    for name, child in holder.named_children():
        if isinstance(child, ExpertList) and len(child) > 1 and _are_alike(_entries(child)):
            first = [next(expert.parameters()) for expert in _entries(child)]
            yield name, child, tuple(first)
    if isinstance(holder, _CONVOLUTIONS):
        return
    for name, matrices in holder.named_parameters(recurse=False):
        if matrices.dim() == 3 and matrices.shape[0] > 1:
            yield name, None, (matrices,)
            return


def _entries(experts: ExpertList) -> list[nn.Module]:
    return list(experts.values() if isinstance(experts, nn.ModuleDict) else experts)


def _are_alike(experts: Sequence[nn.Module]) -> bool:
    """Whether all entries are of one class with parameters, and none has parts of a block."""
    if len({type(expert) for expert in experts}) > 1:
        return False
    parts = [type(part).__name__.lower() for part in experts[0].modules()]
    if any(word in part for part in parts for word in _NOT_EXPERTS):
        return False
    return all(any(True for _ in expert.parameters()) for expert in experts)


def _beside(
    holder_name: str, modules: Mapping[str, nn.Module], num_experts: int
) -> list[tuple[str, nn.Module]]:
    """Modules near the holder of experts that own a matrix (E, D): below it, else below the module
    that it lies in."""
    for name, holder in list(_upwards(holder_name, modules))[:2]:
        found = [
            (f"{name}.{inner}".strip("."), module)
            for inner, module in holder.named_modules()
            if inner and inner.count(".") < 3 and _has_row_each(module, num_experts)
        ]
        if found:
            return found
    return []


def _has_row_each(module: nn.Module, num_experts: int) -> bool:
    matrices = [p for p in module.parameters(recurse=False) if p.dim() == 2]
    is_table = isinstance(module, nn.Embedding)
    return not is_table and any(matrix.shape[0] == num_experts for matrix in matrices)


def _router(
    name: str,
    module: nn.Module,
    num_experts: int,
    experts: ExpertList | None,
    matrices: tuple[nn.Parameter, ...],
    near: Sequence[nn.Module],
    top_k: int | None,
) -> FoundRouter:
    """near: the router, what it lies in and what holds the experts: who may say more of it."""
    known = [k for k in (_num_chosen(part, num_experts) for part in near) if k is not None]
    num_chosen = top_k if top_k is not None else (known[0] if known else None)
    is_sigmoid = any(
        hasattr(part, "e_score_correction_bias")
        or "sigmoid" in str(getattr(part, "scoring_func", getattr(part, "score_func", ""))).lower()
        for part in near
    )
    scores: Scores = "sigmoid" if is_sigmoid else "softmax"
    return FoundRouter(name, module, num_experts, num_chosen, scores, experts, matrices)


def _near(name: str, modules: Mapping[str, nn.Module]) -> list[nn.Module]:
    return [module for _, module in list(_upwards(name, modules))[:3]]


def _num_chosen(module: nn.Module, num_experts: int) -> int | None:
    for part in (module, getattr(module, "config", None), getattr(module, "rule", None)):
        for word in _NUM_CHOSEN:
            value = getattr(part, word, None)
            if isinstance(value, int) and 1 <= value <= num_experts:
                return value
    return None


def _upwards(name: str, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """The module itself and those that it lies in, innermost first."""
    while True:
        if name in modules:
            yield name, modules[name]
        if not name:
            return
        name = name.rpartition(".")[0]


def _count_of(experts: ExpertList | None, matrices: Sequence[nn.Parameter]) -> int:
    return len(experts) if experts is not None else matrices[0].shape[0]


def _looks_like_experts(name: str) -> bool:
    return "expert" in name.lower()


def _is_called_router(name: str) -> bool:
    last = name.lower().split(".")[-2:]
    return any(word in part for part in last for word in _ROUTER_WORDS)
