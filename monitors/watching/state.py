"""Everything of a watched training that computes, as far as it was given: what a rollback puts
back."""

import copy
import io
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ...platform.errors import MoescopeError
from ..guard import Guard
from ..judge import Judge
from ..states.chance import random_state, set_random_state
from ..states.checkpoint import copied

_EMPTY: dict[torch.dtype, Tensor] = {}


@runtime_checkable
class Restorable(Protocol):
    """What can be part of a state: modules, optimizers, schedules, scalers, samplers, loaders."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


class WatchedState:
    """The given objects, the random generators, the guard and the judge's windows.

    What must remember (the policy's budget, the alerts) is not here, on purpose.
    """

    def __init__(
        self,
        model: nn.Module,
        objects: Mapping[str, Restorable],
        guard: Guard,
        judge: Judge,
    ) -> None:
        self.model = model
        self.objects = dict(objects)
        self.guard = guard
        self.judge = judge
        self.step = 0
        """The next step: how many were taken in the history that this state has."""
        self.batch = 0
        """The next batch, where the loop numbers them."""
        self.num_restored = 0
        """How often a state was put back as a whole."""

    @property
    def num_begun(self) -> int:
        """Optimizers that have made what they keep, which most do at their first step."""
        optimizers = [o for o in self.objects.values() if isinstance(o, torch.optim.Optimizer)]
        return sum(bool(one.state) for one in optimizers)

    def capture(self) -> dict[str, Any]:
        """Returns the live state: copy it before the next step."""
        return {
            "objects": {name: value.state_dict() for name, value in self.objects.items()},
            "guard": self.guard.state_dict(),
            "judge": self.judge.state_dict(),
            "loop": {"step": self.step, "batch": self.batch},
            "random": random_state(),
        }

    def misfit(self, state: Mapping[str, Any]) -> str:
        """Says what has grown or shrunk since a state was kept, so that it cannot be put back (a
        group of parameters that was added, a new layer); nothing where it can be."""
        for name, value in self.objects.items():
            was = state["objects"][name]
            if not isinstance(was, Mapping):
                continue
            if isinstance(value, torch.optim.Optimizer) and "param_groups" in was:
                before = [len(group["params"]) for group in was["param_groups"]]
                now = [len(group["params"]) for group in value.param_groups]
                if before != now:
                    return f"{name} has groups of {now} parameters, and had {before} then"
            elif isinstance(value, nn.Module) and (odd := was.keys() ^ value.state_dict().keys()):
                return f"{name} has {min(odd)} now or had it then, and not both"
        return ""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts everything back; the given state stays untouched. Raises MoescopeError where an
        object does not take back what it gave; what came before it has its state by then."""
        for name, value in self.objects.items():
            try:
                # a deep copy: optimizers and schedules keep what they are handed
                value.load_state_dict(copy.deepcopy(state["objects"][name]))
            except Exception as error:
                raise MoescopeError(
                    f"state {name} ({type(value).__name__}) does not take back what it gave "
                    f"({type(error).__name__}: {error})"
                ) from error
        for value in self.objects.values():
            if isinstance(value, torch.optim.Optimizer):
                value.zero_grad(set_to_none=True)
        self.guard.load_state_dict(state["guard"])
        self.judge.load_state_dict(state["judge"])
        self.step, self.batch = state["loop"]["step"], state["loop"]["batch"]
        set_random_state(state["random"])
        self.num_restored += 1


def named_objects(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    given: Mapping[str, Any] | Sequence[Any],
) -> dict[str, Restorable]:
    """Names model, optimizers and what else was given, each object once.

    Raises MoescopeError where one has no `state_dict` and `load_state_dict`.
    """
    pairs: list[tuple[str, Any]] = [("model", model)]
    pairs += [(f"optimizer{i or ''}", optimizer) for i, optimizer in enumerate(optimizers)]
    if isinstance(given, Mapping):
        pairs += [(str(name), value) for name, value in given.items()]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        pairs += [(f"{type(value).__name__}_{i}", value) for i, value in enumerate(given)]
    else:
        raise MoescopeError(
            f"state is a {type(given).__name__}: give a list of objects, or a mapping of names"
        )
    found: dict[str, Restorable] = {}
    for name, value in pairs:
        if any(value is other for other in found.values()):
            continue
        if not isinstance(value, Restorable):
            raise MoescopeError(
                f"state {name} is a {type(value).__name__} without state_dict and load_state_dict: "
                "leave it out, or give it both"
            )
        if name in found:
            raise MoescopeError(f"state has two objects called {name}: give each its own name")
        found[name] = value
    return found


def refuse_what_disks_do_not_hold(objects: Mapping[str, Restorable]) -> None:
    """Raises MoescopeError, with the object and the type, where `torch.load(weights_only=True)`
    would not read a state back."""
    for refused in not_held_by_disks(objects):
        raise MoescopeError(
            f"{refused}: leave it out, make its state_dict plain values and tensors, or keep "
            "states in memory alone with on_disk=False"
        )


def refuse_what_cannot_be_copied(objects: Mapping[str, Restorable]) -> None:
    """Raises MoescopeError, with the object, where no copy of its state can be made."""
    for name, value in objects.items():
        try:
            copied(_without_tensors(value.state_dict()))
        except Exception as error:
            raise MoescopeError(
                f"state {name} ({type(value).__name__}) cannot be copied ({type(error).__name__}: "
                f"{error}): leave it out, or make its state_dict plain values and tensors"
            ) from None


def not_held_by_disks(objects: Mapping[str, Restorable]) -> Iterator[str]:
    """Says of each object whose state `torch.load(weights_only=True)` would not read back what it
    is, in words. Tensors are left out of the trial, so that it costs no memory."""
    for name, value in objects.items():
        state = _without_tensors(value.state_dict())
        if not _refused_type(state):
            continue
        place, refused = next(
            (found for found in _refused_parts(state, "")), ("", type(state).__name__)
        )
        yield (
            f"state {name} ({type(value).__name__}) holds a {refused}"
            f"{f' at {place}' if place else ''}, which torch.load(weights_only=True) does not read"
        )


def _refused_type(value: Any) -> str:
    """What of a value cannot be written, or not be read back without executing code; or nothing."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except (pickle.PickleError, TypeError, AttributeError, RuntimeError) as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        return found.group(1) if found else type(value).__name__
    return ""


def _refused_parts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """The innermost parts that are refused, with where they are."""
    inner: Iterator[tuple[str, Any]] = iter(())
    if isinstance(value, Mapping):
        inner = ((f"{place}.{key}".strip("."), part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        inner = ((f"{place}[{i}]", part) for i, part in enumerate(value))
    for where, part in inner:
        if _refused_type(part):
            yield from _refused_parts(part, where)
            return
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    yield place, f"{module}{kind.__qualname__}"


def _without_tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        # one for all: a file of a thousand empty tensors takes a second to write and to read
        return _EMPTY.setdefault(value.dtype, torch.zeros(0, dtype=value.dtype))
    if type(value) in (dict, list, tuple):
        if isinstance(value, dict):
            return {key: _without_tensors(part) for key, part in value.items()}
        return type(value)(_without_tensors(part) for part in value)
    if isinstance(value, dict) and hasattr(value, "_metadata"):
        # a module's: an OrderedDict with a mark that pickles along
        return {key: _without_tensors(part) for key, part in value.items()}
    return value
