"""What the page of control reads: how a run stands, where it can go back to, what was asked."""

import time
from dataclasses import dataclass

from ..platform.records import Alert, Command
from ..platform.store import Store
from ..platform.summaries import summaries
from .reads import SHOWN_OF_A_RUN, RunNow, recent_commands, run_now
from .states_of_a_run import MOST_SHOWN, SavedState, WentBack, is_paused, saved_states, went_back

MOST_COMMANDS = 30


@dataclass(frozen=True, slots=True)
class ControlNow:
    """A run as the page of control shows it, at this moment."""

    now: RunNow
    states: list[SavedState]
    """In order of steps."""
    went_back: list[WentBack]
    alerts: list[Alert]
    """Oldest first."""
    commands: list[Command]
    """Newest first."""
    is_paused: bool

    def targets(self) -> dict[int, SavedState]:
        """The states to choose from, by step, the newest first: there, and not tainted."""
        there = [s for s in self.states if s.place != "gone" and s.health != "tainted"]
        return {state.step: state for state in reversed(there)}


def now_of(store: Store, run_id: str) -> RunNow:
    """A run as it stands at this moment."""
    open_alerts = store.alerts(run_id=run_id, states=["open"])
    run = store.find_run(run_id)
    found = summaries(store, SHOWN_OF_A_RUN, [run.id]).get(run.id, {})
    return run_now(run, found, open_alerts, time.time())


def control_now(store: Store, run_id: str) -> ControlNow:
    """Reads all of it anew: nothing of what is asked or decided is ever kept."""
    now, segments = now_of(store, run_id), store.segments(run_id)
    commands = recent_commands(store, run_id, MOST_COMMANDS)
    alerts = sorted(store.alerts(run_id=run_id), key=lambda a: a.created_s)
    gone_back = went_back(segments, store.events(run_id, kinds=["rollback"]))
    return ControlNow(
        now,
        saved_states(now.run, now.step, store.checkpoints(run_id), segments, gone_back),
        gone_back[-MOST_SHOWN:],
        alerts[-MOST_SHOWN:],
        commands,
        now.is_live and is_paused(commands, segments),
    )
