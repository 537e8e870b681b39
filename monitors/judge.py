"""The judge: signals of a step in, scores and alerts out. It decides nothing and waits for
nobody."""

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.errors import MoescopeError, did_you_mean
from ..platform.records import Alert, Event, EventKind
from .alert_words import HARDENS_IN, alert_of, ended_alert, note_of, unit_of
from .rules import Rule, RuleAction
from .scope import scope_key, scoped
from .scorers import make_scorer, scorer_key
from .scoring import NEW_BASELINES, LossScorer, Score, Scorer
from .windows import Persistence

VET_THRESHOLD = 3.5
"""Sigmas from which an unseen batch is passed over: 0.02% of normal scores, and no more than what
raises the alarm."""
BATCH_MEMORY_STEPS = 512
"""Steps whose batch index is remembered, so that an onset can be told as a place in the data."""

_JUDGED_BY = (
    *("signal", "detector", "parameters", "scope", "threshold", "patience", "of_last"),
    *("raised", "calm_steps"),
)
"""Fields of a rule that its scores and flags depend on: with others they begin anew."""
_SEVERITIES = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class Condition:
    """An alarm whose stretch has not ended."""

    rule: str
    alert: Alert
    action: RuleAction
    is_immediate: bool
    impugns_state: bool
    is_raised: bool
    """Whether the newest score exceeds the threshold: a spike that keeps going, or one that is
    healing."""
    onset_batch: int | None
    """Batch of the onset step, where data/batch was given."""
    peak: float = math.inf
    """The highest score since the alarm."""
    can_harden: bool = False
    """Whether the policy may ask for more than the rule's threshold before it rolls back again."""
    is_explained_away: bool = False
    """Whether its detector has learnt a new baseline since its last high score: where it ends now,
    nothing has healed."""
    speaks_of_training: bool = True
    """Whether its onset may be that of what another alarm is about."""


@dataclass(frozen=True, slots=True)
class Judgement:
    step: int
    segment: int
    scores: Mapping[str, NDArray[np.float32]]
    """Catalogue signals to be recorded with the step."""
    alerts: tuple[Alert, ...] = ()
    """Fired with this step, critical ones first. One that had healed and comes back within its
    rule's cooldown is here again under the id it had."""
    healed: tuple[Alert, ...] = ()
    """Alerts whose stretch ended with this step, as resolved; `ended` in the evidence says where
    that was a new baseline."""
    explained_away: tuple[Condition, ...] = ()
    """Those of them that ended because their detector learnt a new baseline."""
    notes: tuple[Event, ...] = ()
    """What rules of severity info saw: worth a mark, not an alert."""
    conditions: tuple[Condition, ...] = ()
    """All alarms that still hold, critical ones first."""
    is_healthy: bool = True
    """Whether nothing that holds speaks against the state of the training."""
    can_judge: bool = True
    """False while a rule that rolls back is still learning its baseline: then its silence certifies
    nothing."""


@dataclass(frozen=True, slots=True)
class Vetting:
    is_bad: bool
    score: float
    """Sigmas, as the loss spike score; infinite where a loss is not finite."""
    reason: str = ""


@dataclass(slots=True)
class _Watch:
    """One rule at work."""

    rule: Rule
    key: str
    persistence: Persistence
    last_alert: Alert | None = None
    condition: Condition | None = None


class Judge:
    """Applies the rules to the values of each step, in the order of the steps. Rules that are off
    are passed over.

    It must see every step's values once. Its state belongs to the training state: it is saved with
    a checkpoint and goes back with a rollback. Alert ids are made of run, segment, step and rule,
    so that a judge that was restored and sees the same again names it the same.
    """

    def __init__(self, rules: Sequence[Rule], run_id: str) -> None:
        self._run_id = run_id
        self._rules = [rule for rule in rules if rule.is_on]
        self._scorers = self._fresh_scorers()
        self._watches = [_Watch(rule, _key(rule), _persistence(rule)) for rule in self._rules]
        self._dropped: list[Alert] = []
        names = [rule.name for rule in rules]
        for rule in rules:
            for name in rule.silenced_by:
                if name not in names:
                    raise MoescopeError(
                        f"rule {rule.name}: silenced_by names {name}, which is no rule here"
                        f"{did_you_mean(name, names)}"
                    )
        # a stable sort: within a severity the order of the table
        self._watches.sort(key=lambda watch: _SEVERITIES.index(watch.rule.severity))
        self._batches: deque[tuple[int, int]] = deque(maxlen=BATCH_MEMORY_STEPS)

    def with_rules(self, rules: Sequence[Rule]) -> "Judge":
        """Returns a judge by other rules that goes on from where this one is: rules that stay as
        they are keep baselines, flags and alarms. Raises as `Judge` does.

        An alarm whose rule is gone, off, or judges otherwise now is resolved with the next step.
        """
        other = Judge(rules, self._run_id)
        other.load_state_dict(self.state_dict())
        return other

    def step(
        self, step: int, segment: int, time_s: float, values: Mapping[str, NDArray[Any]]
    ) -> Judgement:
        """Judges the values of one step. A signal that was not measured in it leaves its rules as
        they were."""
        if catalogue.DATA_BATCH in values:
            self._batches.append((step, int(np.asarray(values[catalogue.DATA_BATCH]))))
        notes: list[Event] = []
        scores: dict[str, Mapping[str, Score]] = {}
        for key, scorer in list(self._scorers.items()):
            try:
                scores[key] = scorer.update(step, values)
            except Exception as error:  # a rule that cannot be judged must not end a training
                names = self._switch_off(key)
                text = f"switched off: {', '.join(names)}: {type(error).__name__}: {error}"
                notes.append(Event(self._run_id, segment, step, time_s, "note", text))
        recorded: dict[str, NDArray[np.float32]] = {}
        for by_detector in scores.values():
            for score in by_detector.values():
                # the first rule of the table is the one whose score is recorded
                recorded = {**score.recorded, **recorded}
        alerts: list[Alert] = []
        healed = [replace(a, state="resolved", changed_s=time_s) for a in self._dropped]
        self._dropped.clear()
        explained_away: list[Condition] = []
        can_judge = True
        for watch in self._watches:
            found = scores[watch.key].get(watch.rule.detector)
            if found is None:
                continue
            if watch.rule.action == "rollback" and watch.rule.acts:
                can_judge = can_judge and found.is_ready
            before = watch.condition
            fired = self._apply(watch, found, step, segment, time_s)
            if before is not None and watch.condition is None:
                is_explained_away = _is_explained_away(before, watch.persistence, found)
                ended = ended_alert(before.alert, is_explained_away, time_s)
                healed.append(ended)
                explained_away += [before] * is_explained_away
            if fired is None:
                continue
            if _is_only_noted(watch.rule):
                notes.append(note_of(fired, watch.rule))
            else:
                alerts.append(fired)
        conditions = tuple(w.condition for w in self._watches if w.condition is not None)
        return Judgement(
            step,
            segment,
            recorded,
            tuple(alerts),
            tuple(healed),
            tuple(explained_away),
            tuple(notes),
            conditions,
            not any(condition.impugns_state for condition in conditions),
            can_judge,
        )

    def holding(self) -> set[str]:
        """Ids of the alerts whose alarms hold."""
        return {w.condition.alert.id for w in self._watches if w.condition is not None}

    def announce(self, kind: EventKind, step: int) -> None:
        """Takes an event that explains a change: decay, resolution, data_change and resume give new
        baselines.

        Alarms that hold end by themselves, since the new baseline finds nothing odd; flags that
        have not yet become an alarm are dropped. Other kinds change nothing. `step`: the first step
        after the event.
        """
        if kind not in NEW_BASELINES:
            return
        anew = {key: scorer.announce(kind) for key, scorer in self._scorers.items()}
        for watch in self._watches:
            if not watch.persistence.is_active:
                watch.persistence.clear()
            # the other events explain a change, a resume explains none
            elif kind == "resume" and watch.rule.detector in anew[watch.key] and watch.condition:
                watch.condition = replace(watch.condition, is_explained_away=True)

    def vet(self, values: Mapping[str, NDArray[Any]]) -> Vetting:
        """Judges a batch that was not trained on by its per-sample losses (loss/per_sample,
        loss/sigma).

        Pure: the same question gets the same answer. Without a rule on the losses, and while the
        baseline is still being learnt, only losses that are not finite are bad.
        """
        scorer = self._scorers.get(catalogue.LOSS_PER_SAMPLE)
        if isinstance(scorer, LossScorer):
            score = scorer.vet(values)
        else:
            is_finite = np.isfinite(np.asarray(values[catalogue.LOSS_PER_SAMPLE])).all()
            score = 0.0 if is_finite else math.inf
        if score == math.inf:
            return Vetting(True, score, "a loss is not finite")
        if score > VET_THRESHOLD:
            reason = f"loss {score:.1f} sigma above its usual range (limit {VET_THRESHOLD:g})"
            return Vetting(True, score, reason)
        return Vetting(False, score)

    def _switch_off(self, key: str) -> list[str]:
        """Judges no more by a scorer and the rules that share it; returns their names. It lasts as
        long as this judge: a resume tries them again."""
        del self._scorers[key]
        off = [watch for watch in self._watches if watch.key == key]
        self._dropped += [watch.condition.alert for watch in off if watch.condition is not None]
        self._watches = [watch for watch in self._watches if watch.key != key]
        return [watch.rule.name for watch in off]

    def _fresh_scorers(self) -> dict[str, Scorer]:
        scorers: dict[str, Scorer] = {}
        for rule in self._rules:
            key = _key(rule)
            if key not in scorers:
                alike = [other for other in self._rules if _key(other) == key]
                scorers[key] = scoped(rule, make_scorer(rule, alike))
        return scorers

    def _apply(
        self,
        watch: _Watch,
        found: Score,
        step: int,
        segment: int,
        time_s: float,
    ) -> Alert | None:
        """Feeds a rule its score; returns the alert that it raises with this step."""
        rule = watch.rule
        is_silent = not watch.persistence.is_active and any(
            other.condition is not None and other.rule.name in rule.silenced_by
            for other in self._watches
        )
        onset = watch.persistence.update(step, 0.0 if is_silent else found.value, found.is_held)
        if watch.condition is not None:
            if not watch.persistence.is_active:
                watch.condition = None
            else:
                watch.condition = replace(
                    watch.condition,
                    is_raised=watch.persistence.is_raised,
                    peak=max(watch.condition.peak, found.value),
                    is_explained_away=_is_explained_away(watch.condition, watch.persistence, found),
                )
        if onset is None:
            return None
        if found.onset_step is not None:
            onset = min(onset, found.onset_step)
        before = watch.last_alert
        if before is not None and step - before.fired_step <= rule.cooldown_steps:
            # the same incident goes on: it is open again under its first alert, which calls nobody
            # a second time
            alert = before
            if _is_only_noted(rule):
                return None
        else:
            onset_batch = self._batch_of(onset)
            alert = alert_of(self._run_id, rule, found, onset, onset_batch, step, segment, time_s)
            watch.last_alert = alert
        if not _is_only_noted(rule):
            condition = _condition(rule, alert, peak=found.value)
            watch.condition = replace(condition, is_explained_away=found.is_learnt_anew is True)
        return alert

    def _batch_of(self, step: int) -> int | None:
        return next((batch for s, batch in reversed(self._batches) if s == step), None)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next judgement depends on: plain values and numpy arrays."""
        return {
            "scorers": {key: scorer.state_dict() for key, scorer in self._scorers.items()},
            "rules": {
                watch.rule.name: {
                    "judged_by": _judged_by(watch.rule),
                    "persistence": watch.persistence.state_dict(),
                    "last_alert": None if watch.last_alert is None else asdict(watch.last_alert),
                    "condition": None if watch.condition is None else asdict(watch.condition),
                }
                for watch in self._watches
            },
            "batches": [list(pair) for pair in self._batches],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back a saved state. Rules that are new or judge otherwise than when it was saved
        begin anew. Alarms of theirs, of rules that are gone, and of a branch that is left by going
        back, are resolved with the next step.
        """
        standing = [w.condition.alert for w in self._watches if w.condition is not None]
        self._scorers = self._fresh_scorers()
        for key, scorer in self._scorers.items():
            if key in state["scorers"]:
                scorer.load_state_dict(state["scorers"][key])
        for watch in self._watches:
            watch.persistence.clear()
            watch.last_alert = watch.condition = None
        watches = {watch.rule.name: watch for watch in self._watches}
        for name, saved in state["rules"].items():
            held, last, kept = watches.get(name), saved["last_alert"], saved["condition"]
            condition = Condition(**{**kept, "alert": Alert(**kept["alert"])}) if kept else None
            if held is not None and saved.get("judged_by") in (None, _judged_by(held.rule)):
                held.persistence.load_state_dict(saved["persistence"])
                held.last_alert = Alert(**last) if last else None
                if condition is not None and not _is_only_noted(held.rule):
                    # it may ask for another action now
                    new = _condition(held.rule, condition.alert, condition.peak)
                    held.condition = replace(
                        new,
                        is_raised=condition.is_raised,
                        is_explained_away=condition.is_explained_away,
                    )
            if condition is not None and (held is None or held.condition is None):
                self._dropped.append(condition.alert)
        holding = self.holding() | {alert.id for alert in self._dropped}
        self._dropped += [alert for alert in standing if alert.id not in holding]
        self._batches.clear()
        self._batches.extend((int(step), int(batch)) for step, batch in state["batches"])


def _key(rule: Rule) -> str:
    return scorer_key(rule) + scope_key(rule)


def _persistence(rule: Rule) -> Persistence:
    raised = rule.threshold if rule.raised is None else rule.raised
    return Persistence(rule.threshold, rule.patience, rule.of_last, rule.calm_steps, raised)


def _is_only_noted(rule: Rule) -> bool:
    return rule.severity == "info" or rule.is_dry_run


def _judged_by(rule: Rule) -> str:
    return json.dumps(rule.model_dump(mode="json", include=set(_JUDGED_BY)), sort_keys=True)


def _condition(rule: Rule, alert: Alert, peak: float) -> Condition:
    return Condition(
        rule.name,
        alert,
        rule.action,
        rule.is_immediate,
        rule.impugns_state,
        True,
        alert.evidence.get("onset_batch"),
        peak,
        unit_of(rule) in HARDENS_IN and not rule.is_immediate,
        speaks_of_training=rule.speaks_of_training,
    )


def _is_explained_away(condition: Condition, persistence: Persistence, found: Score) -> bool:
    if found.is_learnt_anew is not None:
        return found.is_learnt_anew
    return condition.is_explained_away and not persistence.is_raised
