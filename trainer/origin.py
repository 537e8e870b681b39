"""Where a run's first state comes from, where it is not a fresh one: from another run's weights, or
from all of its state.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..monitors.states.checkpoint import DamagedCheckpoint, read_about, read_checkpoint
from ..monitors.states.sound import sound_folders
from ..platform.errors import MoescopeError
from ..platform.records import Run
from ..platform.store import Store
from .config import RunConfig
from .open_run import MEANING_KEYS, changes, is_of_shape, refuse_another_shape
from .optim.schedule import decay_begins_at
from .stored_config import stored_config

READING_KEYS = (
    "model.heads",
    "model.mlp",
    "model.rotary",
    "model.rope_base",
    "model.has_place_table",
    "model.class_tokens_from",
    "moe.expert",
    "moe.router",
    "moe.is_normalised",
    "moe.routed_scale",
    "data.latents",
    "data.captions",
    "data.latent_size",
    "data.latent_frames",
    "data.latent_channels",
)
"""Keys by which the same weights are read otherwise: cut into other heads and axes, put between
other activations, weighed by other scores, fed with other latents."""
MOST_TOLD = 3
"""Of the keys for which weights do not fit: a line is to be read."""


class Origin(NamedTuple):
    """Where the weights of a new run came from."""

    text: str
    """In words, what was passed over included, as "weights of run amber, step 200"."""
    details: dict[str, Any]
    """For the run's record: from_run, from_name, from_step."""


def load_weights(
    model: nn.Module, store: Store, name_or_id: str, config: RunConfig | None = None
) -> Origin:
    """Loads the averaged weights (EMA) of another run's newest readable checkpoint that is not
    tainted.

    config: the model's, where it may be another one than the run's; learned boundaries between
    noise experts are taken from it where it names others. Raises MoescopeError where there is no
    such checkpoint, where the weights would stand for something else, or where the shapes differ,
    naming the keys that make it so.
    """
    run = store.find_run(name_or_id)
    others = changes(run, config) if config else {}
    state, origin = saved_state(store, run, "weights")
    averages = {
        name.removeprefix("average."): value
        for name, value in state["ema"].items()
        if name.startswith("average.")
    }
    weights = state["model"] | averages
    if "noise_experts.boundaries" in others and "theta_J" in weights:
        weights["theta_J"] = model.state_dict()["theta_J"]
    _load(model, weights, run, others)
    return origin


def saved_state(
    store: Store, run: Run, what: str, step: int | None = None
) -> tuple[dict[str, Any], Origin]:
    """Reads a run's newest sound checkpoint (`sound_folders`), or the one of a step.

    what: is taken of it, in words. Raises MoescopeError where there is no such checkpoint, naming
    the steps of which there are some.
    """
    usable, faults = sound_folders(store, run)
    steps = []
    for path in reversed(usable):
        try:
            there = read_about(path)["step"]
            steps.append(there)
            if step not in (None, there):
                continue
            state = read_checkpoint(path)
        except DamagedCheckpoint as damage:
            faults.append(str(damage))
            continue
        text = "; ".join([f"{what} of run {run.name}, step {there}", *faults])
        return state, Origin(text, {"from_run": run.id, "from_name": run.name, "from_step": there})
    wanted = "" if step is None else f" of step {step} (there are: {sorted(steps)})"
    lack = f"run {run.name} has no usable checkpoint{wanted} in {run.folder}"
    raise MoescopeError("; ".join([lack, *faults]))


def branched_state(
    store: Store, name_or_id: str, step: int | None, config: RunConfig
) -> tuple[dict[str, Any], Origin]:
    """Reads the whole state of another run from which a new one goes on, with other keys: of its
    newest usable checkpoint, or that of `step`.

    Raises MoescopeError where there is none, where the state does not fit, and where the learning
    rate of either would have begun to decay before: the branch would be no run that could have been
    planned.
    """
    run = store.find_run(name_or_id)
    refuse_another_shape(changes(run, config), config, "in a branch")
    state, origin = saved_state(store, run, "a branch", step)
    at = origin.details["from_step"]
    stored = stored_config(run.config, run.name)
    for of, who in ((stored, f"run {run.name}"), (config, "the branch")):
        decay = decay_begins_at(of)
        if decay is not None and decay < at:
            raise MoescopeError(
                f"the learning rate of {who} falls from step {decay} on, before the checkpoint of "
                f"step {at}: name an earlier one with --at, or change --steps or optim.decay_steps"
            )
    if at >= config.steps:
        raise MoescopeError(
            f"the branch would have {config.steps} steps, but it begins at step {at}: ask for more "
            "with --steps"
        )
    return state, origin


def _refuse_another_meaning(run: Run, others: Mapping[str, list[object]]) -> None:
    for key in (*MEANING_KEYS, *READING_KEYS):
        if key in others:
            before, after = others[key]
            raise MoescopeError(
                f"{key} is {after} here and {before} in run {run.name}, whose weights would stand "
                f"for something else: use {before} (without a recipe all its keys are taken)"
            )


def _load(
    model: nn.Module, weights: dict[str, Tensor], run: Run, others: Mapping[str, list[object]]
) -> None:
    mine = model.state_dict()
    odd = [
        name
        for name in mine.keys() | weights.keys()
        if name not in mine or name not in weights or mine[name].shape != weights[name].shape
    ]
    if odd:
        first = min(odd)
        shapes = [list(w[first].shape) if first in w else "absent" for w in (mine, weights)]
        keys = [
            f"{key} is {after} here and {before} there"
            for key, (before, after) in sorted(
                others.items(),
                # another family explains all the rest
                key=lambda change: (change[0] != "model.family", change[0]),
            )
            if is_of_shape(key, before, after)
        ]
        more = [f"{len(keys) - MOST_TOLD} keys more"] if len(keys) > MOST_TOLD else []
        tensor = f"{first} is {shapes[0]} here and {shapes[1]} there ({len(odd)} differ)"
        texts = "; ".join([*keys[:MOST_TOLD], *more, tensor])
        raise MoescopeError(
            f"the weights of run {run.name} do not fit: {texts}: use its keys (without a recipe "
            "all of them are taken)"
        )
    _refuse_another_meaning(run, others)
    model.load_state_dict(weights)
