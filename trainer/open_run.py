"""Opens a run: a new one, one that goes on, or one that starts from another's weights; one
process at a time.
"""

import dataclasses
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..platform import leases
from ..platform.contact import LEASE_S, run_lease
from ..platform.errors import MoescopeError
from ..platform.frozen import difference, parsed
from ..platform.records import EventKind, Run, Segment
from ..platform.settings import Settings
from ..platform.store import Store
from .checkpoints.checkpoint import DamagedCheckpoint, checkpoint_folders, read_checkpoint
from .config import RunConfig

SHAPE_KEYS = (
    "model.",
    "moe.layer",
    "moe.num_experts",
    "moe.every",
    "moe.num_shared",
    "moe.hidden",
    "moe.expert",
    "moe.has_expert_bias",
    "moe.router",
    "moe.latent_",
    "noise_experts.num_experts",
    "noise_experts.is_learned",
    "noise_experts.shared_blocks",
    "data.num_mels",
    "data.latent",
)
MEANING_KEYS = ("objective.prediction",)
"""Keys that change what the weights stand for."""
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
    "data.latent_size",
    "data.latent_frames",
    "data.latent_channels",
)
"""Keys by which the same weights are read otherwise: cut into other heads and axes, put between
other activations, weighed by other scores, fed with other latents."""
MOST_TOLD = 3
"""Of the keys for which weights do not fit: a line is to be read."""
SWITCHING_KEYS = ("moe.bias_update_speed", "data.num_mel_steps", "data.num_text_bytes")
"""Keys of which the weights only know whether they are 0."""
RESOLUTION_KEYS = (
    "data.height",
    "data.width",
    "data.num_frames",
    "data.frames_per_s",
    "data.num_mel_steps",
)


def new_run(
    config: RunConfig, settings: Settings, name: str, run_id: str, device: str, code_version: str
) -> Run:
    """Returns the record of a run that starts now. Raises MoescopeError on an odd id."""
    now_s = time.time()
    run_id = run_id or new_run_id()
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}", run_id):
        raise MoescopeError(f"run id {run_id!r}: letters, digits, dots and dashes are allowed")
    return Run(
        id=run_id,
        name=name or f"{config.recipe}-{run_id[-6:]}",
        project=config.project,
        config=config.model_dump(mode="json"),
        status="running",
        device=device,
        code_version=code_version,
        created_s=now_s,
        heartbeat_s=now_s,
        mode=config.policy.mode,
        folder=str(settings.home_path / "runs" / run_id),
    )


def new_run_id() -> str:
    """Returns an id that sorts by time, as `20260131-140509-3fa2c1`."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{token_hex(3)}"


def resumed_run(old: Run, config: RunConfig, device: str) -> Run:
    """Returns the record of a run that goes on with this configuration.

    Raises MoescopeError where its folder is not here or where its weights would not fit.
    """
    if not Path(old.folder).is_dir():
        raise MoescopeError(
            f"run {old.name} keeps its checkpoints in {old.folder}, which is not on this machine"
        )
    differences = changes(old, config)
    for key, (before, after) in differences.items():
        if _is_of_shape(key, before, after):
            raise MoescopeError(
                f"{key} cannot change from {before} to {after} on a resume, as its weights were "
                f"trained so: {_way_out(key)}"
            )
        if key == "noise_experts.boundaries" and config.noise_experts.is_learned:
            raise MoescopeError(
                f"{key} cannot change on a resume, as the boundaries are learned: start a new run"
            )
    return dataclasses.replace(
        old,
        config=config.model_dump(mode="json"),
        status="running",
        heartbeat_s=time.time(),
        finished_s=None,
        mode=config.policy.mode if "policy.mode" in differences else old.mode,
        device=device,
    )


def changes(old: Run, config: RunConfig) -> dict[str, list[object]]:
    """Returns {dotted key: [old, new]} between what a run had and what it is to go on with."""
    stored = parsed(RunConfig, old.config, f"stored configuration of {old.name}")
    return {key: list(pair) for key, pair in difference(stored, config).items()}


def _way_out(key: str) -> str:
    if key == "moe.bias_update_speed":
        return "1e-12 holds the biases where they are"
    return "start a new run"


def _is_of_shape(key: str, before: object, after: object) -> bool:
    fixed = key.startswith(SHAPE_KEYS + MEANING_KEYS)
    return fixed or (key in SWITCHING_KEYS and (before == 0) != (after == 0))


def announced_changes(changed: dict[str, list[object]]) -> list[EventKind]:
    """Returns the events that changed keys announce to the detectors."""
    kinds: list[EventKind] = []
    if any(key.startswith(RESOLUTION_KEYS) for key in changed):
        kinds.append("resolution")
    if any(key.startswith("data.") and not key.startswith(RESOLUTION_KEYS) for key in changed):
        kinds.append("data_change")
    return kinds


def next_segment(store: Store, old: Run, config: RunConfig, step: int, parent: int) -> Segment:
    """Returns the segment that a resume at `step` from a checkpoint of segment `parent` opens."""
    changed = changes(old, config)
    return Segment(
        old.id,
        max((s.index for s in store.segments(old.id)), default=-1) + 1,
        step,
        "changed" if changed else "resume",
        time.time(),
        parent_segment=parent,
        parent_step=step - 1,
        changes=changed,
    )


def claim(store: Store, run: Run) -> str:
    """Makes this process the only one that trains the run; returns the holder's name for its
    heartbeats.

    Raises MoescopeError while another process does. A process of this machine that is gone is
    known to be.
    """
    host = socket.gethostname()
    holder = f"{host}:{os.getpid()}:{token_hex(3)}"
    name, now_s = run_lease(run.id), time.time()
    if leases.claim(store, name, holder, now_s, LEASE_S):
        return holder
    other = leases.holder(store, name, now_s) or ""
    other_host, _, rest = other.partition(":")
    pid = rest.partition(":")[0]
    if other_host == host and pid.isdigit() and not _is_alive(int(pid)):
        leases.release(store, name, other)
        if leases.claim(store, name, holder, now_s, LEASE_S):
            return holder
    raise MoescopeError(
        f"run {run.name} is still alive (process {pid} on {other_host} trains it): stop it first, "
        f"or wait {LEASE_S:.0f} s if that machine is gone"
    )


class Origin(NamedTuple):
    """Where the weights of a new run came from."""

    text: str
    """In words, what was passed over included."""
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
    root = Path(run.folder) / "checkpoints"
    tainted = {c.path for c in store.checkpoints(run.id) if c.health == "tainted"}
    faults = []
    for path in reversed(checkpoint_folders(root)):
        if str(path) in tainted:
            continue
        try:
            state = read_checkpoint(path)
        except DamagedCheckpoint as damage:
            faults.append(str(damage))
            continue
        averages = {
            name.removeprefix("average."): value
            for name, value in state["ema"].items()
            if name.startswith("average.")
        }
        weights = state["model"] | averages
        if "noise_experts.boundaries" in others and "theta_J" in weights:
            weights["theta_J"] = model.state_dict()["theta_J"]
        _load(model, weights, run, others)
        step = state["loop"]["step"]
        text = "; ".join([f"weights of run {run.name}, step {step}", *faults])
        return Origin(text, {"from_run": run.id, "from_name": run.name, "from_step": step})
    raise MoescopeError("; ".join([f"run {run.name} has no usable checkpoint in {root}", *faults]))


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
            if _is_of_shape(key, before, after)
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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
