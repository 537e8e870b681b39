"""Trains a run with a planted cause, examines its alert, holds the verdict against the truth."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...monitors.default_rules import DEFAULT_RULES
from ...monitors.rule_table import body_of
from ...platform.errors import MoescopeError, did_you_mean
from ...platform.frozen import changed
from ...platform.records import Action, Alert, Incident
from ...platform.rule_versions import RuleChange, change
from ...platform.settings import Settings
from ...platform.store import open_store
from ..config import RunConfig
from ..data.deliveries import make_demo_deliveries
from ..data.make_clips import make_clips
from ..incident_shell import examined
from ..loop import Trainer
from ..recipes.stream import tiny
from ..rollback import carry_out
from ..run import train
from .causes import ForSomeSteps, PlantedCause, causes
from .faults import Plant

ONSET = 84
BACK_TO = 80
"""The state that each cause is planted into, a few steps later."""
SPOILED_BATCHES = 40
NUM_CLIPS = 120
SMALL: dict[str, Any] = {
    "data.batch": 8,
    "data.workers": 0,
    "data.num_frames": 4,
    "data.height": 16,
    "data.width": 16,
    "data.num_mels": 16,
    "data.num_mel_steps": 16,
    "data.num_text_bytes": 16,
    "model.width": 64,
    "model.layers": 4,
    "model.heads": 2,
    "moe.hidden": 64,
    "optim.warmup_steps": 10,
    "watch.sample_every": 2,
    "watch.probe_every": 0,
    "watch.num_scenes": 12,
    "policy.mode": "off",
    "checkpoint.memory_every_steps": 4,
    "checkpoint.disk_every_steps": 40,
    "checkpoint.min_free_gib": 0.0,
}
"""What `tiny` is changed into: the same code at some hundredths of a second a step."""


@dataclass(frozen=True, slots=True)
class AutopsyRun:
    cause: PlantedCause
    seed: int
    alert: Alert | None
    """None: nothing that names the cause was raised, so that there was nothing to examine."""
    incident: Incident | None
    spoiled_clips: frozenset[str]
    trained_s: float
    examined_s: float

    @property
    def said(self) -> str:
        return "no alert" if self.incident is None else self.incident.verdict

    @property
    def is_right(self) -> bool:
        if self.incident is None:
            return False
        return frozenset(self.incident.content["verdict"]["causes"]) == self.cause.verdict

    @property
    def is_in_part(self) -> bool:
        """Of two causes one was named, and nothing false."""
        if self.incident is None:
            return False
        named = frozenset(self.incident.content["verdict"]["causes"])
        return bool(named) and named < self.cause.verdict


def asked_causes(names: list[str]) -> tuple[PlantedCause, ...]:
    """Returns the causes of these names, or all. Raises MoescopeError on an unknown one."""
    known = {cause.name: cause for cause in causes()}
    for name in names:
        if name not in known:
            raise MoescopeError(f"there is no planted cause {name}{did_you_mean(name, known)}")
    return tuple(known[name] for name in names or known)


def families(asked: Sequence[PlantedCause]) -> list[list[PlantedCause]]:
    """Groups causes that can be planted into one run, one after the other: those of the same
    configuration, data and rules."""
    groups: dict[Any, list[PlantedCause]] = {}
    for cause in asked:
        key = (tuple(sorted(cause.changes.items())), cause.is_in_clips, cause.has_hair_trigger)
        groups.setdefault(key, []).append(cause)
    return list(groups.values())


def cause_config(causes: Sequence[PlantedCause], clips: Path, seed: int) -> RunConfig:
    """Writes the clips of a run and returns its configuration. causes: of one family."""
    steps = ONSET + max(cause.within_steps for cause in causes) + 10
    config = changed(tiny(), {**SMALL, "seed": seed, "steps": steps, **causes[0].changes})
    if causes[0].is_in_clips:
        config = changed(config, {"data.order": "by_folder", "data.windows_per_clip": 16})
        make_demo_deliveries(
            clips,
            config.data,
            seed,
            clean_batches=ONSET,
            spoiled_batches=SPOILED_BATCHES,
            last_batches=10,
            size=32,
        )
    else:
        make_clips(clips, NUM_CLIPS, seed=seed, size=32, duration_s=1.0)
    return changed(config, {"data.folder": str(clips)})


def make_autopsy_runs(
    causes: Sequence[PlantedCause],
    folder: Path,
    seed: int,
    settings: Settings,
    tell: Callable[[str], None] = lambda _: None,
) -> list[AutopsyRun]:
    """Trains one run, and plants each of the causes into its state from before the onset: until the
    alert that names it, or for as long as it ought to take. Then examines the alerts.

    causes: of one family. folder: of the clips.
    """
    config = cause_config(causes, folder / "clips", seed)
    settings.make_home()
    if causes[0].has_hair_trigger:
        with open_store(settings.store_url) as store:
            _set_hair_trigger(store, time.time())
    planting = _Planting(causes)
    begun_s = time.monotonic()
    result = train(
        config,
        settings=settings,
        name=f"{causes[0].name}-{seed}",
        progress=False,
        on_step=planting.on_step,
    )
    trained_s = (time.monotonic() - begun_s) / len(causes)
    spoiled = frozenset(
        str(path.relative_to(folder / "clips")) for path in (folder / "clips/part-2").glob("*.mp4")
    )
    found = []
    with open_store(settings.store_url) as store:
        raised = store.alerts(result.run_id)
        for cause, segment in planting.planted:
            named = [
                a
                for a in raised
                if a.rule in cause.named_by and a.fired_step >= ONSET and a.segment == segment
            ]
            alert = min(named, key=lambda a: a.fired_step, default=None)
            begun_s = time.monotonic()
            incident = None if alert is None else examined(store, alert, tell)
            examined_s = time.monotonic() - begun_s
            found.append(AutopsyRun(cause, seed, alert, incident, spoiled, trained_s, examined_s))
    return found


class _Planting:
    """Plants one cause after the other; goes back by hand in between, and ends the run after the
    last one."""

    def __init__(self, causes: Sequence[PlantedCause]) -> None:
        self._left = list(causes)
        self._plants: list[Plant] = []
        self.planted: list[tuple[PlantedCause, int]] = []
        """Each cause with the segment that it was planted in."""

    def on_step(self, trainer: Trainer) -> None:
        step = trainer.state.step
        if step < ONSET:
            # what is raised before the onset is another matter
            trainer.raised.clear()
            return
        if len(self.planted) and self._is_over(trainer, self.planted[-1][0]):
            for plant in self._plants:
                if isinstance(plant, ForSomeSteps):
                    plant.end()
            if not self._left:
                trainer.stop()
                return
            back = Action("rollback", "the next cause", to_step=BACK_TO)
            carry_out(trainer, back, is_automatic=False)
            trainer.raised.clear()
            self._plants = []
            self.planted.append((self._left.pop(0), trainer.segment.index))
            return
        if not self.planted:
            self.planted.append((self._left.pop(0), trainer.segment.index))
        cause = self.planted[-1][0]
        if not self._plants:
            self._plants = [make() for make in cause.plants]
        for plant in self._plants:
            plant(trainer)

    def _is_over(self, trainer: Trainer, cause: PlantedCause) -> bool:
        is_named = bool(trainer.raised.intersection(cause.named_by))
        return is_named or trainer.state.step > ONSET + cause.within_steps


def _set_hair_trigger(store: Any, now_s: float) -> None:
    [spike] = [rule for rule in DEFAULT_RULES if rule.name == "loss_spike"]
    tight = spike.model_copy(
        update={
            "name": "hair_trigger",
            "threshold": 1.2,
            "raised": 1.0,
            "patience": 2,
            "calm_steps": 1,
            "cooldown_steps": 3,
            "action": "observe",
            "severity": "warning",
        }
    )
    change(store, [RuleChange("", tight.name, body_of(tight))], "score", now_s)
