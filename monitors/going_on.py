"""What resumes of ours and of watched trainings have in common: what an earlier process of the run
left on disk and in the store."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..platform.alert_kinds import HALTED, OWN_KINDS
from ..platform.own_alerts import OwnAlerts
from ..platform.records import Alert, Checkpoint, Run, Segment
from ..platform.store import Store
from .judge import Judge
from .policy import Policy
from .states.keeping import Keeper
from .states.sound import tainted_paths


def usable_states(store: Store, keeper: Keeper, policy: Policy, run_id: str) -> list[Checkpoint]:
    """Reads what an earlier process left on disk; returns the states to go on from, oldest
    first."""
    keeper.open_folder()
    # a kill between a rollback's note and its end leaves the branch there that it went back from,
    # and a full disk a taint that no stamp could tell
    tainted = tainted_paths(store, run_id)
    keeper.stamp(
        replace(checkpoint, health="tainted")
        for checkpoint in keeper.checkpoints
        if checkpoint.health != "tainted"
        and (policy.is_abandoned(checkpoint) or checkpoint.path in tainted)
    )
    return [checkpoint for checkpoint in keeper.checkpoints if checkpoint.health != "tainted"]


def began_at(store: Store, run: Run) -> int:
    """The step of the run's first state, which is not 0 in a branch of another run."""
    return min((segment.start_step for segment in store.segments(run.id)), default=0)


def resumed_segment(
    store: Store, run_id: str, step: int, parent: int, changes: Mapping[str, list[object]]
) -> Segment:
    """Returns the segment that a resume at `step` from a state of segment `parent` opens."""
    return Segment(
        run_id,
        max((s.index for s in store.segments(run_id)), default=-1) + 1,
        step,
        "changed" if changes else "resume",
        time.time(),
        parent_segment=parent,
        parent_step=step - 1,
        changes=changes,
    )


def take_over_alerts(
    standing: Sequence[Alert], judge: Judge, own: OwnAlerts, say: Callable[[Alert], None]
) -> None:
    """Brings what an ended trainer left standing to how the resumed run is: rules that hold no more
    are resolved, since the steps that they spoke of are not in this state."""
    holding = judge.holding()
    for alert in standing:
        kind = OWN_KINDS.get(alert.rule)
        if kind is None:
            if alert.id not in holding:
                say(replace(alert, state="resolved", changed_s=time.time()))
        elif kind.raised_by == "trainer":
            own.adopt(alert)
    own.resolve(HALTED)


def mark_going_on(store: Store, run: Run) -> None:
    """Enters into a run's row what it is now."""
    store.update_run(
        run.id,
        status=run.status,
        config=run.config,
        mode=run.mode,
        finished_s=run.finished_s,
        heartbeat_s=run.heartbeat_s,
    )


def undo_unless(opened: Sequence[Any], store: Store, run: Run, old: Run | None) -> None:
    """Leaves nothing half done of a start that failed: no new run, an old one as it was."""
    if opened:
        return
    if old is not None:
        mark_going_on(store, old)
        return
    store.delete_run(run.id)
    shutil.rmtree(run.folder, ignore_errors=True)
