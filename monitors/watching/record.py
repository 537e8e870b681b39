"""The record of a watched run in the store: of a new one, or of one that goes on."""

import dataclasses
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...platform import catalogue
from ...platform.claims import new_run_id
from ...platform.errors import MoescopeError
from ...platform.records import Run
from ...platform.series import read_series
from ...platform.store import Store

if TYPE_CHECKING:
    from .assembly import Asked

SHAPE_KEYS = ("model", "parameters", "optimizer", "routers", "num_experts", "blocks")
"""What a run must have as before to go on: its states and its series are made of it."""


def run_to_resume(store: Store, name: str, resume: bool | str) -> Run | None:
    """Returns the run that is to go on: the one called `name` for True, where there is one; the
    named one for a text. Raises MoescopeError where that cannot be.
    """
    if not resume:
        return None
    if resume is True:
        if not name:
            raise MoescopeError("resume is True, but the run has no name: give name=, or resume=ID")
        known = [run for run in store.runs(include_archived=True) if name in (run.name, run.id)]
        old = known[0] if known else None
    else:
        old = store.find_run(resume)
        if name not in ("", old.name):
            raise MoescopeError(
                f"name is {name}, but the run to be resumed is called {old.name}: leave name out"
            )
    if old is not None and "watched" not in old.config:
        raise MoescopeError(
            f"run {old.name} is no watched one: moescope train --resume {old.name} goes on with it"
        )
    return old


def new_run(store: Store, asked: "Asked", device: torch.device) -> Run:
    """Raises MoescopeError where the name is taken: whoever looks for it would find two runs."""
    if asked.name:
        for other in store.runs(include_archived=True):
            if asked.name in (other.name, other.id):
                raise MoescopeError(
                    f"there is a run called {asked.name} already ({other.id}, {other.status}): "
                    "resume=True goes on with it, another name or none begins another one"
                )
    now_s, run_id = time.time(), new_run_id()
    model = type(asked.model).__name__
    return Run(
        id=run_id,
        name=asked.name or f"{model.lower()}-{run_id[-6:]}",
        project=asked.project,
        # where runs of our own have their recipe
        config={"recipe": f"watched {model}", "watched": _described(asked)},
        status="running",
        device=_device_name(device),
        code_version=version("moescope"),
        created_s=now_s,
        heartbeat_s=now_s,
        mode=asked.mode or ("advisory" if asked.objects is None else "on"),
        folder=str(asked.settings.home_path / "runs" / run_id),
    )


def resumed_run(old: Run, asked: "Asked", device: torch.device) -> Run:
    """Raises MoescopeError where the training has another shape than the run had, or where the
    run's states are not here."""
    before, after = old.config["watched"], _described(asked)
    for key in SHAPE_KEYS:
        if before.get(key) != after[key]:
            raise MoescopeError(
                f"run {old.name} cannot go on with another {key}: {_short(after[key])}, and it had "
                f"{_short(before.get(key))}: use that, or begin another run with another name"
            )
    if asked.objects is not None and before["state"]:
        _refuse_other_state(old, before["state"], after["state"])
        if not Path(old.folder).is_dir():
            raise MoescopeError(
                f"run {old.name} keeps its states in {old.folder}, which is not on this machine"
            )
    mode = asked.mode or old.mode
    return dataclasses.replace(
        old,
        config={**old.config, "watched": after},
        status="running",
        heartbeat_s=time.time(),
        finished_s=None,
        mode="advisory" if mode == "on" and asked.objects is None else mode,
        device=_device_name(device),
    )


def steps_recorded(store: Store, run: Run) -> int:
    """Steps that the run has taken in the history that it was in when it ended."""
    steps = read_series(store, run.id, catalogue.LOSS_TOTAL)
    if not len(steps.steps):
        return 0
    return int(steps.steps[steps.segments == steps.segments.max()].max()) + 1


def _described(asked: "Asked") -> dict[str, Any]:
    found = asked.found.routers
    return {
        "model": type(asked.model).__name__,
        "parameters": sum(p.numel() for p in asked.model.parameters()),
        "optimizer": ", ".join(type(one).__name__ for one in asked.optimizers),
        "routers": [router.name for router in found],
        "num_experts": found[0].num_experts if found else 0,
        "blocks": list(asked.blocks.names),
        "sample_every": asked.sample_every,
        "state": list(asked.objects or ()),
    }


def _refuse_other_state(old: Run, before: Sequence[str], after: Sequence[str]) -> None:
    missing = [name for name in before if name not in after]
    more = [name for name in after if name not in before]
    if missing or more:
        raise MoescopeError(
            f"run {old.name} cannot go on with another state: its states hold {', '.join(before)}, "
            f"and here are {', '.join(after)}: give state= the same objects, by the same names"
        )


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} ({', '.join(map(str, value[:2]))}{', ...' if value[2:] else ''})"
    return str(value)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
