"""Makes a run of a network with experts out of a run that was trained without; nothing is written
unless both answer alike.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...monitors.states.keeping import Keeper
from ...monitors.states.sound import CHECKPOINTS
from ...platform.errors import MoescopeError
from ...platform.frozen import changed, difference
from ...platform.records import Checkpoint, Event, Run, Segment
from ...platform.settings import Settings
from ...platform.store import Store, open_store
from ..config import RunConfig
from ..counts.parameters import count_parameters
from ..data.classes import read_classes, write_classes
from ..data.shards import kept_encoding, write_encoding
from ..model.inputs import Inputs
from ..model.make import make_model
from ..open_run import new_run
from ..optim.ema import Ema
from ..origin import Origin, load_weights
from ..run import fresh_state
from ..stored_config import stored_config
from .check import MOST_DIFFERENCE, Difference, compare, comparison_passes
from .plan import UpcyclePlan, upcycled_config
from .weights import (
    Weights,
    clones,
    expert_paths,
    with_dense_shared,
    with_dropped_channels,
    with_shared_noise,
)

TAG = "upcycled"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far the network with experts is from the dense one."""

    clones: Difference
    """With a shared expert of zeros: there must be none."""
    doubled: float | None
    """With the dense MLP as the shared expert: how far a layer is from twice the dense answer; it
    must be within MOST_DIFFERENCE, too. Else None."""
    start: float
    """Of the flow, as the run starts."""
    says: str
    """In words: what makes the start differ, on purpose."""

    @property
    def is_equal(self) -> bool:
        """Whether all that must hold does."""
        return self.clones.is_none and (self.doubled is None or self.doubled <= MOST_DIFFERENCE)


@dataclass(frozen=True, slots=True)
class Upcycled:
    """What came of it."""

    origin: str
    compared_on: str
    """In words: real clips, or made inputs and why."""
    comparison: Comparison
    is_equal: bool
    total: int
    active: int
    dense_total: int
    dense_active: int
    run_id: str = ""
    """Empty where nothing was written."""
    name: str = ""
    folder: str = ""


def upcycle(
    settings: Settings,
    name_or_id: str,
    plan: UpcyclePlan,
    asked: Mapping[str, Any],
    *,
    name: str = "",
    is_trial: bool = False,
) -> Upcycled:
    """Writes a new run whose first checkpoint, of step 0, holds the upcycled averaged weights (EMA)
    of a dense run's newest usable checkpoint; `moescope train --resume` goes on with it.

    asked: {dotted key: value} of what else is to change. is_trial: compares and writes nothing.
    Raises MoescopeError on whatever its user can mend, and, unless it is a trial, where the
    networks do not answer alike; a failed one leaves no run behind.
    """
    settings.make_home()
    with open_store(settings.store_url) as store:
        dense_run = store.find_run(name_or_id)
        stored = stored_config(dense_run.config, dense_run.name)
        config = upcycled_config(stored, plan, asked, dense_run.name)
        # the same data as the new run, so that both see the same inputs
        dense = make_model(changed(config, {"moe.num_experts": 0}))
        origin = load_weights(dense, store, dense_run.id)
        passes, compared_on = comparison_passes(
            config, dense_run, is_folder_asked="data.folder" in asked
        )
        weights, comparison = _upcycled(config, plan, dense, passes)
        parameters, dense_parameters = count_parameters(config), count_parameters(stored)
        found = Upcycled(
            origin.text,
            compared_on,
            comparison,
            comparison.is_equal,
            total=parameters.total,
            active=parameters.active,
            dense_total=dense_parameters.total,
            dense_active=dense_parameters.active,
        )
        if is_trial:
            return found
        if not found.is_equal:
            raise MoescopeError(
                f"the network with experts does not answer as run {dense_run.name} does "
                f"({in_words(comparison)}; at most {MOST_DIFFERENCE:g} is allowed): "
                "nothing was written"
            )
        name = name or f"{dense_run.name}-{TAG}"
        run = new_run(config, settings, name, "", "cpu", version("moescope"))
        run = replace(run, status="stopped", finished_s=run.created_s, tags=(TAG,))
        _write(store, dense_run, run, config, weights, _changes(stored, config), origin, found)
        return replace(found, run_id=run.id, name=run.name, folder=run.folder)


def in_words(comparison: Comparison) -> str:
    """Says how far the clones are from the dense network, and twice its answer from the doubled."""
    alike, doubled = comparison.clones, comparison.doubled
    words = f"the flow differs by {alike.flow:.2g}, a layer by {alike.layers:.2g}"
    return words if doubled is None else f"{words}, twice a layer's answer by {doubled:.2g}"


def _upcycled(
    config: RunConfig, plan: UpcyclePlan, dense: nn.Module, passes: list[Inputs]
) -> tuple[Weights, Comparison]:
    """Returns the weights that training starts with, compared with the dense network's before and
    after what tells the experts apart."""
    model = make_model(config)
    paths = expert_paths(model)

    def differs(times: float = 1.0) -> Difference:
        model.load_state_dict(weights)
        return compare(dense, model, passes, times)

    weights = clones(dense.state_dict(), model.state_dict(), paths)
    alike, doubled, says = differs(), None, []
    if plan.shared_from == "dense":
        weights = with_dense_shared(weights, dense.state_dict(), paths)
        doubled = differs(times=2.0).layers
        says.append(
            "the shared expert is the dense MLP, too: each layer answers with twice what that "
            "says, so that the network does not answer as before"
        )
    elif plan.num_shared:
        weights = with_shared_noise(weights, paths, plan.shared_noise, config.seed)
        says.append(f"the shared expert starts at noise of {plan.shared_noise:g}")
    if plan.drop_share:
        form, share = config.moe.expert, plan.drop_share
        try:
            weights = with_dropped_channels(weights, paths, form, share, config.seed)
        except ValueError as fault:
            raise MoescopeError(f"--drop-share: {fault}") from None
        says.append(
            f"{share:g} of each expert's hidden channels are drawn anew, so that the network does "
            "not answer as before"
        )
    text = "; ".join(says) or "the experts are clones of the dense MLP"
    return weights, Comparison(alike, doubled, differs().flow, text)


def _write(
    store: Store,
    dense_run: Run,
    run: Run,
    config: RunConfig,
    weights: Weights,
    changes: dict[str, list[Any]],
    origin: Origin,
    found: Upcycled,
) -> None:
    """Writes the run as one that was stopped before its first step: all of it or nothing."""
    folder = Path(run.folder)
    details = {
        **origin.details,
        "changes": changes,
        "compared_on": found.compared_on,
        "comparison": asdict(found.comparison),
    }
    text = f"upcycled from {origin.text}: {found.comparison.says}"
    try:
        checkpoints = _first_checkpoint(run, config, weights)
        (folder / "config.json").write_text(config.model_dump_json(indent=2))
        # a class is known by the number that it was trained with
        write_classes(folder, read_classes(Path(dense_run.folder)))
        # and the latents of one VAE are not those of another
        encoding = kept_encoding(Path(dense_run.folder))
        if encoding is not None:
            write_encoding(folder, encoding)
        store.add_run(run)
        store.add_segment(Segment(run.id, 0, 0, "start", run.created_s, changes=changes))
        store.add_event(Event(run.id, 0, 0, time.time(), "note", text, details))
        for checkpoint in checkpoints:
            store.put_checkpoint(checkpoint)
    except BaseException as error:
        store.delete_run(run.id)
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise MoescopeError(
                f"run folder {folder} cannot be written ({error.strerror}): choose another home"
            ) from None
        raise


def _first_checkpoint(run: Run, config: RunConfig, weights: Weights) -> list[Checkpoint]:
    """Writes the state before the first step, which counts as certified, as that of any run."""
    state = fresh_state(config, torch.device("cpu"), run.id)
    state.model.load_state_dict(weights)
    state.ema = Ema(state.model, config.optim.ema_decay)
    faults: list[str] = []
    written: list[Checkpoint] = []
    keeper = Keeper(
        Path(run.folder) / CHECKPOINTS,
        config.checkpoint,
        config.policy.certify_after_steps,
        run.id,
        say=written.append,
        tell=faults.append,
        fail=faults.append,
    )
    try:
        keeper.first(state, segment=0)
    finally:
        keeper.close()
    if not written:
        raise MoescopeError("; ".join(faults) or "the first checkpoint was not written")
    return written


def _changes(old: RunConfig, new: RunConfig) -> dict[str, list[Any]]:
    return {key: list(pair) for key, pair in difference(old, new).items()}
