"""The policy: from a judgement to an action, on a ladder with a grace window, a budget and no way
to loop.

observe -> skip data -> damp -> roll back -> roll back further and damp -> halt

A rule that has brought the run back asks for more before it does so again: its limit rises by
`harden_factor` with each automatic rollback of its own, to at most `most_hardened` times, and comes
down again while the run is healthy, half the way every `relax_steps` such steps (facts, health.md
section 1: dlib's ratchet). Between its limit and the hardened one the run is damped. Rules that
wait for nothing (non-finite values) and those on shares and counts are not hardened.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ..platform.records import Action, Checkpoint, Mode
from .default_rules import DEFAULT_RULES
from .judge import Condition, Judgement
from .policy_memory import ExplainedAway, PolicyMemory, Taken
from .rules import Rule, check_certification

NOTED_EVERY_STEPS = 20
"""Healthy steps that a crash may cost a hardened limit: it stays harder for so long."""
_UNHARDENED = 1.001
"""A factor below it is none."""
ADVISED = "advisory: would "
"""How the reason begins of what mode advisory would have done."""


class PolicyLimits(Protocol):
    """The numbers of the policy; the trainer's `PolicyConfig` fits, and so does any object with
    these fields."""

    @property
    def grace_steps(self) -> int: ...
    @property
    def margin_steps(self) -> int: ...
    @property
    def certify_after_steps(self) -> int: ...
    @property
    def most_rollbacks(self) -> int: ...
    @property
    def window_steps(self) -> int: ...
    @property
    def cooldown_steps(self) -> int: ...
    @property
    def most_skipped_batches(self) -> int: ...
    @property
    def damp_scale(self) -> float: ...
    @property
    def damp_steps(self) -> int: ...
    @property
    def harden_factor(self) -> float: ...
    @property
    def most_hardened(self) -> float: ...
    @property
    def relax_steps(self) -> int: ...


class Policy:
    """Decides; the trainer acts and then says so with `note`, `skip_batch`.

    What it remembers of actions and skipped batches lies in `memory_path` and never goes back with
    a rollback; neither does the little that it keeps in memory. `decide` and `certify` are called
    once after every judged step.

    Why it cannot loop: a rollback counts against the budget until the run has come `window_steps`
    beyond the step where it was taken, measured in the run's own steps, which a rollback takes
    back. So between two points of the run there are at most finitely many rollbacks: after them it
    is past, or it is halted.
    """

    def __init__(
        self,
        limits: PolicyLimits,
        memory_path: Path,
        rules: Sequence[Rule] = DEFAULT_RULES,
        *,
        first_step: int = 0,
    ) -> None:
        """first_step: where the run began, which is not 0 in a branch of another one. The state
        there is always one to go back to."""
        check_certification(rules, limits.certify_after_steps)
        self._limits = limits
        self._memory = PolicyMemory(memory_path)
        self._first_step = first_step
        self._segment = 0
        self._healthy_since: int | None = None
        self._advised: set[str] = set()
        self._conditions: dict[str, Condition] = {}
        self._num_healthy = 0

    @property
    def memory_fault(self) -> str:
        """Why a crash would forget what the policy did last, in words for a person; empty where it
        would not."""
        return self._memory.fault

    @property
    def skipped(self) -> set[int]:
        """Batches that are never to be trained on, from this process or an earlier one."""
        return set(self._memory.skipped)

    @property
    def skips_left(self) -> int:
        """Batches that the present incident may still pass over; at 0 `decide` halts, also without
        a new judgement."""
        return max(0, self._limits.most_skipped_batches - self._memory.num_skipped_in_incident)

    @property
    def vet_until(self) -> int | None:
        """The batch until which the data of the last incident must be vetted, or None; a crash does
        not forget it."""
        for taken in reversed(self._memory.actions):
            if taken.is_automatic and taken.kind in ("rollback", "skip_data"):
                reached = taken.batch + self._limits.margin_steps
                return max([reached, *(batch + 1 for batch in self._memory.skipped)])
        return None

    def decide(
        self,
        *,
        step: int,
        batch: int,
        judgement: Judgement,
        checkpoints: Sequence[Checkpoint],
        mode: Mode,
    ) -> Action:
        """Returns what to do after the judged `step`; `batch` is the next one of the data order.

        Asks for the same again until it was noted or the condition has ended. mode advisory:
        carry_on with the reason "advisory: would ..." once per alert, with alert, checkpoint and
        batches filled in as the action had them, so that they can be shown; nothing is counted.
        mode off: always carry_on.
        """
        self._segment = judgement.segment
        self._conditions = {c.alert.id: c for c in judgement.conditions}
        if mode == "off":
            return Action("carry_on", "the policy is off")
        action = self._wanted(step, batch, judgement, checkpoints)
        if mode == "on" or action.kind == "carry_on":
            return action
        key = f"{action.kind} {action.alert_id}"
        if key in self._advised:
            return Action("carry_on", "advisory: already said", action.alert_id)
        self._advised.add(key)
        return replace(action, kind="carry_on", reason=f"{ADVISED}{action.reason}")

    def note(
        self,
        action: Action,
        step: int,
        batch: int,
        *,
        is_automatic: bool = True,
        segment: int | None = None,
    ) -> None:
        """Remembers, on the disk before it returns, that an action is carried out. carry_on is not
        an action.

        A rollback that a person asked for (`is_automatic=False`) is remembered, but takes nothing
        from the budget. segment: the one that is left, by default that of the last judgement; a
        process that was just resumed has judged nothing yet.
        """
        if action.kind == "carry_on":
            return
        condition = self._conditions.get(action.alert_id or "")
        hardened_to = 1.0
        if condition is not None and condition.can_harden and action.kind == "rollback":
            hardened_to = min(
                self._limits.most_hardened,
                self.hardness(condition.rule) * self._limits.harden_factor,
            )
        self._memory.add_action(
            Taken(
                action.kind,
                step,
                batch,
                action.alert_id,
                action.to_step,
                self._segment if segment is None else segment,
                is_automatic,
                "" if condition is None else condition.rule,
                hardened_to,
            )
        )
        if action.kind == "rollback" and action.to_step is not None:
            self._healthy_since = action.to_step

    def hardness(self, rule: str) -> float:
        """The factor on a rule's threshold that its score must exceed for the next rollback."""
        hardened = self._memory.hardened.get(rule)
        if hardened is None:
            return 1.0
        num_healthy = self._memory.num_healthy + self._num_healthy - hardened.num_healthy
        factor = 1.0 + (hardened.factor - 1.0) * 0.5 ** (num_healthy / self._limits.relax_steps)
        return factor if factor > _UNHARDENED else 1.0

    def skip_batch(self, batch: int) -> None:
        """Remembers, on the disk before it returns, a batch that vetting found bad."""
        self._memory.add_skipped(batch)

    def certify(
        self, step: int, checkpoints: Sequence[Checkpoint], judgement: Judgement
    ) -> list[Checkpoint]:
        """Returns the checkpoints whose health changed with this step, as they are now.

        certified: the run stayed healthy for `certify_after_steps` after it, under rules that could
        already speak; the initial state always is.
        tainted: saved after an alert's onset less `margin_steps` (a certificate is taken back), or
        left behind on the branch that a rollback abandoned. Tainted is for good.
        An alarm that ended because its detector learnt a new baseline has shown nothing healthy:
        from its onset less the margin to `window_steps` after its end every state is tainted, and
        what was fresh before stays so. The way back is what was certified before it.
        """
        self._segment = judgement.segment
        if self._healthy_since is None or step < self._healthy_since:
            self._healthy_since = step
        if not (judgement.is_healthy and judgement.can_judge):
            self._healthy_since = step + 1
        else:
            self._relax()
        for ended in judgement.explained_away:
            if ended.impugns_state:
                until = step + self._limits.window_steps
                self._memory.add_explained_away(
                    ExplainedAway(ended.alert.onset_step, until, judgement.segment)
                )
        unproven = self._unproven()
        limit = min(
            (
                self._began(condition, judgement.conditions).alert.onset_step
                - self._limits.margin_steps
                for condition in judgement.conditions
                if condition.impugns_state
            ),
            default=None,
        )
        changed = []
        for checkpoint in checkpoints:
            health = checkpoint.health
            healthy_steps = step - max(checkpoint.step, self._healthy_since)
            if checkpoint.step == self._first_step:
                health = "certified"
            elif (
                self.is_abandoned(checkpoint)
                or (limit is not None and checkpoint.step > limit)
                or any(first < checkpoint.step <= last for first, last in unproven)
            ):
                health = "tainted"
            elif (
                health == "fresh"
                and healthy_steps >= self._limits.certify_after_steps
                and not any(checkpoint.step <= last for _, last in unproven)
            ):
                health = "certified"
            if health != checkpoint.health:
                changed.append(replace(checkpoint, health=health))
        return changed

    def is_abandoned(self, checkpoint: Checkpoint) -> bool:
        """Whether a rollback left this state behind on the branch that it went back from."""
        return self._memory.is_left_behind(checkpoint.step, checkpoint.segment)

    def _wanted(
        self, step: int, batch: int, judgement: Judgement, checkpoints: Sequence[Checkpoint]
    ) -> Action:
        if self.skips_left == 0:
            return Action(
                "halt",
                f"halt: this incident passed over {self._memory.num_skipped_in_incident} batches "
                f"(policy.most_skipped_batches is {self._limits.most_skipped_batches})",
            )
        handled = {(taken.alert_id, taken.kind) for taken in self._memory.actions}
        is_cooling = self._is_cooling(step)
        waiting = ""
        for kind in ("halt", "rollback", "damp", "skip_data"):
            for condition in judgement.conditions:
                alert = condition.alert
                if condition.action != kind or handled & {(alert.id, kind), (alert.id, "halt")}:
                    continue
                if not condition.is_immediate:
                    is_in_grace = kind == "rollback" and (
                        step < alert.fired_step + self._limits.grace_steps
                    )
                    if is_cooling or is_in_grace or not condition.is_raised:
                        waiting = waiting or self._waiting(condition, is_cooling, is_in_grace)
                        continue
                if kind == "rollback" and self._is_below_hardened(condition):
                    if (alert.id, "damp") in handled:
                        waiting = waiting or f"{condition.rule}: {self._hardened_words(condition)}"
                        continue
                    return self._damp(condition)
                return self._act(condition, step, batch, checkpoints, judgement.conditions)
        return Action("carry_on", waiting or "nothing holds")

    def _waiting(self, condition: Condition, is_cooling: bool, is_in_grace: bool) -> str:
        if is_cooling:
            return f"{condition.rule}: cooling down after the last action"
        if is_in_grace:
            return f"{condition.rule}: may heal by itself"
        return f"{condition.rule}: healing"

    def _act(
        self,
        condition: Condition,
        step: int,
        batch: int,
        checkpoints: Sequence[Checkpoint],
        conditions: Sequence[Condition],
    ) -> Action:
        alert, limits = condition.alert, self._limits
        if condition.action == "halt":
            return Action("halt", f"halt: {alert.message}", alert.id)
        if condition.action == "damp":
            return self._damp(condition)
        if condition.action == "skip_data":
            return Action(
                "skip_data",
                f"judge the next batches before they are trained on: {alert.message}",
                alert.id,
                vet_from_batch=batch,
                vet_until_batch=batch + limits.damp_steps,
            )
        began = self._began(condition, conditions)
        return self._roll_back(condition, began, step, batch, checkpoints)

    def _damp(self, condition: Condition) -> Action:
        alert, limits = condition.alert, self._limits
        instead = ""
        if condition.action == "rollback":
            instead = f" and do not roll back, as {self._hardened_words(condition)}"
        return Action(
            "damp",
            f"scale the learning rate by {limits.damp_scale:g} "
            f"for {limits.damp_steps} steps{instead}: {alert.message}",
            alert.id,
            learning_rate_scale=limits.damp_scale,
            for_steps=limits.damp_steps,
        )

    def _is_below_hardened(self, condition: Condition) -> bool:
        factor = self.hardness(condition.rule) if condition.can_harden else 1.0
        return factor > 1.0 and condition.peak <= condition.alert.threshold * factor

    def _hardened_words(self, condition: Condition) -> str:
        factor, threshold = self.hardness(condition.rule), condition.alert.threshold
        return (
            f"after its last rollback {condition.rule} asks for the next above "
            f"{threshold * factor:.3g} (limit {threshold:g} x {factor:.3g}) "
            f"and came to {condition.peak:.3g}"
        )

    def _relax(self) -> None:
        if all(self.hardness(rule) == 1.0 for rule in self._memory.hardened):
            return
        self._num_healthy += 1
        if self._num_healthy >= NOTED_EVERY_STEPS:
            self._memory.add_healthy(self._num_healthy)
            self._num_healthy = 0

    def _began(self, condition: Condition, conditions: Sequence[Condition]) -> Condition:
        """The alarm with which an alarm's incident began: itself, or the one that holds with the
        earliest onset, of any severity, where that is no longer before its own than the slowest
        rule takes to notice. One that has stood for longer is another matter."""
        onset = condition.alert.onset_step
        corroborating = (
            other
            for other in conditions
            if other.speaks_of_training
            and other.alert.segment == condition.alert.segment
            and onset - self._limits.certify_after_steps <= other.alert.onset_step < onset
        )
        return min(corroborating, key=lambda other: other.alert.onset_step, default=condition)

    def _roll_back(
        self,
        condition: Condition,
        began: Condition,
        step: int,
        batch: int,
        checkpoints: Sequence[Checkpoint],
    ) -> Action:
        alert, limits = condition.alert, self._limits
        onset = began.alert.onset_step
        spent = [
            taken
            for taken in self._memory.actions
            if taken.kind == "rollback"
            and taken.is_automatic
            and taken.step > step - limits.window_steps
        ]
        if len(spent) >= limits.most_rollbacks:
            return Action(
                "halt",
                f"halt: {len(spent)} rollbacks within {limits.window_steps} steps "
                f"did not help: {alert.message}",
                alert.id,
            )
        trusted = sorted(
            (
                checkpoint
                for checkpoint in checkpoints
                if (checkpoint.health == "certified" or checkpoint.step == self._first_step)
                and not self.is_abandoned(checkpoint)
                and checkpoint.step <= max(self._first_step, onset - limits.margin_steps)
            ),
            key=lambda checkpoint: (checkpoint.step, checkpoint.segment),
        )
        if not trusted:
            return Action(
                "halt",
                f"halt: no certified state before step {onset} to go back to: {alert.message}",
                alert.id,
            )
        chosen = trusted[-1]
        tried = self._chain()
        is_deeper = bool(tried) and chosen.step <= max(tried)
        if is_deeper:
            # what was tried did not hold, and nothing newer was certified since: go behind all of
            # it
            older = [checkpoint for checkpoint in trusted if checkpoint.step < min(tried)]
            chosen = older[-1] if older else trusted[0]
        onset_batch = chosen.batch if began.onset_batch is None else began.onset_batch
        further = ", further than before and damped," if is_deeper else ""
        since = "" if began is condition else f" (it began with {began.rule} at step {onset})"
        is_hardened = condition.can_harden and self.hardness(condition.rule) > 1.0
        hardened = f" ({self._hardened_words(condition)})" if is_hardened else ""
        return Action(
            "rollback",
            f"roll back to step {chosen.step}{further} and vet the data: {alert.message}"
            f"{since}{hardened}",
            alert.id,
            to_step=chosen.step,
            vet_from_batch=max(chosen.batch, onset_batch - limits.margin_steps),
            vet_until_batch=batch + limits.margin_steps,
            learning_rate_scale=limits.damp_scale if is_deeper else 1.0,
            for_steps=limits.damp_steps if is_deeper else 0,
        )

    def _is_cooling(self, step: int) -> bool:
        for taken in reversed(self._memory.actions):
            if taken.is_automatic and taken.kind != "halt":
                start = taken.step if taken.to_step is None else taken.to_step
                return step < start + self._limits.cooldown_steps
        return False

    def _chain(self) -> list[int]:
        """Steps that the last rollbacks went to, as far as each began no later than where an
        earlier one had led."""
        chain: list[int] = []
        for taken in self._memory.actions:
            if taken.kind != "rollback" or taken.to_step is None:
                continue
            if chain and taken.to_step > max(chain):
                chain.clear()
            chain.append(taken.to_step)
        return chain

    def _unproven(self) -> list[tuple[int, int]]:
        """(last step before, last step of) each stretch whose alarm was explained away, as far as
        no rollback went to before it."""
        return [
            (alarm.onset_step - self._limits.margin_steps, alarm.until_step)
            for alarm in self._memory.explained_away
            if not any(
                taken.kind == "rollback"
                and taken.to_step is not None
                and taken.to_step <= alarm.onset_step - self._limits.margin_steps
                and alarm.segment <= taken.segment
                for taken in self._memory.actions
            )
        ]
