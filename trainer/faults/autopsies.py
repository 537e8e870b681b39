"""Trains a run with a planted cause, examines its alert, holds the verdict against the truth."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...monitors.default_rules import DEFAULT_RULES
from ...monitors.rule_table import body_of
from ...platform.errors import MoescopeError, did_you_mean
from ...platform.frozen import changed
from ...platform.records import Alert, Incident
from ...platform.rule_versions import RuleChange, change
from ...platform.settings import Settings
from ...platform.store import open_store
from ..config import RunConfig
from ..data.deliveries import make_demo_deliveries
from ..data.make_clips import make_clips
from ..incident_shell import examined
from ..loop import Trainer
from ..recipes.stream import tiny
from ..run import train
from .causes import PlantedCause, causes

ONSET = 84
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
    "policy.mode": "off",
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


def cause_config(cause: PlantedCause, clips: Path, seed: int) -> RunConfig:
    """Writes the clips of a run and returns its configuration."""
    steps = ONSET + cause.within_steps + 2
    config = changed(tiny(), {**SMALL, "seed": seed, "steps": steps, **cause.changes})
    if cause.is_in_clips:
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
        make_clips(clips, NUM_CLIPS, seed=seed, size=32)
    return changed(config, {"data.folder": str(clips)})


def make_autopsy_run(
    cause: PlantedCause,
    folder: Path,
    seed: int,
    settings: Settings,
    tell: Callable[[str], None] = lambda _: None,
) -> AutopsyRun:
    """Trains until the alert that names the cause, and examines it. folder: of the clips."""
    config = cause_config(cause, folder / "clips", seed)
    settings.make_home()
    rules = list(cause.named_by)
    with open_store(settings.store_url) as store:
        if cause.has_hair_trigger:
            _set_hair_trigger(store, time.time())
    plants = [make() for make in cause.plants]

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step >= ONSET:
            for plant in plants:
                plant(trainer)
            if trainer.raised.intersection(rules):
                trainer.stop()
        else:
            # what is raised before the onset is another matter
            trainer.raised.clear()

    begun_s = time.monotonic()
    result = train(
        config, settings=settings, name=f"{cause.name}-{seed}", progress=False, on_step=on_step
    )
    trained_s = time.monotonic() - begun_s
    spoiled = frozenset(
        str(path.relative_to(folder / "clips")) for path in (folder / "clips/part-2").glob("*.mp4")
    )
    with open_store(settings.store_url) as store:
        named = [
            a for a in store.alerts(result.run_id) if a.rule in rules and a.fired_step >= ONSET
        ]
        alert = min(named, key=lambda a: a.fired_step, default=None)
        begun_s = time.monotonic()
        incident = None if alert is None else examined(store, alert, tell)
    return AutopsyRun(cause, seed, alert, incident, spoiled, trained_s, time.monotonic() - begun_s)


def _set_hair_trigger(store: Any, now_s: float) -> None:
    [spike] = [rule for rule in DEFAULT_RULES if rule.name == "loss_spike"]
    tight = spike.model_copy(
        update={
            "name": "hair_trigger",
            "threshold": 0.8,
            "raised": 0.5,
            "patience": 2,
            "action": "observe",
            "severity": "warning",
        }
    )
    change(store, [RuleChange("", tight.name, body_of(tight))], "score", now_s)
