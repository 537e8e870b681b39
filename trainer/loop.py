"""The training loop. Its stages, in the order of the code:

1. obey: commands of people, at the step boundary
2. batch: the next one in the data order; after a rollback it is vetted before it is trained on
3. step: forward, backward, clip, guard, update, balance, EMA, all without waiting for the device
4. settle: the step's signals on the host, judged, recorded; the policy answers with an action
5. act: skip data, damp, roll back, halt
6. keep: host ring, disk, certificates

On a GPU a step is settled while the next one computes; on a CPU at once, since nothing would be
gained.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..monitors.judge import Judgement
from ..monitors.policy import ADVISED, Policy
from ..monitors.rule_table import RuleTable
from ..monitors.states.keeping import Keeper
from ..monitors.step_record import StepRecord, scalar
from ..platform import catalogue
from ..platform.alert_kinds import CHECKPOINT, HALTED, SAMPLES
from ..platform.contact import Contact
from ..platform.own_alerts import OwnAlerts
from ..platform.peak_flops import peak_tflops
from ..platform.records import Action, Event, EventKind, Frame, Mode, Run, RunStatus, Segment
from ..platform.sinks import FanOut
from .compute.gradients import step_gradients
from .config import RunConfig
from .counts.flops import model_flops
from .data.batches import Batch, Batches
from .data.latents import seen
from .evaluation.probe import Probe
from .measure import Measure
from .moe.steps import ExpertSteps
from .numerics import policy_on
from .objective.timesteps import draw
from .optim.schedule import decay_begins_at, learning_rate
from .progress import Lamp, ProgressLine
from .rollback import carry_out
from .sampling.at_checkpoints import CheckpointSamples
from .state import TrainState
from .take_commands import obey
from .update import apply_update
from .vetting import Vetting, is_bad
from .witness import Witness

MOST_TOLD = 20
"""Clips that are named when they cannot be read."""


@dataclass
class Pending:
    """A step whose signals are still on the device."""

    step: int
    batch: int
    is_sampled: bool
    host_values: dict[str, float]
    names: tuple[str, ...] = ()
    positions: tuple[int, ...] = ()


@dataclass
class Trainer:
    """One run in this process. Built by `run.py`; `train()` runs it to its end."""

    config: RunConfig
    run: Run
    segment: Segment
    device: torch.device
    state: TrainState
    batches: Batches
    measure: Measure
    probe: Probe
    samples: CheckpointSamples | None
    policy: Policy
    keeper: Keeper
    fan_out: FanOut
    contact: Contact
    progress: ProgressLine
    mode: Mode
    rules: RuleTable
    num_passed_over: int = 0
    """Files of the data folder that could not be used from the start."""
    vetting: Vetting | None = None
    is_paused: bool = False
    is_stopping: bool = False
    status: RunStatus = "running"

    def __post_init__(self) -> None:
        self._pending: Pending | None = None
        self.own_alerts = OwnAlerts(self.run.id, self.fan_out.say)
        self._num_told = 0
        self._judging_s = 0.0
        self.raised: set[str] = set()
        self._recent_s: deque[float] = deque(maxlen=50)
        tokens = self.config.data.batch * self.config.tokens_per_sample
        self.record = StepRecord(tokens, model_flops(self.config), self._peak_tflops())
        self.last_loss = float("nan")
        self._experts = ExpertSteps(self.state.model, self.config.moe)
        self.witness = Witness(self)

    def train(self, on_step: Callable[["Trainer"], None] | None = None) -> RunStatus:
        """Trains until the steps are done, somebody stops the run or the policy halts it.

        on_step: called before every turn, at the step boundary.
        """
        while True:
            while self.state.step < self.config.steps and not self.is_stopping:
                if on_step is not None:
                    on_step(self)
                self.train_step()
            # settling the last step may go back or halt
            self.settle()
            if self.state.step >= self.config.steps or self.is_stopping:
                break
        if self.contact.replaced_by:
            # the folder and the record belong to another trainer now
            self.status = "stopped"
        elif self.status != "halted":
            self.keeper.save_now(self.state, self.segment.index)
            self.status = "finished" if self.state.step >= self.config.steps else "stopped"
        return self.status

    def keep_first(self) -> None:
        """Sizes the host ring and makes sure that there is a state to go back to."""
        self.keeper.plan_ring(self.state)
        if not self.keeper.checkpoints:
            self.keeper.first(self.state, self.segment.index)

    def train_step(self) -> None:
        """One turn of the loop: at most one optimizer step."""
        obey(self)
        if self.is_stopping:
            return
        if self.vetting is not None and self.state.batch >= self.vetting.first:
            # the state that is to vet must be judged, which may change what comes next
            self.settle()
            if self.is_stopping:
                return
        start_s = time.perf_counter()
        batch = self._next_batch()
        wait_s = time.perf_counter() - start_s
        if is_bad(self, batch):
            self._pass_over(batch)
            return
        launched = self._launch(batch, wait_s)
        if self.device.type == "cpu":
            self._pending = launched
            self.settle()
        else:
            previous, self._pending = self._pending, launched
            if previous is not None:
                self._settle(previous)
        self._recent_s.append(time.perf_counter() - start_s)
        self._keep()

    def settle(self) -> None:
        """Reads and judges the step that is still on the device, and acts on it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._settle(pending)

    def forget_pending(self) -> None:
        """Drops a step that belongs to a branch that is being abandoned."""
        self._pending = None
        self.measure.forget()

    def stop(self) -> None:
        """Asks for the end of the run at the next step boundary, with a checkpoint."""
        self.is_stopping = True

    def halt(self, reason: str) -> None:
        """Ends the run because no automatic action is left; the state is not saved, since it is
        not to be trusted."""
        self.is_stopping = True
        self.status = "halted"
        self.raise_alert(HALTED, f"run halted: {reason}")

    def set_mode(self, mode: Mode) -> None:
        self.mode = mode
        self.contact.set_mode(mode)
        self.say_event("note", f"automatic action is {mode}", {})

    def log(self, values: Mapping[str, float]) -> None:
        """Records a user's own scalars with the current step, as `user/NAME`."""
        self.record.log(values)

    def open_segment(self, segment: Segment) -> None:
        self.segment = segment
        self.fan_out.say(segment)

    def say_event(self, kind: EventKind, text: str, details: Mapping[str, Any]) -> None:
        self.fan_out.say(
            Event(
                self.run.id, self.segment.index, self.state.step, time.time(), kind, text, details
            )
        )

    def raise_alert(self, rule: str, message: str) -> None:
        """Raises an alert of the trainer's own; what is said already is not said again soon."""
        if self.own_alerts.raise_alert(rule, message, self.segment.index, self.state.step):
            self.progress.say(f"ALERT {rule}: {message}")

    def median_step_s(self) -> float:
        """Seconds of a recent step; nan before the first."""
        return float(np.median(self._recent_s)) if self._recent_s else float("nan")

    def _peak_tflops(self) -> float | None:
        asked = self.config.watch.peak_tflops
        if asked or self.device.type != "cuda":
            return asked or None
        products = policy_on(self.device, self.config.compute).products
        return peak_tflops(torch.cuda.get_device_name(self.device), products)

    def _next_batch(self) -> Batch:
        skipped = self.policy.skipped
        while self.state.batch in skipped:
            self.state.batch += 1
        batch = self.batches.get(self.state.batch)
        self._tell_bad_clips()
        return seen(batch, self.config, self.device)

    def _tell_bad_clips(self) -> None:
        """Names clips that failed since it last did, the first few of a run; all are counted."""
        for name, reason in list(self.batches.bad_clips.items())[self._num_told : MOST_TOLD]:
            self.progress.say(f"passed over {name}: {reason}")
            self.say_event("note", f"passed over {name}", {"reason": reason})
            self._num_told += 1

    def _pass_over(self, batch: Batch) -> None:
        self.policy.skip_batch(batch.index)
        self.state.batch = batch.index + 1
        self.progress.step(self.state.step, self.last_loss, self.median_step_s(), "back")
        if self.policy.skips_left == 0:
            reason = "policy.most_skipped_batches are passed over: is the data another one?"
            carry_out(self, Action("halt", reason))

    def _launch(self, batch: Batch, wait_s: float) -> Pending:
        config, state = self.config, self.state
        step = state.step
        is_sampled = step % config.watch.sample_every == 0
        scale = state.damp_scale if step < state.damp_until else 1.0
        rate = learning_rate(config, step) * scale
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        if config.optim.schedule == "wsd" and step == decay_begins_at(config):
            self.say_event("decay", f"the learning rate falls from step {step} on", {})
            state.judge.announce("decay", step)
        drawn = draw(config, config.seed, batch)
        found = step_gradients(
            state.model,
            batch,
            drawn,
            config,
            self._experts,
            lambda is_last: self.measure.watching(is_sampled and is_last),
        )
        start_s = time.perf_counter()
        grad_norm, held = apply_update(
            config, state, self._experts, self.measure, found.objective, is_sampled
        )
        optimizer_s = time.perf_counter() - start_s
        start_s = time.perf_counter()
        self.measure.take(found.losses, found.extra, drawn, grad_norm, held, is_sampled)
        state.step = step + 1
        state.batch = batch.index + 1
        host_values = {
            catalogue.LEARNING_RATE: rate,
            catalogue.DATA_BATCH: batch.index,
            catalogue.BAD_CLIPS: self.num_passed_over + len(self.batches.bad_clips),
            catalogue.DATA_WAIT_S: wait_s,
            catalogue.FORWARD_S: found.forward_s,
            catalogue.BACKWARD_S: found.backward_s,
            catalogue.OPTIMIZER_S: optimizer_s,
            catalogue.MONITOR_S: time.perf_counter() - start_s,
        }
        return Pending(step, batch.index, is_sampled, host_values, batch.names, batch.positions)

    def _settle(self, pending: Pending) -> None:
        start_s = time.perf_counter()
        values = self.measure.read(pending.is_sampled)
        values |= {name: scalar(value) for name, value in pending.host_values.items()}
        if self.probe.is_due(pending.step):
            on_disk = [c.step for c in self.keeper.checkpoints if c.is_on_disk]
            saved_step = max(on_disk, default=None)
            values |= self.probe.measure(self.state.model, pending.step, saved_step)
        values |= self.record.system(self.fan_out.status)
        self.last_loss = float(values[catalogue.LOSS_TOTAL])
        # before it is judged: a rule may be about anything that is recorded
        read_s = time.perf_counter() - start_s + self._judging_s
        values = self.record.complete(values, pending.host_values, read_s)
        start_s, now_s = time.perf_counter(), time.time()
        judgement = self.state.judge.step(pending.step, self.segment.index, now_s, values)
        self._judging_s = time.perf_counter() - start_s
        values |= judgement.scores
        self.witness.note(pending, values)
        self.fan_out.record(Frame(self.run.id, self.segment.index, pending.step, now_s, values))
        for note in judgement.notes:
            self.fan_out.say(note)
        for alert in judgement.healed:
            self.fan_out.say(self.witness.known(alert))
        for ended in judgement.explained_away:
            text = f"{ended.rule} has learnt a new baseline: nothing has healed"
            self.say_event("note", text, {"alert_id": ended.alert.id})
            self.progress.say(f"step {pending.step}: {text}")
        for alert in judgement.alerts:
            # journaled before its action starts
            self.fan_out.say(self.witness.testify(alert))
            self.raised.add(alert.rule)
            self.progress.say(
                f"step {pending.step}: {alert.severity} {alert.rule}: {alert.message}"
            )
        self.progress.step(
            self.state.step, self.last_loss, self.median_step_s(), self._lamp(judgement)
        )
        if values[catalogue.GUARD_HELD]:
            self.say_event("guard", f"the guard held the update of step {pending.step} back", {})
        self._act(pending, judgement)

    def _act(self, pending: Pending, judgement: Judgement) -> None:
        self.keeper.stamp(self.policy.certify(pending.step, self.keeper.checkpoints, judgement))
        action = self.policy.decide(
            step=pending.step,
            batch=pending.batch + 1,
            judgement=judgement,
            checkpoints=self.keeper.checkpoints,
            mode=self.mode,
        )
        if action.reason.startswith(ADVISED):
            self.say_event("note", action.reason, {"alert_id": action.alert_id})
            self.progress.say(f"step {pending.step}: {action.reason}")
        carry_out(self, action)
        if self.policy.memory_fault:
            self.raise_alert(CHECKPOINT, self.policy.memory_fault)

    def _lamp(self, judgement: Judgement) -> Lamp:
        if not judgement.is_healthy:
            return "alert"
        return "back" if self.vetting is not None else "healthy"

    def _keep(self) -> None:
        if self.is_stopping:
            return
        step = self.state.step
        keep = self.config.checkpoint
        if self._pending is not None and (
            step % keep.memory_every_steps == 0 or step % keep.disk_every_steps == 0
        ):
            # a snapshot holds the judge's state too, so the step before it must have been judged
            self.settle()
        self.keeper.after_step(self.state, self.segment.index)
        if self.own_alerts.stands(CHECKPOINT):
            written_s = [c.created_s for c in self.keeper.checkpoints if c.is_on_disk]
            if max(written_s, default=0.0) > self.own_alerts.since_s(CHECKPOINT):
                self.own_alerts.resolve(CHECKPOINT)
        if self.samples is not None and self.samples.is_due(step):
            self._sample(self.samples)

    def _sample(self, samples: CheckpointSamples) -> None:
        try:
            files = [str(path) for path in samples.write(self.state)]
        except OSError as error:
            self.raise_alert(SAMPLES, f"clips cannot be written: {error.strerror}")
            return
        self.own_alerts.resolve(SAMPLES)
        text = f"{len(files)} clips of the state in front of step {self.state.step}"
        self.say_event("note", text, {"samples": files})
