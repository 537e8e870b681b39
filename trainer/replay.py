"""Replays steps of a run from its saved states, with every tap on: the same data or other, as
recorded or in fp32.

Chance is keyed by (seed, sample, position), so that equal plans give equal bits on the same machine
with the same number of threads. It reads checkpoints and clips and writes nothing: the run may go
on training meanwhile.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..monitors.autopsy.record import Entry
from ..monitors.autopsy.replaying import Plan, Rounding, State
from ..monitors.states.checkpoint import (
    DamagedCheckpoint,
    checkpoint_folders,
    read_about,
    read_checkpoint,
)
from ..monitors.states.sound import CHECKPOINTS
from ..monitors.states.stamps import read_health
from ..monitors.step_record import scalar
from ..platform import catalogue
from ..platform.errors import MoescopeError
from ..platform.frozen import changed
from ..platform.records import Alert, Run
from .compute.gradients import step_gradients, step_losses
from .config import Device, RunConfig
from .data.batches import Batch, Batches
from .data.latents import seen
from .evaluation.flip_count import FlipCount
from .measure import Measure
from .moe.steps import ExpertSteps
from .numerics import policy_on
from .objective.timesteps import Draw, draw
from .optim.schedule import learning_rate
from .run import clips_for, device_of, fresh_state
from .scene import AT, BEFORE, incident_folder
from .stored_config import stored_config
from .update import apply_update

MARGIN_STEPS = 5
"""States younger than the onset less this are not taken for sound, where an older one is there."""
SHARE_OF_FREE = 0.8
"""Of a GPU's free memory that a replay may take."""
_GRIDS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LEAST_WEIGHTS = 256
"""A part with fewer weights may lie on a coarse grid by chance."""


@contextmanager
def open_replay(
    run: Run, alert: Alert, onset: int, device: Device | None = None
) -> Iterator["RunReplay"]:
    """Yields the replay of an alert's run. device: where it computes, if not where the run does.
    Raises MoescopeError where the run's folder or its data are not on this machine, or the device's
    memory is not enough for a second training beside the run."""
    if not Path(run.folder).is_dir():
        raise MoescopeError(f"run {run.name} keeps its states in {run.folder}, which is not here")
    config = stored_config(run.config, run.name)
    config = config if device is None else changed(config, {"device": device})
    clips = clips_for(config, run, None)
    # two more processes would be slower than the few batches that are wanted
    data = changed(config, {"data.workers": 0}).data
    with (
        Batches(clips, data, config.seed, ahead=0) as batches,
        _told_where_memory_ends(device_of(config)),
    ):
        yield RunReplay(run, alert, onset, config, batches)


@contextmanager
def _told_where_memory_ends(device: torch.device) -> Iterator[None]:
    """Turns what torch says of a full memory into a line for a person: the run that is examined may
    well hold most of the GPU."""
    if device.type == "cuda":
        # the run must not be the one that finds no memory any more
        free, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(SHARE_OF_FREE * free / total, device)
    try:
        yield
    except RuntimeError as error:
        # of a host's memory torch has no exception of its own
        is_full = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not is_full:
            raise
        other = ": try --device cpu, which is slower" if device.type != "cpu" else ""
        raise MoescopeError(
            f"the memory of {device} does not hold a second training beside what is there{other}"
        ) from error


class RunReplay:
    """See `monitors/autopsy/replaying.py` for what it promises."""

    def __init__(
        self, run: Run, alert: Alert, onset: int, config: RunConfig, batches: Batches
    ) -> None:
        self._run, self._config, self._batches = run, config, batches
        self._device = device_of(config)
        self._kept: dict[int, Batch] = {}
        self._folders = _states(run, alert, onset)
        self._saved: dict[State, dict[str, Any]] = {}

    @property
    def precision(self) -> str:
        policy = policy_on(self._device, self._config.compute)
        return "fp32" if policy.products == "float32" else str(policy)

    @property
    def has_exact_router(self) -> bool:
        return self._config.compute.has_exact_router

    @property
    def states(self) -> dict[State, int]:
        return {state: int(read_about(folder)["step"]) for state, folder in self._folders.items()}

    def learning_rate(self, step: int) -> float:
        return learning_rate(self._config, step)

    def do(self, plan: Plan) -> list[Entry]:
        config = self._config
        if plan.is_fp32:
            config = changed(config, {"compute.precision": "fp32"})
        state = fresh_state(config, self._device, self._run.id, ())
        saved = self._state(plan.state)
        # no rules here: what the judge remembers is of no use
        state.restore({**saved, "judge": state.judge.state_dict()})
        measure = Measure(state.model, config, self._device)
        experts = ExpertSteps(state.model, config.moe)
        entries: list[Entry] = []
        for turn in plan.turns:
            batch = self._batch(turn.batch, config)
            drawn = draw(config, config.seed, batch)
            values = {catalogue.DATA_BATCH: scalar(turn.batch)}
            if plan.is_trained:
                is_sampled = turn.step >= plan.taps_from
                rate = self._rate(turn.step, turn.learning_rate)
                for group in state.optimizer.param_groups:
                    group["lr"] = rate
                found = step_gradients(
                    state.model,
                    batch,
                    drawn,
                    config,
                    experts,
                    partial(_watching, measure, is_sampled),
                )
                norm, held = apply_update(
                    config, state, experts, measure, found.objective, is_sampled
                )
                measure.take(found.losses, found.extra, drawn, norm, held, is_sampled)
                values |= measure.read(is_sampled)
                values |= {catalogue.LEARNING_RATE: scalar(rate)}
                values |= {catalogue.GRAD_LAYER_NORM: measure.layer_norm_L}
            else:
                values |= self._judged(state.model, batch, drawn, config)
            entries.append(Entry(-1, turn.step, turn.batch, batch.names, batch.positions, values))
        return entries

    def roundings(self) -> list[Rounding]:
        if len(self._folders) < 2:
            return []
        before = _by_part(self._state("before")["model"])
        at = _by_part(self._state("at")["model"])
        return [
            Rounding(part, name, _share_on(before[part], grid), _share_on(at[part], grid))
            for name, grid in _GRIDS.items()
            for part in at
            if part in before and sum(w.numel() for w in at[part]) >= _LEAST_WEIGHTS
        ]

    def _state(self, state: State) -> dict[str, Any]:
        if state not in self._saved:
            if state not in self._folders:
                raise MoescopeError(f"there is no state {state} of this alert any more")
            self._saved[state] = read_checkpoint(self._folders[state])
        return self._saved[state]

    def _batch(self, number: int, config: RunConfig) -> Batch:
        if number not in self._kept:
            self._kept[number] = self._batches.get(number)
        return seen(self._kept[number], config, self._device)

    def _rate(self, step: int, recorded: float | None) -> float:
        """The learning rate in full: a record keeps it in fp32, and a replay wants every bit."""
        configured = learning_rate(self._config, step)
        if recorded is None or configured == 0:
            return configured if recorded is None else recorded
        full = configured * round(recorded / configured, 6)
        return full if np.float32(full) == np.float32(recorded) else recorded

    @staticmethod
    def _judged(
        model: torch.nn.Module, batch: Batch, drawn: Draw, config: RunConfig
    ) -> dict[str, Any]:
        count = FlipCount(model)
        with count.watching():
            losses = step_losses(model, batch, drawn, config)
        return {
            catalogue.FLIP_RATE: count.read(),
            catalogue.LOSS_TOTAL: losses.total.float().cpu().numpy(),
            catalogue.LOSS_PER_SAMPLE: losses.per_sample_MB.float().cpu().numpy(),
            catalogue.LOSS_SIGMA: drawn.sigma_MB.float().cpu().numpy(),
        }


def _watching(measure: Measure, is_sampled: bool, is_last: bool) -> AbstractContextManager[None]:
    return measure.watching(is_sampled and is_last)


def _states(run: Run, alert: Alert, onset: int) -> dict[State, Path]:
    """Finds the newest sound state from before the onset, and that at the alarm."""
    root = Path(run.folder)
    scene = root / str(alert.evidence.get("scene", "")) if "scene" in alert.evidence else None
    if scene is None:
        scene = incident_folder(root, alert.id)
    found: dict[State, Path] = {}
    known: list[tuple[int, Path]] = []
    places = [scene / BEFORE, *checkpoint_folders(root / CHECKPOINTS)]
    for folder in places:
        try:
            about = read_about(folder)
        except DamagedCheckpoint:
            continue
        # a segment that came after the alert goes another way
        if about["segment"] <= alert.segment and read_health(folder) != "tainted":
            known.append((int(about["step"]), folder))
    old = [(step, folder) for step, folder in known if step <= onset - MARGIN_STEPS]
    old = old or [(step, folder) for step, folder in known if step <= onset]
    if old:
        found["before"] = max(old)[1]
    try:
        read_about(scene / AT)
        found["at"] = scene / AT
    except DamagedCheckpoint:
        pass
    return found


def _by_part(model: dict[str, Any]) -> dict[str, list[Tensor]]:
    """The weights of a state dict by part: routers, and everything else."""
    parts: dict[str, list[Tensor]] = {}
    for name, value in model.items():
        if isinstance(value, Tensor) and value.dtype == torch.float32 and value.dim() > 1:
            part = "the routers" if ".router." in name else "the other layers"
            parts.setdefault(part, []).append(value)
    return parts


def _share_on(weights: Sequence[Tensor], grid: torch.dtype) -> float:
    """The share of weights other than 0 that a narrower format holds exactly."""
    flat = torch.cat([w.flatten() for w in weights])
    flat = flat[flat != 0]
    return float((flat.to(grid).float() == flat).float().mean()) if flat.numel() else 0.0
