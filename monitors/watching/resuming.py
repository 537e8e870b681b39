"""Goes on with a watched run that another process began."""

from collections.abc import Callable
from typing import Any

from ...platform.records import Run, Segment
from ...platform.store import Store
from ..going_back import put_back
from ..going_on import resumed_segment, usable_states
from ..policy import Policy
from ..states.keeping import Keeper
from .record import steps_recorded
from .state import WatchedState


def go_on(
    store: Store,
    run: Run,
    start_step: int | None,
    state: WatchedState,
    keeper: Keeper | None,
    policy: Policy,
    chance: dict[str, Any],
    tell: Callable[[str], None],
) -> Segment:
    """Restores the newest state on disk that can be trusted, and returns the segment that begins.

    start_step: where the loop has restored itself already, and nothing is restored here. Without a
    keeper nothing is, either, and the steps are counted on behind the recorded ones. chance:
    becomes that of the state. Raises HalfRestored where a state is not taken back.
    """
    parent, how = _newest_segment(store, run), "nothing was put back"
    if start_step is not None:
        state.step = state.batch = start_step
        if keeper is not None:
            usable_states(store, keeper, policy, run.id)
            keeper.drop_after(start_step)
    elif keeper is None:
        state.step = state.batch = steps_recorded(store, run)
    elif usable := usable_states(store, keeper, policy, run.id):
        saved, checkpoint, _ = keeper.load(usable[-1].step)
        put_back(
            state,
            saved,
            f"what watch() was given is neither new nor of step {checkpoint.step}: make model, "
            "optimizer and state anew, as the run had them, or begin another run",
        )
        chance |= saved["random"]
        keeper.drop_after(checkpoint.step)
        parent, how = checkpoint.segment, f"from its {checkpoint.health} state on disk"
    else:
        how = "it has no state on disk, so it begins anew"
    state.judge.announce("resume", state.step)
    tell(f"run {run.name} goes on from step {state.step} ({how})")
    return resumed_segment(store, run.id, state.step, parent, {})


def _newest_segment(store: Store, run: Run) -> int:
    return max((segment.index for segment in store.segments(run.id)), default=0)
