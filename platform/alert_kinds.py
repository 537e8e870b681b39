"""Alerts that no rule on a signal raises: the watchman's, and the trainer's about itself.

Those of rules carry their meaning and advice with them (`evidence`); a person who is called finds
both on the page of docs/alerts.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .records import Alert, Severity

PAGE = "docs/alerts.md"

HEARTBEAT_LOST = "heartbeat_lost"
STALLED = "stalled"
HALTED = "halted"
CHECKPOINT = "checkpoint"
SAMPLES = "samples"


@dataclass(frozen=True, slots=True)
class AlertKind:
    name: str
    severity: Severity
    raised_by: Literal["watchman", "trainer"]
    meaning: str
    does: str
    """What moescope does about it."""
    advice: str
    """What a person should do."""


_KINDS = (
    AlertKind(
        HEARTBEAT_LOST,
        "critical",
        "watchman",
        "A run that is said to be running has given no sign of life for 30 s: its process has died "
        "or hangs, its machine is gone, or it cannot reach the store.",
        "Nothing to the run: nobody can tell from outside which of these it is. The alert is "
        "resolved by itself when the run beats again or has ended. While the store itself was "
        "away, no run is blamed.",
        "Look at the trainer's terminal or job. Where it has died, `moescope train --resume RUN` "
        "goes on from its last checkpoint; `--supervise` does so by itself; a run that "
        "`moescope.watch` watches goes on by its own script, with `resume=True`. Where it lives, "
        "look at the network between it and the store: nothing is lost, its journal is replayed.",
    ),
    AlertKind(
        STALLED,
        "warning",
        "watchman",
        "The run beats, but has stood at the same step for 15 minutes: it is paused, waits for "
        "data, or hangs in a kernel or a collective.",
        "Nothing to the run. The alert is resolved by itself at its next step.",
        "See under Commands whether somebody has paused it. Else look at `time/data_wait_s` before "
        "it stopped, at the disk of the data, and with `py-spy dump --pid PID` at where it waits; "
        "then end it and resume it.",
    ),
    AlertKind(
        HALTED,
        "critical",
        "trainer",
        "No automatic action is left: the budget of rollbacks or of skipped batches is used up, no "
        "certified checkpoint lies before the onset, or a rule asks for a halt.",
        "It ends the run, and does not save its last state, which is not to be trusted. The "
        "checkpoints stay. The alert is resolved by itself when the run is resumed.",
        "Read the reason and the alerts before it. Mend what comes back (data, learning rate), "
        "then `moescope train --resume RUN`, with other keys by `--set`; its checkpoints that are "
        "not tainted can be branched from with `--branch-from RUN --at STEP`.",
    ),
    AlertKind(
        CHECKPOINT,
        "warning",
        "trainer",
        "A checkpoint could not be written, or one on the disk is damaged. Training goes on, but "
        "after a crash it would begin from an older state.",
        "It tries again at the next checkpoint and keeps the older ones; a damaged one is passed "
        "over for the next older. The alert is resolved by itself when one was written.",
        "Free disk where the message says, or lower `checkpoint.keep` or `checkpoint.quota_gib`. A "
        "damaged file points to a failing disk: look at the system's log.",
    ),
    AlertKind(
        SAMPLES,
        "warning",
        "trainer",
        "Clips of a checkpoint could not be written. Training is not touched by it.",
        "It goes on without them. The alert is resolved by itself when clips were written again.",
        "Free disk, or make the run's folder writable; `moescope sample RUN` writes clips later.",
    ),
)
ENDED, NEW_BASELINE = "ended", "new_baseline"
"""In the evidence of a resolved alert: its rule has learnt a new baseline, and nothing healed."""
OWN_KINDS: Mapping[str, AlertKind] = {kind.name: kind for kind in _KINDS}


def is_explained_away(alert: Alert) -> bool:
    """Whether an alert ended only because its rule learnt a new baseline."""
    return alert.state == "resolved" and alert.evidence.get(ENDED) == NEW_BASELINE


def words_of(alert: Alert) -> tuple[str, str]:
    """(what an alert means, what a person should do); empty where nobody has said."""
    kind = OWN_KINDS.get(alert.rule)
    if kind is not None:
        return kind.meaning, kind.advice
    return str(alert.evidence.get("meaning", "")), str(alert.evidence.get("advice", ""))
