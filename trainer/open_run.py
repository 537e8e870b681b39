"""Opens a run: a new one or one that goes on; one process at a time."""

import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path

from ..monitors.going_on import resumed_segment
from ..platform.claims import new_run_id
from ..platform.errors import MoescopeError
from ..platform.frozen import difference
from ..platform.records import EventKind, Run, Segment
from ..platform.settings import Settings
from ..platform.store import Store
from .config import RunConfig
from .stored_config import stored_config

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
    "data.captions",
    "optim.optimizer",
    "optim.is_router_on_muon",
    "optim.is_modulation_on_muon",
)
"""Keys of the shape of what a checkpoint holds: of weights, or of the optimizer's moments."""
MEANING_KEYS = ("objective.prediction",)
"""Keys that change what the weights stand for."""
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


def resumed_run(old: Run, config: RunConfig, device: str) -> Run:
    """Returns the record of a run that goes on with this configuration.

    Raises MoescopeError where its folder is not here or where its weights would not fit.
    """
    if not Path(old.folder).is_dir():
        raise MoescopeError(
            f"run {old.name} keeps its checkpoints in {old.folder}, which is not on this machine"
        )
    differences = changes(old, config)
    refuse_another_shape(differences, config, "on a resume")
    return dataclasses.replace(
        old,
        config=config.model_dump(mode="json"),
        status="running",
        heartbeat_s=time.time(),
        finished_s=None,
        mode=config.policy.mode if "policy.mode" in differences else old.mode,
        device=device,
    )


def refuse_another_shape(
    differences: Mapping[str, list[object]], config: RunConfig, when: str
) -> None:
    """Raises MoescopeError where a state of the old configuration does not go on with the new one.
    when: in words, as in "on a resume"."""
    for key, (before, after) in differences.items():
        if is_of_shape(key, before, after):
            raise MoescopeError(
                f"{key} cannot change from {before} to {after} {when}, as its weights were "
                f"trained so: {_way_out(key)}"
            )
        if key == "noise_experts.boundaries" and config.noise_experts.is_learned:
            raise MoescopeError(
                f"{key} cannot change {when}, as the boundaries are learned: start a new run"
            )


def changes(old: Run, config: RunConfig) -> dict[str, list[object]]:
    """Returns {dotted key: [old, new]} between what a run had and what it is to go on with."""
    stored = stored_config(old.config, old.name)
    return {key: list(pair) for key, pair in difference(stored, config).items()}


def _way_out(key: str) -> str:
    if key == "moe.bias_update_speed":
        return "1e-12 holds the biases where they are"
    return "start a new run"


def is_of_shape(key: str, before: object, after: object) -> bool:
    """Whether a checkpoint of one value of a key has no place in a run of the other."""
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
    return resumed_segment(store, old.id, step, parent, changes(old, config))
