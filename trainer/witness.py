"""The witness of a run: notes every step in the flight recorder, and at an alert writes down what
an autopsy needs, before the action starts.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from ..monitors.autopsy.record import Entry, FlightRecord
from ..monitors.autopsy.recorder import FlightRecorder
from ..monitors.autopsy.story import first_account
from ..monitors.states.checkpoint import copied, num_bytes
from ..platform import catalogue
from ..platform.records import Alert
from .scene import AT, BEFORE, RECORD, Scenes, about, incident_folder, is_worth_a_scene

if TYPE_CHECKING:
    from .loop import Pending, Trainer

MARGIN_STEPS = 5
"""Before the onset: what moved first may have moved before the rule's signal."""
SAME_SCENE_STEPS = 50
"""An alert so soon after another one is of the same incident: its states are those of the first."""


class Witness:
    """Used from the training thread; what is written late is written in a side thread."""

    def __init__(self, trainer: "Trainer") -> None:
        watch = trainer.config.watch
        self._trainer = trainer
        self._folder = Path(trainer.run.folder)
        self.recorder = FlightRecorder(watch.recorder_steps, int(watch.recorder_mib * 2**20))
        self._scenes = Scenes(
            self._folder,
            watch.num_scenes,
            trainer.config.checkpoint.min_free_gib,
            trainer.progress.say,
            self._first_look,
        )
        self._last_scene: tuple[int, int, str] | None = None

    def note(self, pending: "Pending", values: Mapping[str, NDArray[np.float32]]) -> None:
        """Takes a step that was measured and judged."""
        more = {catalogue.GRAD_LAYER_NORM: self._trainer.measure.layer_norm_L}
        self.recorder.note(
            Entry(
                self._trainer.segment.index,
                pending.step,
                pending.batch,
                pending.names,
                pending.positions,
                {**values, **more},
            )
        )

    def testify(self, alert: Alert) -> Alert:
        """Writes the record of a new alert and hands its states to the side thread; returns the
        alert with the places of both as evidence. One that was written down already keeps them."""
        if not len(self.recorder):
            return alert
        if self.known(alert) is not alert:
            return self.known(alert)
        record = self.recorder.record(alert)
        written = self._scenes.write(record)
        if not written:
            return alert
        evidence: dict[str, Any] = {"record": written}
        states: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        if is_worth_a_scene(alert):
            scene = self._scene_of_another(alert)
            if not scene and self._scenes.has_states and self._has_memory():
                states = self._states(alert)
                scene = str(incident_folder(self._folder, alert.id).relative_to(self._folder))
                self._last_scene = (alert.segment, alert.fired_step, scene)
            if scene:
                evidence["scene"] = scene
        alert = replace(alert, evidence={**alert.evidence, **evidence})
        self._scenes.examine(FlightRecord(alert, record.entries), states)
        return alert

    def known(self, alert: Alert) -> Alert:
        """The alert with the places of what was written down of it, if anything was: the judge,
        which names it again when it heals, does not know of them."""
        folder = incident_folder(self._folder, alert.id) / RECORD
        if "record" in alert.evidence or not folder.exists():
            return alert
        evidence = {**alert.evidence, "record": str(folder.relative_to(self._folder))}
        if (folder.parent / AT).exists():
            evidence["scene"] = str(folder.parent.relative_to(self._folder))
        return replace(alert, evidence=evidence)

    def close(self) -> None:
        self._scenes.close()

    def _scene_of_another(self, alert: Alert) -> str:
        if self._last_scene is None:
            return ""
        segment, step, scene = self._last_scene
        is_same = segment == alert.segment and alert.fired_step - step <= SAME_SCENE_STEPS
        return scene if is_same else ""

    def _has_memory(self) -> bool:
        """Whether a copy of the state fits into half of the free host memory; says it where not."""
        needed = num_bytes(self._trainer.state.capture())
        if needed <= psutil.virtual_memory().available // 2:
            return True
        self._trainer.progress.say(
            f"the state at the alert is not kept: {needed / 2**20:.0f} MiB are more than half of "
            "the free memory"
        )
        return False

    def _states(self, alert: Alert) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        trainer, state = self._trainer, self._trainer.state
        here = about(state.step, state.batch, trainer.segment.index)
        states = {AT: (copied(state.capture()), here)}
        until = alert.onset_step - max(trainer.config.policy.margin_steps, MARGIN_STEPS)
        held = trainer.keeper.held_before(until)
        if held is not None:
            checkpoint, before = held
            there = about(checkpoint.step, checkpoint.batch, checkpoint.segment)
            states[BEFORE] = (before, {**there, "health": checkpoint.health})
        return states

    def _first_look(self, record: FlightRecord, folder: Path) -> None:
        self._trainer.fan_out.say(first_account(record, time.time()))
