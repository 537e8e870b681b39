"""Replays rules over a stored run: what they would have raised and the policy would have asked for.

The samples of the store go through the judge and the policy in the order in which they were made.
Where the run went back or was resumed, so does the judge. The replay is a dry run itself: rules
marked so are judged as if they were not. What was left out on the way to the store is not judged.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..platform import catalogue
from ..platform.records import Action, ActionKind, Checkpoint, Event, Run, Segment, Severity
from ..platform.series import known_signals, measured_steps, read_series
from ..platform.store import Store
from .judge import Judge, Judgement
from .policy import Policy
from .policy_limits import Limits
from .rules import Rule
from .scoring import NEW_BASELINES

STEPS_AT_ONCE = 512
"""Read from the store in one go."""
_BESIDE = (catalogue.LOSS_SIGMA, catalogue.DATA_BATCH)
"""Signals that scores or onsets look at beside the rules' own."""


@dataclass(frozen=True, slots=True)
class Alarm:
    segment: int
    step: int
    rule: str
    severity: Severity
    is_dry_run: bool
    onset_step: int
    value: float
    threshold: float
    message: str
    action: ActionKind = "carry_on"
    """What the policy would have asked for while it held."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """How much a rule got to judge."""

    rule: str
    num_steps: int
    """Steps in which its signal was measured."""
    num_alarms: int


@dataclass(frozen=True, slots=True)
class Replay:
    run_id: str
    run: str
    num_steps: int
    alarms: tuple[Alarm, ...]
    rules: tuple[Heard, ...]


def limits_of(run: Run) -> Limits:
    """The policy's numbers of a stored run."""
    told = run.config.get("policy")
    told = told if isinstance(told, Mapping) else {}
    return Limits(**{name: told[name] for name in Limits.__slots__ if name in told})


def replay(
    store: Store, run: Run, rules: Sequence[Rule], shown: Sequence[str] | None = None
) -> Replay:
    """Judges a run's samples by the rules. shown: names of the rules to tell of; else all.

    Raises MoescopeError where the store is away or a rule cannot be.
    """
    wanted = [rule.name for rule in rules if rule.is_on] if shown is None else list(shown)
    dry = {rule.name for rule in rules if rule.is_dry_run}
    judge = Judge([rule.model_copy(update={"is_dry_run": False}) for rule in rules], run.id)
    signal_of = {rule.name: rule.signal for rule in rules}
    alarms: dict[str, Alarm] = {}
    num_measured: dict[str, int] = {}
    num_steps = 0
    checkpoints = {
        (c.segment, c.step): replace(c, health="fresh") for c in store.checkpoints(run.id)
    }
    with TemporaryDirectory() as folder:
        policy = Policy(limits_of(run), Path(folder) / "memory.jsonl", rules)
        for segment, step, time_s, values in _steps(store, run.id, judge, rules):
            num_steps += 1
            for name in values:
                num_measured[name] = num_measured.get(name, 0) + 1
            judgement = judge.step(step, segment, time_s, values)
            for found in _found(judgement, dry):
                alarms.setdefault(f"{found.segment}-{found.step}-{found.rule}", found)
            action = _asked(policy, judgement, checkpoints, values)
            if action.kind != "carry_on" and action.alert_id is not None:
                key = action.alert_id.removeprefix(f"{run.id}-")
                if key in alarms and alarms[key].action == "carry_on":
                    alarms[key] = replace(alarms[key], action=action.kind, reason=action.reason)
    told = tuple(alarm for alarm in alarms.values() if alarm.rule in wanted)
    heard = tuple(
        Heard(name, num_measured.get(signal_of[name], 0), sum(a.rule == name for a in told))
        for name in wanted
    )
    return Replay(run.id, run.name, num_steps, told, heard)


def _asked(
    policy: Policy,
    judgement: Judgement,
    checkpoints: dict[tuple[int, int], Checkpoint],
    values: Mapping[str, NDArray[Any]],
) -> Action:
    """What the policy wants after a step, by the checkpoints that there were by then; it is never
    told that it was done, so it asks as if this alarm were the first."""
    here = (judgement.segment, judgement.step + 1)
    known = [c for key, c in checkpoints.items() if key <= here]
    for changed in policy.certify(judgement.step, known, judgement):
        checkpoints[changed.segment, changed.step] = changed
    known = [c for key, c in checkpoints.items() if key <= here]
    batch = int(values.get(catalogue.DATA_BATCH, np.array(judgement.step))) + 1
    return policy.decide(
        step=judgement.step, batch=batch, judgement=judgement, checkpoints=known, mode="on"
    )


def _found(judgement: Judgement, dry: set[str]) -> Iterator[Alarm]:
    for alert in judgement.alerts:
        # one that comes back within its cooldown is here again under its first step
        yield Alarm(
            alert.segment,
            alert.fired_step,
            alert.rule,
            alert.severity,
            alert.rule in dry,
            alert.onset_step,
            alert.value,
            alert.threshold,
            alert.message,
        )
    for note in judgement.notes:
        told = note.details
        yield Alarm(
            note.segment,
            note.step,
            told["rule"],
            "info",
            told["rule"] in dry,
            told["onset_step"],
            told["value"],
            told["threshold"],
            note.text,
        )


def _steps(
    store: Store, run_id: str, judge: Judge, rules: Sequence[Rule]
) -> Iterator[tuple[int, int, float, dict[str, NDArray[Any]]]]:
    """Yields (segment, step, time, values) as they were made, with the judge brought to where each
    segment began."""
    measured = set(known_signals(store, run_id))
    signals = sorted(measured & {*(rule.signal for rule in rules if rule.is_on), *_BESIDE})
    segments = store.segments(run_id)
    announced = store.events(run_id, kinds=sorted(NEW_BASELINES))
    branches = {(s.parent_segment, s.start_step) for s in segments if s.parent_segment is not None}
    kept: dict[tuple[int, int], dict[str, Any]] = {}
    fresh = judge.state_dict()
    for segment in segments:
        parent = segment.parent_segment
        begun = fresh if parent is None else kept.get((parent, segment.start_step))
        if begun is not None:
            judge.load_state_dict(copy.deepcopy(begun))
        ahead = [e for e in announced if e.segment == segment.index]
        forks = sorted(step for index, step in branches if index == segment.index)
        # a segment may be branched off where it begins itself, before its first step
        for step, time_s, values in _frames(store, run_id, segment, signals):
            while forks and forks[0] <= step:
                kept[segment.index, forks.pop(0)] = copy.deepcopy(judge.state_dict())
            ahead = _announce(judge, ahead, step)
            yield segment.index, step, time_s, values
        for step in forks:
            kept[segment.index, step] = copy.deepcopy(judge.state_dict())


def _announce(judge: Judge, ahead: list[Event], step: int) -> list[Event]:
    for event in ahead:
        if event.step <= step:
            judge.announce(event.kind, event.step)
    return [event for event in ahead if event.step > step]


def _frames(
    store: Store, run_id: str, segment: Segment, signals: Sequence[str]
) -> Iterator[tuple[int, float, dict[str, NDArray[Any]]]]:
    """Yields (step, time, values) of a segment, a few hundred steps of the store at once."""
    steps = measured_steps(store, run_id, signals).get(segment.index)
    if steps is None:
        return
    for first in range(steps[0], steps[1] + 1, STEPS_AT_ONCE):
        frames: dict[int, dict[str, NDArray[Any]]] = {}
        times_s: dict[int, float] = {}
        for name in signals:
            series = read_series(
                store,
                run_id,
                name,
                from_step=first,
                to_step=first + STEPS_AT_ONCE - 1,
                segments=[segment.index],
            )
            for step, time_s, value in zip(
                series.steps.tolist(), series.times_s.tolist(), series.values, strict=True
            ):
                frames.setdefault(step, {})[name] = np.asarray(value)
                times_s[step] = time_s
        for step in sorted(frames):
            yield step, times_s[step], frames[step]
