"""What travels between folders: frozen, plain values. No ORM object leaves the store, no tensor
enters it.

Steps count optimizer steps from 0; a sample of step s was measured during step s. Times are seconds
since the epoch (UTC).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RunStatus = Literal["running", "finished", "stopped", "crashed", "halted"]
Mode = Literal["on", "advisory", "off"]
"""Automatic action per run: carried out, decided and shown only, or not even judged for action."""
Severity = Literal["info", "warning", "critical"]
AlertState = Literal["open", "acknowledged", "silenced", "resolved"]
Health = Literal["fresh", "certified", "tainted"]
CommandKind = Literal[
    "rollback", "checkpoint", "damp", "pause", "continue", "set_mode", "set_rules", "stop"
]
CommandState = Literal["asked", "taken", "done", "refused"]
ActionKind = Literal["carry_on", "skip_data", "damp", "rollback", "halt"]
StudyState = Literal["running", "paused", "cancelled"]
TrialState = Literal["waiting", "running", "done", "failed"]
ScheduleKind = Literal["cron", "interval", "once"]
SegmentReason = Literal["start", "resume", "changed", "rollback"]
EventKind = Literal[
    "decay",
    "resolution",
    "data_change",
    "resume",
    "rollback",
    "checkpoint",
    "guard",
    "skip_data",
    "damp",
    "note",
    "halt",
]


class DamagedConfig(dict[str, Any]):
    """Empty: stands for a stored configuration that cannot be read any more."""


@dataclass(frozen=True, slots=True)
class Run:
    id: str
    name: str
    project: str
    config: Mapping[str, Any]
    """The resolved configuration, as nested plain values; a DamagedConfig where it is lost."""
    status: RunStatus
    device: str
    code_version: str
    created_s: float
    heartbeat_s: float
    finished_s: float | None = None
    mode: Mode = "on"
    tags: tuple[str, ...] = ()
    note: str = ""
    is_archived: bool = False
    folder: str = ""
    """Where the run keeps its checkpoints, journal and log."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One uninterrupted stretch of a run; a resume or a rollback opens the next one."""

    run_id: str
    index: int
    start_step: int
    reason: SegmentReason
    created_s: float
    parent_segment: int | None = None
    parent_step: int | None = None
    """The last step of the parent that still counts; its later steps are the abandoned branch."""
    alert_id: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    """{dotted key: [old, new]} where a resume changed the configuration."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The samples of one step that were measured together.

    values: {signal name: float32 array of the signal's dimensions}.
    """

    run_id: str
    segment: int
    step: int
    time_s: float
    values: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run and is worth a mark on its charts."""

    run_id: str
    segment: int
    step: int
    time_s: float
    kind: EventKind
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


FOREVER_S = 253_402_300_799.0
"""The end of the year 9999: a silence until then lasts until a person ends it."""


@dataclass(frozen=True, slots=True)
class Alert:
    id: str
    run_id: str
    segment: int
    rule: str
    severity: Severity
    onset_step: int
    """The change point, not the alarm."""
    fired_step: int
    value: float
    threshold: float
    message: str
    created_s: float
    dedupe_key: str
    state: AlertState = "open"
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What speaks for it: signal, layers, and the flight record's file where one was written."""
    changed_by: str = ""
    changed_s: float | None = None
    silenced_until_s: float | None = None
    """Until when its rule is silenced in its run; an alert that is silenced opens again then."""


@dataclass(frozen=True, slots=True)
class Incident:
    """What is known of how an alert came about; an alert has one, the newest account."""

    alert_id: str
    run_id: str
    made_s: float
    verdict: str
    """`unexamined` until it was replayed; else the causes by name, joined by ` and `: see
    monitors/autopsy/verdict.py."""
    is_replayed: bool
    content: Mapping[str, Any]
    """The account as nested plain values: see monitors/autopsy/story.py."""


@dataclass(frozen=True, slots=True)
class Action:
    """What the policy asks of the trainer.

    It always has a reason and, unless it is to carry on, an alert behind it.
    """

    kind: ActionKind
    reason: str
    alert_id: str | None = None
    to_step: int | None = None
    """rollback: the step of the checkpoint to restore."""
    vet_from_batch: int | None = None
    """rollback, skip_data: from this batch of the data order on, each is judged before training."""
    vet_until_batch: int | None = None
    """The first batch that need not be vetted, unless the vetting still finds bad ones."""
    learning_rate_scale: float = 1.0
    for_steps: int = 0
    """damp: for how many steps the scale holds."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    run_id: str
    segment: int
    step: int
    """Number of optimizer steps behind this state; restoring it makes this the next step."""
    path: str
    batch: int
    """The next batch of the data order."""
    num_bytes: int
    created_s: float
    health: Health = "fresh"
    is_on_disk: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    id: str
    run_id: str
    kind: CommandKind
    args: Mapping[str, Any]
    asked_by: str
    asked_s: float
    state: CommandState = "asked"
    answer: str = ""
    answered_s: float | None = None


DeedAbout = Literal["run", "alert", "study", "rule", "view"]


@dataclass(frozen=True, slots=True)
class Deed:
    """What a person did in the dashboard; see `platform/deeds.py`."""

    id: str
    asked_s: float
    who: str
    """As it stands in commands, alerts and rules too: `ann (operator)`."""
    role: str
    what: str
    """One word: rollback, acknowledge, cancel."""
    about: DeedAbout
    about_id: str
    """Id of the run or alert, name of the study, rule or view; empty: rules of a whole file."""
    args: Mapping[str, Any]
    outcome: str = ""
    """`done`, or why not; empty while it is being done, and where its process died."""


@dataclass(frozen=True, slots=True)
class RuleVersion:
    """One version of a rule of all runs or of one; see `platform/rule_versions.py`."""

    run_id: str
    """Empty: of all runs."""
    name: str
    version: int
    """From 1, of this rule of this run."""
    body: Mapping[str, Any]
    """The rule as nested plain values; empty where it was taken away."""
    is_on: bool
    changed_by: str
    changed_s: float


@dataclass(frozen=True, slots=True)
class SavedView:
    """What a person looked at on a page of the dashboard, by a name; (page, name) is there once."""

    page: str
    name: str
    query: str
    """The address's part behind the question mark."""
    saved_by: str
    saved_s: float


@dataclass(frozen=True, slots=True)
class Study:
    name: str
    spec: Mapping[str, Any]
    """The study as it was last asked for, as nested plain values."""
    state: StudyState
    created_s: float
    is_served: bool = False
    """Whether a service sees to its trials; else whoever runs it does."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a study is asked for its trials, again and again or once."""

    name: str
    spec: Mapping[str, Any]
    """The study, as nested plain values."""
    kind: ScheduleKind
    """cron: five fields. interval: seconds from one to the next. once: an ISO date and time."""
    when: str
    zone: str
    """Of the clock that cron and once go by, as Europe/Berlin."""
    created_s: float
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Firing:
    """That a schedule came due, and what came of it. (schedule, due_s) is there once."""

    schedule: str
    due_s: float
    fired_s: float
    by: str
    """The service that saw to it."""
    outcome: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """How fast a machine trained a configuration."""

    machine: str
    shape: str
    """Hash of what makes a step: the configuration without seed, steps and schedule."""
    flops_per_s: float
    measured_s: float


@dataclass(frozen=True, slots=True)
class StudyReport:
    """What a study found, as far as it was when it was made; a study has one, the newest."""

    study: str
    made_s: float
    folder: str
    """Where its page and tables are."""
    content: Mapping[str, Any]
    """Its numbers and pictures, as nested plain values."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run that a study wants; its key, the hash of what it computes, is unique in the study."""

    study: str
    key: str
    position: int
    """Its place in the plan: the order in which trials are claimed."""
    label: str
    coordinates: Mapping[str, Any]
    config: Mapping[str, Any]
    cost: Mapping[str, Any]
    trunk: str = ""
    """Key of the trial that it branches off, which must be done before."""
    branch_at: int = 0
    state: TrialState = "waiting"
    is_wanted: bool = True
    """False: the study asks for it no more; what it found is kept."""
    run_id: str = ""
    """Of the newest attempt that began to train."""
    num_attempts: int = 0
    num_failures: int = 0
    """Attempts that failed since it was last asked for: only so many are made."""
    not_before_s: float = 0.0
    """After a failure: when it may be tried again."""
    worker: str = ""
    until_s: float = 0.0
    """When the worker's claim is over, unless it beats before."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """done: loss, tokens, seconds, verdict. failed: the reason."""


@dataclass(frozen=True, slots=True)
class Attempt:
    study: str
    key: str
    number: int
    """From 1."""
    worker: str
    run_id: str
    started_s: float
    ended_s: float | None = None
    exit_reason: str = ""
    log_tail: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """A stretch of one signal as read from the store, in the order of (segment, step)."""

    signal: str
    segments: NDArray[np.int32]
    steps: NDArray[np.int64]
    times_s: NDArray[np.float64]
    values: NDArray[np.float32]
    """(points,) for a scalar, else (points, ...) in the signal's dimensions."""


@dataclass(frozen=True, slots=True)
class Bands:
    """A stretch of one signal by buckets of steps, in the order of (segment, step).

    B buckets, K numbers: 1 of a scalar, else those of a vector or of a matrix's row.
    """

    signal: str
    width: int
    """Steps of a bucket, a power of two."""
    segments: NDArray[np.int32]
    steps: NDArray[np.int64]
    """(B,) where each bucket begins, a multiple of its width."""
    num_points: NDArray[np.int64]
    """(B,) measured steps of each."""
    low: NDArray[np.float32]
    """(B, K) lowest finite value; infinity where there is none."""
    high: NDArray[np.float32]
    """(B, K) highest finite value; minus infinity where there is none."""
    mean: NDArray[np.float32]
    """(B, K) of the finite values; NaN where there is none."""
    num_finite: NDArray[np.int64]
    """(B, K) how many of the points were finite."""
