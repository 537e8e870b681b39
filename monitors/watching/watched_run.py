"""A training of somebody else's while it is watched: what `moescope.watch` returns.

A step of it, in the order of the code: measure, settle (read, judge, record), take commands, act,
keep, and make ready for the next forward. On a GPU a step is settled while the next one computes,
so that its action comes a step later; on a CPU at once.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ...platform import catalogue
from ...platform.alert_kinds import CHECKPOINT, HALTED
from ...platform.contact import Contact
from ...platform.errors import MoescopeError
from ...platform.own_alerts import OwnAlerts
from ...platform.records import (
    Action,
    Event,
    EventKind,
    Frame,
    Mode,
    Run,
    RunStatus,
    Segment,
)
from ...platform.sinks import FanOut
from ..going_back import HalfRestored
from ..judge import Judge
from ..policy import Policy
from ..policy_limits import Limits
from ..rule_table import RuleTable
from ..states.keeping import Keeper
from ..step_record import StepRecord, scalar
from .acting import decide
from .arguments import checked_loss, checked_samples
from .commands_taken import obey, record_rules
from .damping import Damping
from .limits import WatchKeeping
from .measuring import Sent, WatchMeasure
from .state import WatchedState, not_held_by_disks
from .watched_rules import is_sampled

CARRY_ON = Action("carry_on", "nothing holds")


@dataclass
class Parts:
    """What the door puts together."""

    run: Run
    segment: Segment
    device: torch.device
    measure: WatchMeasure
    state: WatchedState
    policy: Policy
    keeper: Keeper | None
    """None: nothing to go back to was given."""
    damping: Damping
    fan_out: FanOut
    contact: Contact
    own_alerts: OwnAlerts
    table: RuleTable
    table_with_samples: Callable[[], RuleTable]
    """Makes the rules for a loop that brings losses of samples; asked once, at its first step."""
    limits: Limits
    keeping: WatchKeeping
    sample_every: int
    num_timesteps: int
    tell: Callable[[str], None]
    closing: ExitStack
    """Closes all of it, in reverse order."""


class WatchedRun:
    """What watches a training. Called from the training's thread.

        with moescope.watch(model, optimizer, name="mine", state=[schedule]) as run:
            for batch in batches:
                loss = ...
                loss.backward()
                if not run.guard(loss):
                    optimizer.step()
                optimizer.zero_grad()
                action = run.step(loss)

    What it finds amiss with its own work it says once, and lets the training go on.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.state, self.policy, self.keeper = parts.state, parts.policy, parts.keeper
        self.damping, self.contact, self.own_alerts = parts.damping, parts.contact, parts.own_alerts
        self.segment, self.table, self.tell = parts.segment, parts.table, parts.tell
        self.mode: Mode = parts.run.mode
        self.is_paused = False
        self.fault = ""
        """Why no more is measured, where the watching itself failed; empty while it goes well."""
        self._record = StepRecord(0)
        self._pending: _Pending | None = None
        self._held: bool | None = None
        self._left_s = time.perf_counter()
        self._judging_s = 0.0
        self._end: Action | None = None
        self._status: RunStatus = "running"
        self._half_restored: HalfRestored | None = None
        self._is_closed = False
        self._has_judged = False
        # a new number of them: what they made is to be looked at before it is written
        self._num_begun = parts.state.num_begun
        self._begin()

    @property
    def id(self) -> str:
        return self._parts.run.id

    @property
    def name(self) -> str:
        return self._parts.run.name

    @property
    def status(self) -> RunStatus:
        return self._status

    @property
    def num_steps(self) -> int:
        """Steps taken in the history that the training has now; a rollback takes some back."""
        return self.state.step

    @property
    def closing(self) -> ExitStack:
        """What is called when the run is finished, last things first."""
        return self._parts.closing

    @property
    def folder(self) -> str:
        return self._parts.run.folder

    @property
    def certify_after_steps(self) -> int:
        return self._parts.limits.certify_after_steps

    def guard(self, loss: Tensor | float) -> bool:
        """Tells, with the gradients there and before they are clipped, whether this update should
        be left out: it is not finite, or extreme (50 times the usual norm, at most three in a
        row). Mere spikes are no reason.

        It waits for the device, which `step` does not.
        """
        value = checked_loss(loss, "guard")
        self._refuse_half_restored()
        if self.fault:
            return False
        try:
            norm = self._parts.measure.norm_now()
            loss_now = torch.as_tensor(value, device=self._parts.device)
            self._held = bool(self.state.guard.hold(loss_now, norm))
        except Exception as error:
            # as in `step`: a fault of ours ends no training
            self._watch_no_more(error)
            return False
        return self._held

    def measure_gradients(self) -> None:
        """Takes the norm of the gradients as they are now for that of the step: call it before they
        are clipped. `guard` does it by itself."""
        if self.fault:
            return
        try:
            self._parts.measure.norm_now()
        except Exception as error:
            self._watch_no_more(error)

    def step(
        self,
        loss: Tensor | float | None = None,
        *,
        per_sample: Tensor | None = None,
        sigma: Tensor | None = None,
        timestep: Tensor | None = None,
        tokens: int = 0,
        batch: int | None = None,
        grad_norm: Tensor | float | None = None,
    ) -> Action:
        """Takes a step that was made and returns what is to be done about the training.

        loss: one number. per_sample: the losses of its samples, (B,), which are judged instead,
        each at its noise level. sigma: those levels, (B,), from 0 to 1; or timestep, of
        `num_timesteps`. tokens: of the step, for the speed. batch: which one it was in the order of
        the data. grad_norm: before clipping; left out, it is that of the gradients at the update.

        The action: carry_on; rollback, which was carried out already, `to_step` being how many
        steps the training has behind it now; damp, likewise; skip_data, which the loop may do;
        halt, after which the loop should end. Raises MoescopeError where an argument cannot be, and
        HalfRestored, from then on at each call, where a state was not put back as a whole.
        """
        start_s = time.perf_counter()
        value = checked_loss(loss, "step")
        samples = checked_samples(per_sample, sigma, timestep, self._parts.num_timesteps)
        if self._is_closed:
            raise MoescopeError(f"run {self.name} is finished: watch() begins another one")
        self._refuse_half_restored()
        if self.fault:
            return CARRY_ON
        num_restored = self.state.num_restored
        try:
            return self._step(value, samples, tokens, batch, grad_norm, start_s)
        except HalfRestored as broken:
            self._half_restored = broken
            self.end_with(Action("halt", str(broken)), "halted")
            raise
        except Exception as error:
            # whatever is wrong here is no reason to end a training of days
            self._watch_no_more(error)
            if self.state.num_restored > num_restored:
                # the loop must know that it went back, whatever failed behind that
                return Action("rollback", self.fault, to_step=self.state.step)
            return CARRY_ON

    def log(self, values: Mapping[str, float]) -> None:
        """Records scalars of the loop's own with the next step, as `user/NAME`."""
        self._record.log(values)

    def announce(self, kind: EventKind, text: str = "") -> None:
        """Says that something was changed on purpose (decay, resolution, data_change): what is
        judged gets new baselines."""
        self.say_event(kind, text or f"{kind} announced", {})
        self.state.judge.announce(kind, self.state.step)

    def finish(self, status: RunStatus = "finished") -> None:
        """Records the last step, saves the state where there is one, and closes everything; a
        second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        parts = self._parts
        is_ended = self._end is not None
        try:
            if not self.fault:
                self._settle_pending()
            is_kept = self.keeper is not None and self.keeper.is_on_disk
            if is_kept and not is_ended and status == "finished":
                assert self.keeper is not None
                self.keeper.save_now(self.state, self.segment.index)
        finally:
            if not is_ended:
                self._status = status
            if not parts.contact.replaced_by:
                parts.contact.set_status(self._status, finished_s=time.time())
            try:
                parts.closing.close()
            except MoescopeError as away:
                # what the store has not yet waits in the journal
                self.tell(f"run {self.name}: {away}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.finish("stopped" if issubclass(kind, KeyboardInterrupt) else "crashed")

    def _refuse_half_restored(self) -> None:
        if self._half_restored is not None:
            raise self._half_restored

    def _watch_no_more(self, error: Exception) -> None:
        self.fault = f"{type(error).__name__}: {error}"
        self._parts.tell(f"watching {self.name} ends here, training does not: {self.fault}")
        self._parts.measure.close()
        self.damping.close()

    def _begin(self) -> None:
        self._held = None
        self._parts.measure.begin(self.state.step % self._parts.sample_every == 0)

    def _step(
        self,
        loss: Tensor | float,
        samples: Any,
        tokens: int,
        batch: int | None,
        grad_norm: Tensor | float | None,
        start_s: float,
    ) -> Action:
        if samples is not None and not self._has_judged and not is_sampled(self.table.base):
            self._judge_samples()
        self._has_judged = True
        sent = self._parts.measure.take(loss, grad_norm, bool(self._held), samples)
        state = self.state
        this = _Pending(
            state.step, sent, batch, tokens, start_s - self._left_s, time.perf_counter() - start_s
        )
        state.step += 1
        state.batch = state.batch + 1 if batch is None else batch + 1
        self.damping.step_done()
        action = self._settle_due(this)
        asked = obey(self)
        if asked is not None and action.kind == "carry_on":
            action = asked
        if action.kind == "carry_on":
            self._keep()
        self._begin()
        self._left_s = time.perf_counter()
        return self._end if self._end is not None else action

    def _settle_due(self, this: "_Pending") -> Action:
        """Settles the step before, where this one may go on computing, else both."""
        waiting, self._pending = self._pending, this
        keeping, step = self._parts.keeping, self.state.step
        # a snapshot holds the judge's state too, so the step before it must have been judged
        is_kept = self.keeper is not None and (
            step % keeping.memory_every_steps == 0 or step % keeping.disk_every_steps == 0
        )
        action = CARRY_ON if waiting is None else self._settle(waiting)
        is_waited_for = self._parts.device.type == "cpu" or is_kept
        if is_waited_for and self._pending is this:
            self._pending = None
            found = self._settle(this)
            action = found if action.kind == "carry_on" else action
        return action

    def _settle_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._settle(pending, acts=False)

    def _settle(self, pending: "_Pending", acts: bool = True) -> Action:
        start_s = time.perf_counter()
        parts = self._parts
        values = parts.measure.read(pending.sent)
        values |= self._record.system(parts.fan_out.status)
        times = {
            # the loop's own work, whatever it is; only the sum is told
            catalogue.FORWARD_S: pending.outside_s,
            catalogue.MONITOR_S: pending.monitor_s,
        }
        read_s = time.perf_counter() - start_s + self._judging_s
        values = self._record.complete(values, times, read_s, pending.tokens)
        if pending.batch is not None:
            values[catalogue.DATA_BATCH] = scalar(pending.batch)
        start_s, now_s = time.perf_counter(), time.time()
        judgement = self.state.judge.step(pending.step, self.segment.index, now_s, values)
        values |= judgement.scores
        parts.fan_out.record(Frame(self.id, self.segment.index, pending.step, now_s, values))
        for note in judgement.notes:
            parts.fan_out.say(note)
        for healed in judgement.healed:
            parts.fan_out.say(healed)
        for alert in judgement.alerts:
            # journaled before its action starts
            parts.fan_out.say(alert)
            parts.tell(f"step {pending.step}: {alert.severity} {alert.rule}: {alert.message}")
        if values[catalogue.GUARD_HELD]:
            text = f"the guard advised to leave the update of step {pending.step} out"
            self.say_event("guard", text, {})
        action = decide(self, judgement, is_ended=self._end is not None) if acts else CARRY_ON
        self._judging_s = time.perf_counter() - start_s
        return action

    def _judge_samples(self) -> None:
        """Takes the rules on losses of samples, before anything was judged."""
        table = self._parts.table_with_samples()
        self.table = table
        self.state.judge = Judge(table.rules(), self.id)
        record_rules(self)

    def _keep(self) -> None:
        keeper = self.keeper
        if keeper is None:
            return
        if keeper.is_on_disk and self.state.num_begun != self._num_begun:
            self._num_begun = self.state.num_begun
            refused = next(not_held_by_disks(self.state.objects), "")
            if refused:
                keeper.write_no_more(refused)
        keeper.after_step(self.state, self.segment.index)
        if self.own_alerts.stands(CHECKPOINT):
            written_s = [c.created_s for c in keeper.checkpoints if c.is_on_disk]
            if max(written_s, default=0.0) > self.own_alerts.since_s(CHECKPOINT):
                self.own_alerts.resolve(CHECKPOINT)

    def end_with(self, action: Action, status: RunStatus) -> None:
        """From now on the loop is told to halt; measuring goes on until it does."""
        self._end, self._status = action, status
        self.say_event("halt", action.reason, {})
        if status == "halted":
            message = f"run halted: {action.reason}"
            self.own_alerts.raise_alert(HALTED, message, self.segment.index, self.state.step)

    def forget_pending(self) -> None:
        """Drops a step that belongs to a branch that is being abandoned."""
        self._pending = None
        self._parts.measure.forget()

    def open_segment(self, segment: Segment) -> None:
        self.segment = segment
        self._parts.fan_out.say(segment)

    def say_event(self, kind: EventKind, text: str, details: Mapping[str, Any]) -> None:
        self._parts.fan_out.say(
            Event(self.id, self.segment.index, self.state.step, time.time(), kind, text, details)
        )


@dataclass
class _Pending:
    """A step whose signals are still on the device."""

    step: int
    sent: Sent
    batch: int | None
    tokens: int
    outside_s: float
    monitor_s: float
