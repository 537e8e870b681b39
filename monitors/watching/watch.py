"""The door for other people's trainers: `moescope.watch(model, optimizer, name=..., store=...)`."""

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...platform.errors import MoescopeError
from ...platform.records import Mode
from ...platform.settings import Settings
from ..policy_limits import Limits
from .assembly import Asked, open_watch
from .find_blocks import find_blocks
from .find_routers import find_routers
from .limits import WatchKeeping
from .ranks import Line
from .said import found_lines
from .state import named_objects, refuse_what_cannot_be_copied, refuse_what_disks_do_not_hold
from .together import FollowingRun, follow, tell_run, telling_refusals
from .unwrapped import (
    compiled_part,
    plain_model,
    plain_optimizers,
    rank_and_number,
    refuse_state_of_ranks,
)
from .watched_run import WatchedRun

_WATCHED: "weakref.WeakKeyDictionary[torch.optim.Optimizer, str]" = weakref.WeakKeyDictionary()
"""{optimizer: name of the run that watches it}"""
_OPEN: dict[str, WatchedRun] = {}
"""{id: run} of this process that are not finished."""


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    *,
    name: str = "",
    store: str = "",
    state: Mapping[str, Any] | Sequence[Any] | None = None,
    routers: Sequence[str] | None = None,
    top_k: int | None = None,
    blocks: Sequence[str] | None = None,
    mode: Mode | None = None,
    resume: bool | str = False,
    start_step: int | None = None,
    project: str = "default",
    sample_every: int = 10,
    num_timesteps: int = 1000,
    on_disk: bool = True,
    limits: Limits | None = None,
    keeping: WatchKeeping | None = None,
    tell: Callable[[str], None] | None = None,
) -> WatchedRun | FollowingRun:
    """Watches a training of somebody else's: the signals, alerts and pages that runs of our own
    have. Call it when the model is on its device, before the first step.

    name: of the run, not yet taken in its store. store: `sqlite:///FILE` or `postgresql://...`;
    empty: that of MOESCOPE_STORE, or the one in MOESCOPE_HOME. state: what else computes (schedule,
    scaler, EMA, sampler), as objects with `state_dict` and `load_state_dict`; model and optimizer
    are in it by themselves. With it, also where it is empty, the run can be rolled back; left out,
    nothing is ever done to the training. routers, blocks: names of modules, instead of looking for
    them by structure. top_k: experts that a token goes to, where the model does not say it. mode:
    `on` acts, `advisory` says what it would do, `off`; left out, it is on with a state and advisory
    without. resume: True goes on with the run called `name` where there is one, and begins it where
    there is none; an id or a name goes on with that one. What is in `state=` is put back from its
    newest state on disk that can be trusted, and `num_steps` says how many steps it has; the
    policy's memory is kept. start_step: steps that the loop has behind it, where it has restored
    itself; then nothing is put back. sample_every: steps between looks at activations, routers and
    weights. num_timesteps: what `timestep` of `run.step` counts up to. on_disk: whether states are
    kept on disk, too, as `torch.load(weights_only=True)` reads them; else in host memory alone.
    limits, keeping: of the policy and of what is kept. tell: takes lines for a person; left out,
    they go to stderr.

    Several processes of torch.distributed each call it, with the same arguments, and `run.guard`
    and `run.step` alike: the first one is watched, and all get the same answers; a state cannot be
    given.

    Raises MoescopeError on whatever its caller can mend, in each process.
    """
    tell = tell or _to_stderr
    rank, num_ranks = rank_and_number()
    refuse_state_of_ranks(num_ranks, has_state=state is not None)
    settings = Settings() if not store else Settings().model_copy(update={"store": store})
    optimizers = plain_optimizers(optimizer)
    if resume:
        _finish_former(name if resume is True else resume, tell)
    for one in optimizers:
        if one in _WATCHED:
            raise MoescopeError(
                f"this optimizer is watched already, by run {_WATCHED[one]}: finish() that one "
                "first, or go on with it"
            )
    line = Line(rank, num_ranks) if num_ranks > 1 else None
    if rank and line is not None:
        return _entered(follow(line, optimizers, tell), optimizers)
    with telling_refusals(line):
        if start_step is not None and (not resume or start_step < 0):
            raise MoescopeError(
                f"start_step is {start_step}: give a number of steps, and resume= to go on with a "
                "run"
            )
        if sample_every < 1:
            raise MoescopeError(f"sample_every is {sample_every}: use 1 or more")
        bare = plain_model(model)
        found = find_routers(bare, routers, top_k)
        lists = {id(router.expert_list) for router in found.routers}
        found_blocks = find_blocks(bare, lists, blocks)
        compiled = compiled_part(model)
        for found_line in found_lines(found, found_blocks, compiled):
            tell(found_line)
        limits, keeping = limits or Limits(), keeping or WatchKeeping()
        objects = None
        if state is not None:
            objects = named_objects(bare, optimizers, state)
            refuse_what_cannot_be_copied(objects)
            if on_disk:
                refuse_what_disks_do_not_hold(objects)
        if mode == "on" and objects is None:
            raise MoescopeError("mode is on, but there is nothing to go back to: give state=")
        watched = open_watch(
            Asked(
                model=bare,
                optimizers=optimizers,
                found=found,
                blocks=found_blocks,
                objects=objects,
                settings=settings,
                name=name,
                project=project,
                mode=mode,
                resume=resume,
                start_step=start_step,
                sample_every=sample_every,
                num_timesteps=num_timesteps,
                has_hooks=not compiled,
                is_on_disk=on_disk,
                limits=limits,
                keeping=keeping,
                tell=tell,
                line=line,
            )
        )
        if line is not None:
            tell_run(line, watched)
    return _entered(watched, optimizers)


def _entered(
    watched: WatchedRun | FollowingRun, optimizers: Sequence[torch.optim.Optimizer]
) -> WatchedRun | FollowingRun:
    for one in optimizers:
        _WATCHED[one] = watched.name
        watched.closing.callback(_WATCHED.pop, one, None)
    if isinstance(watched, WatchedRun):
        _OPEN[watched.id] = watched
        watched.closing.callback(_OPEN.pop, watched.id, None)
    return watched


def _finish_former(wanted: str, tell: Callable[[str], None]) -> None:
    """Finishes the run of this process that is to be gone on with: a cell of a notebook that runs
    again has lost it."""
    for former in [run for run in _OPEN.values() if wanted and wanted in (run.name, run.id)]:
        tell(f"run {former.name} was not finished in this process: it is now")
        former.finish("stopped")


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"moescope: {line}\n")
    sys.stderr.flush()
