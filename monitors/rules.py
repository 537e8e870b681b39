"""Rules are data: which signal, judged how, for how long, how bad it is and what to do about it."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from ..platform import catalogue
from ..platform.catalogue import ENTRY_NAMES, signal_spec
from ..platform.errors import MoescopeError, did_you_mean
from ..platform.frozen import Frozen, parsed
from ..platform.records import Severity
from ..platform.signals.spec import SignalSpec
from .detectors.drift import DriftScore
from .detectors.level_shift import LevelShift
from .detectors.own_baseline import Change, Multiple
from .detectors.spike import SpikeScore

Detector = Literal[
    "spike",
    "burst",
    "drift",
    "level_shift",
    "divergence",
    "non_finite",
    "dead_experts",
    "monopoly",
    "deadlock",
    "collapse",
    "rise",
    "fall",
    "multiple",
    "above",
]
RuleAction = Literal["observe", "skip_data", "damp", "rollback", "halt"]

PARAMETERS: Mapping[str, frozenset[str]] = {
    "spike": frozenset({"window", "min_count", "floor", "level_rate", "is_log"}),
    "drift": frozenset({"window", "min_count", "lag", "slack", "floor", "restart", "is_log"}),
    "burst": frozenset({"window", "min_count", "floor", "level_rate", "slack", "is_log"}),
    "level_shift": frozenset({"num_recent", "window", "min_count", "lag", "floor", "is_log"}),
    "divergence": frozenset({"num_first", "num_last"}),
    "non_finite": frozenset(),
    "dead_experts": frozenset({"min_expected", "min_steps"}),
    "monopoly": frozenset({"memory_steps"}),
    "deadlock": frozenset({"memory_steps", "min_steps"}),
    "collapse": frozenset({"window", "min_count"}),
    "rise": frozenset({"window", "min_count", "floor", "reject", "is_log"}),
    "fall": frozenset({"window", "min_count", "floor", "reject", "is_log"}),
    "multiple": frozenset({"window", "min_count", "lag", "reject"}),
    "above": frozenset(),
}
"""What each detector can be told; a parameter that is not given has the detector's own default."""

MOST_STEPS = 1_000_000
MOST_OF_ENTRIES = 1000
"""Values that a window of every entry of a vector may have."""
LIMITS: Mapping[str, tuple[float, float]] = {
    "window": (2, 100_000),
    "min_count": (2, 100_000),
    "lag": (0, 100_000),
    "min_steps": (1, MOST_STEPS),
    "memory_steps": (1, MOST_STEPS),
    "min_expected": (0.0, 1e12),
    # a spread of 0 is divided by where values do not vary
    "floor": (1e-12, 1e12),
    "level_rate": (0.0, 1.0),
    "reject": (0.0, 1e12),
    "slack": (0.0, 3.0),
    "restart": (1e-3, 1e12),
    "is_log": (0, 1),
    "num_recent": (2, 10_000),
    "num_first": (1, 10_000),
    "num_last": (1, 10_000),
}
"""Least and most that a parameter may be. slack: the winsorised score adds at most 3 a step."""
COUNTS = (
    *("window", "min_count", "lag", "min_steps", "memory_steps", "is_log"),
    *("num_recent", "num_first", "num_last"),
)
"""Parameters that are whole numbers."""
_WINDOWED: Mapping[str, Callable[..., object]] = {
    "spike": SpikeScore,
    "burst": SpikeScore,
    "drift": DriftScore,
    "level_shift": LevelShift,
    "rise": Change,
    "fall": Change,
    "multiple": Multiple,
}
"""Detectors that judge nothing before `min_count` values are in their `window`."""

_EXPERT_DETECTORS = ("dead_experts", "monopoly", "deadlock")
_OWN_PAST = ("rise", "fall", "multiple")
_SCALAR_DETECTORS = ("burst", "level_shift", "divergence")


def _entry(value: object) -> object:
    # asked first: a union would tell why it is none of its members, each in words of its own
    if isinstance(value, str) or (type(value) is int and value >= 0):
        return value
    raise ValueError("expected a name, or a number counted from 0")


Entry = Annotated[int | str, BeforeValidator(_entry)]
"""An entry of a dimension, by number or name."""

_OF_MACHINES = ("time/", "speed/", "system/", "sink/", "data/")


class Rule(Frozen):
    """One row of the table of rules. Rules on the same signal, detector and parameters share one
    detector."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    signal: str
    """A measured signal of the catalogue, or a user's own (`user/...`)."""
    detector: Detector
    """spike: robust z-score. burst: several high ones together. drift: lagged CUSUM. level_shift:
    a median that moved. divergence: times where the training began. non_finite: share of NaN and
    infinite values. dead_experts: how many. monopoly: the leaders' share of the routing. deadlock:
    layers in which the same few experts get everything. collapse: how far the entropies of load and
    of tokens have both fallen. rise, fall: robust z against the own past, for scalars and vectors.
    multiple: over the own median. above: the value itself.
    High is bad for all of them; vectors count by their worst entry."""
    parameters: dict[str, float] = Field(default_factory=dict)
    scope: dict[str, tuple[Entry, ...]] = Field(default_factory=dict)
    """Which entries of a vector signal count, by dimension: `moe_layer: [0, 1]`, `modality:
    [audio]`. A dimension that is not named counts as a whole."""
    threshold: float
    """The score must exceed it."""
    patience: PositiveInt = Field(default=1, le=100_000)
    """Exceeding scores that it takes ..."""
    of_last: PositiveInt = Field(default=1, le=100_000)
    """... among this many."""
    raised: float | None = None
    """Scores above this already belong to the stretch whose first step is the onset; the threshold
    if it is not given."""
    calm_steps: PositiveInt = Field(default=5, le=MOST_STEPS)
    """Scores in a row without excess that end the stretch."""
    cooldown_steps: NonNegativeInt = Field(default=0, le=MOST_STEPS)
    """Steps after an alarm in which this rule raises no further one."""
    severity: Severity
    """info is recorded as a note, not raised as an alert."""
    action: RuleAction = "observe"
    """What the policy may do: the highest rung that this rule can ask for."""
    is_immediate: bool = False
    """Whether the action waits neither for the grace window nor for a cooldown."""
    silenced_by: tuple[str, ...] = ()
    """Rules of the table while whose alarms this one takes its score for 0: one incident, one
    alert. An alarm of its own that holds already is not touched."""
    delay_p99_steps: NonNegativeInt = Field(le=MOST_STEPS)
    """Steps from the onset to the alarm, 99th percentile: what a certificate must wait for if the
    rule rolls back."""
    message: str
    """What was found, in one clause; numbers are added."""
    meaning: str = ""
    """What it says about the run, for whoever is called."""
    advice: str = ""
    """What a person should do."""
    is_dry_run: bool = False
    """Judged, but an alarm is only noted with what it would have asked for: nothing is done, and
    nothing is held against the state."""
    is_on: bool = True
    """A rule that is off keeps its name and is not judged."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        try:
            spec = signal_spec(self.signal)
        except MoescopeError as error:
            raise ValueError(str(error)) from None
        if self.patience > self.of_last:
            raise ValueError(
                f"patience is {self.patience}, but of_last is {self.of_last}: use at most as much"
            )
        for parameter in self.parameters:
            if parameter not in PARAMETERS[self.detector]:
                known = sorted(PARAMETERS[self.detector])
                raise ValueError(
                    f"detector {self.detector} has no parameter {parameter}"
                    f"{did_you_mean(parameter, known)} (there are: {', '.join(known) or 'none'})"
                )
        is_counts = spec.name == catalogue.EXPERT_TOKENS
        if is_counts != (self.detector in _EXPERT_DETECTORS):
            raise ValueError(
                f"detector {self.detector} does not fit signal "
                f"{self.signal}: {' and '.join(_EXPERT_DETECTORS)} judge "
                f"{catalogue.EXPERT_TOKENS}, the others judge values"
            )
        if self.detector in _SCALAR_DETECTORS and spec.dimensions:
            raise ValueError(
                f"detector {self.detector} judges scalars, but {self.signal} has "
                f"dimensions {' x '.join(spec.dimensions)}"
            )
        if self.detector == "collapse" and spec.name != catalogue.LOAD_ENTROPY_NATS:
            raise ValueError(
                f"detector collapse judges {catalogue.LOAD_ENTROPY_NATS} with "
                f"{catalogue.ROUTER_ENTROPY_NATS}: give it that signal"
            )
        if self.detector in _OWN_PAST and "other_expert" in spec.dimensions:
            raise ValueError(
                f"rule {self.name}: {self.signal} has an entry for each pair of experts, too many "
                f"for a window each: use detector above, or another signal than {self.signal}"
            )
        if self.detector in _OWN_PAST and self.parameters.get("window", 0) > MOST_OF_ENTRIES:
            raise ValueError(
                f"rule {self.name}: parameters.window is {self.parameters['window']:g}, but "
                f"{self.detector} holds one for each entry: {MOST_OF_ENTRIES} at most"
            )
        if self.detector in _OWN_PAST and "sample" in spec.dimensions:
            raise ValueError(
                f"detector {self.detector} compares entries with their own past, "
                f"which the samples of {self.signal} do not have"
            )
        is_vector = bool(spec.dimensions) and spec.name != catalogue.LOSS_PER_SAMPLE
        if self.detector in ("spike", "drift") and is_vector:
            raise ValueError(
                f"detector {self.detector} judges scalars and "
                f"{catalogue.LOSS_PER_SAMPLE}, but {self.signal} has dimensions "
                f"{' x '.join(spec.dimensions)}"
            )
        if self.severity == "info" and self.action != "observe":
            raise ValueError(
                f"action is {self.action}, but of severity info only a note is made: give it "
                "severity warning or critical, or action observe"
            )
        for fault in (*_faults_of_parameters(self), *_faults_of_scope(self.scope, spec)):
            raise ValueError(fault)
        return self

    @property
    def impugns_state(self) -> bool:
        """Whether, while it holds, states saved since its onset are not to be trusted."""
        return self.acts and self.action in ("damp", "rollback", "halt")

    @property
    def speaks_of_training(self) -> bool:
        """Whether it is about what is trained, and not about time, machines or sinks."""
        return is_of_training(self.signal)

    @property
    def acts(self) -> bool:
        """Whether an alarm has consequences."""
        return self.is_on and not self.is_dry_run


def is_of_training(signal: str) -> bool:
    """Whether a state could tell anything of a signal."""
    return not signal.startswith(_OF_MACHINES)


def _faults_of_parameters(rule: Rule) -> Iterator[str]:
    for name, value in rule.parameters.items():
        least, most = LIMITS.get(name, (value, value))
        if not least <= value <= most:
            yield f"parameters.{name} is {value:g}: {least:g} to {most:g} is allowed"
        elif name in COUNTS and value != int(value):
            yield f"parameters.{name} is {value:g}: a whole number is expected"
    if rule.signal == catalogue.LOSS_PER_SAMPLE and "level_rate" in rule.parameters:
        yield (
            f"parameters.level_rate has no effect on {rule.signal}, whose level follows the "
            "training by itself: leave it out"
        )
    if rule.detector not in _WINDOWED:
        return
    known = inspect.signature(_WINDOWED[rule.detector]).parameters
    window, min_count = (
        rule.parameters.get(name, known[name].default) for name in ("window", "min_count")
    )
    if window < min_count:
        yield (
            f"parameters.window is {window:g}, but nothing is judged before {min_count:g} values "
            "are in it: make it longer, or parameters.min_count smaller"
        )
    lag, num_recent = rule.parameters.get("lag", 48), rule.parameters.get("num_recent", 32)
    if rule.detector == "level_shift" and lag < num_recent:
        yield (
            f"parameters.lag is {lag:g}, but the newest {num_recent:g} values must not be in their "
            f"own baseline: use at least {num_recent:g}"
        )


def _faults_of_scope(scope: Mapping[str, tuple[int | str, ...]], spec: SignalSpec) -> Iterator[str]:
    # a sample of a batch has no place that it keeps from step to step
    known = [name for name in spec.dimensions if name != "sample"]
    for dimension, entries in scope.items():
        if dimension not in known:
            hint = did_you_mean(dimension, known)
            yield (
                f"{spec.name} has no dimension {dimension} to choose from{hint} "
                f"(there are: {', '.join(known) or 'none'})"
            )
        elif not entries:
            yield f"scope.{dimension} names no entry: leave it out to count all"
        elif dimension in ENTRY_NAMES:
            names = ENTRY_NAMES[dimension]
            for entry in entries:
                if entry not in names:
                    near = did_you_mean(str(entry), names)
                    yield f"unknown {dimension} {entry}{near} (there are: {', '.join(names)})"
        else:
            for entry in entries:
                if isinstance(entry, str):
                    yield f"scope.{dimension} has {entry!r}: entries are counted from 0"


def read_rules(rows: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Validates rows as read from a file. Raises MoescopeError with field, value and what is
    allowed."""
    rules = tuple(parsed(Rule, row, f"rule {row.get('name', '?')}") for row in rows)
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise MoescopeError(
                f"rule {name} is there {names.count(name)} times: give each its own name"
            )
    return rules


def check_certification(rules: Sequence[Rule], certify_after_steps: int) -> None:
    """Raises MoescopeError where a checkpoint would be certified before the slowest rollback rule
    could have spoken."""
    slowest = max(
        (rule for rule in rules if rule.acts and rule.action == "rollback"),
        key=lambda rule: rule.delay_p99_steps,
        default=None,
    )
    if slowest is not None and certify_after_steps < slowest.delay_p99_steps:
        raise MoescopeError(
            f"policy.certify_after_steps is {certify_after_steps}, but rule {slowest.name} may "
            f"take {slowest.delay_p99_steps} steps to fire: use at least {slowest.delay_p99_steps}"
        )
