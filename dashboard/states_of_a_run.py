"""The states that a run can go back to, its rollbacks, and whether it stands; pure.

The store knows the states that are or were on a disk. The newest ones in the trainer's memory are
known to the trainer alone: which they are follows from the run's configuration, and the trainer
refuses where one is not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..platform.records import Alert, Checkpoint, Command, Event, Health, Run, Segment

Place = Literal["disk", "memory", "gone"]
RING_STATES = 8
"""States that a trainer holds in memory at most; as `monitors/states/keeping.py` has it."""
MOST_SHOWN = 200
"""States that are gone, rollbacks and alerts on the timeline: the newest."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state of a run: one that it can go back to, or could once."""

    step: int
    segment: int
    health: Health | None
    """None: known to the trainer alone."""
    place: Place
    num_bytes: int
    saved_s: float | None
    """None where it was not told."""


@dataclass(frozen=True, slots=True)
class WentBack:
    from_step: int
    to_step: int
    why: str


def saved_states(
    run: Run,
    newest_step: int | None,
    checkpoints: Sequence[Checkpoint],
    segments: Sequence[Segment],
    rollbacks: Sequence[WentBack] = (),
) -> list[SavedState]:
    """One state for each step: a later segment's takes the place of an earlier one's, and what is
    on the disk that of what is in memory or gone."""
    by_step: dict[int, SavedState] = {}
    for kept in sorted(checkpoints, key=lambda c: (c.is_on_disk, c.segment)):
        place: Place = "disk" if kept.is_on_disk else "gone"
        by_step[kept.step] = SavedState(
            kept.step, kept.segment, kept.health, place, kept.num_bytes, kept.created_s
        )
    each = max((kept.num_bytes for kept in checkpoints), default=0)
    segment = segments[-1].index if segments else 0
    is_live = run.status == "running"
    held = held_in_memory(run, newest_step, each, segments, rollbacks) if is_live else []
    for step in held:
        known = by_step.get(step)
        if known is None or known.place == "gone":
            # what an abandoned branch's state was says nothing of this one
            health = known.health if known is not None and known.segment == segment else None
            by_step[step] = SavedState(step, segment, health, "memory", each, None)
    there = [s for s in by_step.values() if s.place != "gone"]
    gone = sorted((s for s in by_step.values() if s.place == "gone"), key=lambda s: s.step)
    return sorted([*there, *gone[-MOST_SHOWN:]], key=lambda s: s.step)


def held_in_memory(
    run: Run,
    newest_step: int | None,
    num_bytes: int,
    segments: Sequence[Segment],
    rollbacks: Sequence[WentBack] = (),
) -> list[int]:
    """The steps of the states that a trainer has in memory, as its configuration tells: the newest
    multiples of `memory_every_steps`, as many as fit. A rollback drops those of the branch that it
    abandons, and brings back none that had left before. num_bytes: of one state; 0: not known."""
    told = run.config.get("checkpoint")
    told = told if isinstance(told, Mapping) else {}
    every, gib = told.get("memory_every_steps"), told.get("ring_gib")
    if not isinstance(every, int) or not isinstance(gib, int | float):
        return []
    if newest_step is None or num_bytes <= 0 or every <= 0:
        return []
    num_held = min(RING_STATES, int(gib * 2**30 // num_bytes))
    if num_held < 2:
        return []
    held: list[int] = []
    for first, last in _stretches(newest_step, segments, rollbacks):
        taken = range(last // every * every, first, -every)[:num_held]
        held = sorted({*(step for step in held if step <= first), *taken})[-num_held:]
    return held


def _stretches(
    newest_step: int, segments: Sequence[Segment], rollbacks: Sequence[WentBack]
) -> list[tuple[int, int]]:
    """(first step, steps behind it at its end) of what the newest process has trained, in order:
    one begins with an empty memory."""
    ends = iter(gone.from_step for gone in rollbacks)
    found: list[tuple[int, int]] = []
    for index, segment in enumerate(segments):
        if segment.reason != "rollback":
            found = []
        if index + 1 == len(segments):
            end = newest_step + 1
        elif segments[index + 1].reason == "rollback":
            end = next(ends, segments[index + 1].start_step)
        else:
            end = segment.start_step  # a new process begins anew
        found.append((segment.start_step, end))
    return found or [(0, newest_step + 1)]


def went_back(segments: Sequence[Segment], events: Sequence[Event]) -> list[WentBack]:
    """The rollbacks of a run, oldest first."""
    told = {event.segment: event for event in events}
    found = []
    for segment in segments:
        if segment.reason != "rollback":
            continue
        event = told.get(segment.index)
        from_step = None if event is None else event.details.get("from_step")
        if not isinstance(from_step, int):
            from_step = segment.start_step
        found.append(WentBack(from_step, segment.start_step, "" if event is None else event.text))
    return found


def is_paused(commands: Sequence[Command], segments: Sequence[Segment]) -> bool:
    """Whether a run stands because it was asked to: told by the newest answer, as long as no other
    process has taken the run over since. commands: newest first."""
    began_s = max((s.created_s for s in segments if s.reason != "rollback"), default=0.0)
    told = [c for c in commands if c.state == "done" and (c.answered_s or 0.0) >= began_s]
    decisive = [c for c in told if c.kind in ("pause", "continue", "stop")]
    newest = max(decisive, key=lambda c: c.answered_s or 0.0, default=None)
    return newest is not None and newest.kind == "pause"


def open_alert_before(state: SavedState, alerts: Sequence[Alert]) -> Alert | None:
    """The open alert whose onset lies before a state, so that what was wrong may be in it."""
    standing = [a for a in alerts if a.state == "open" and a.severity != "info"]
    earlier = [a for a in standing if a.onset_step < state.step]
    return max(earlier, key=lambda a: a.onset_step, default=None)
