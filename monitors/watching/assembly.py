"""Puts a watched run together: its rows in the store, its folder, threads, hooks and judge."""

import atexit
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...platform.alert_kinds import CHECKPOINT
from ...platform.announcement import dashboard_address, living_service, mlflow_address
from ...platform.claims import beginning, claim, let_go
from ...platform.contact import Contact
from ...platform.delivery import DeliveryThread
from ...platform.errors import MoescopeError
from ...platform.mlflow_sink import MlflowSink
from ...platform.own_alerts import STANDING, OwnAlerts
from ...platform.records import Mode, Run, RunStatus, Segment
from ...platform.settings import Settings
from ...platform.sinks import FanOut, Sink
from ...platform.sql_sink import SqlSink
from ...platform.store import Store, open_store
from ..going_on import began_at, mark_going_on, take_over_alerts, undo_unless
from ..guard import Guard
from ..judge import Judge
from ..policy import Policy
from ..policy_limits import Limits
from ..rule_table import RuleTable, read_record
from ..rules_at_start import rules_at_start
from ..states.chance import random_state, set_random_state
from ..states.keeping import Keeper
from ..states.sound import CHECKPOINTS, MEMORY
from .commands_taken import record_rules
from .damping import Damping
from .find_blocks import FoundBlocks
from .find_routers import Found
from .limits import WatchKeeping
from .measuring import WatchMeasure
from .ranks import Line
from .record import new_run, resumed_run, run_to_resume
from .resuming import go_on
from .state import Restorable, WatchedState
from .together import LeadingRun
from .watched_rules import is_sampled, measured_here, watched_rules
from .watched_run import Parts, WatchedRun

REPLAY_S = 30.0
"""Most that a resume waits for the store to take what an ended process left in its journal."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What `watch` was asked for, checked and found."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    found: Found
    blocks: FoundBlocks
    objects: Mapping[str, Restorable] | None
    settings: Settings
    name: str
    project: str
    mode: Mode | None
    """None: as the run had it, else on where there is a state."""
    resume: bool | str
    start_step: int | None
    sample_every: int
    num_timesteps: int
    has_hooks: bool
    is_on_disk: bool
    limits: Limits
    keeping: WatchKeeping
    tell: Callable[[str], None]
    line: Line | None
    """To the other processes, where there are some."""


def open_watch(asked: Asked) -> WatchedRun:
    """Enters the run into the store and begins to watch. Leaves nothing half done where that
    fails, which raises MoescopeError."""
    # libraries draw when they are first used: a training computes the same with us and without
    chance = random_state()
    try:
        return _open(asked, chance)
    finally:
        set_random_state(chance)


def _open(asked: Asked, chance: dict[str, Any]) -> WatchedRun:
    """chance: becomes that of the state which a run goes on from."""
    settings, tell = asked.settings, asked.tell
    settings.make_home()
    device = next((p.device for p in asked.model.parameters()), torch.device("cpu"))
    opened: list[WatchedRun] = []
    closing = ExitStack()
    with ExitStack() as stack:
        store = open_store(settings.store_url)
        stack.callback(store.close)
        with beginning(store, asked.name):
            old = run_to_resume(store, asked.name, asked.resume)
            run = resumed_run(old, asked, device) if old else new_run(store, asked, device)
            # both before the training begins: the store may be away when the first step comes
            was_sampled = old is not None and _was_sampled(old)
            table, lines = _rules(store, run, old, asked, has_samples=was_sampled)
            with_samples, _ = _rules(store, run, old, asked, has_samples=True)
            holder = claim(store, run)
            stack.callback(let_go, store, run.id, holder)
            stack.callback(undo_unless, opened, store, run, old)
            if old is None:
                store.add_run(run)
            else:
                mark_going_on(store, run)
        folder = _made(Path(run.folder))
        contact = Contact(settings.store_url, run.id, holder)
        stack.callback(contact.close)
        # closed after the fan-out, so that the last alert is there when it delivers once more
        delivery = DeliveryThread(
            settings.store_url,
            settings.notify.split(),
            holder,
            dashboard_url=dashboard_address(settings),
        )
        stack.callback(delivery.close)
        fan_out = FanOut(folder / "journal", _sinks(settings, run, opened))
        stack.callback(fan_out.close)
        own_alerts = OwnAlerts(run.id, fan_out.say)
        state = WatchedState(
            asked.model, asked.objects or {}, Guard(device), Judge(table.rules(), run.id)
        )
        began = began_at(store, old) if old else state.step
        policy = Policy(asked.limits, folder / MEMORY, table.rules(), first_step=began)
        keeper = None
        if asked.objects is not None:
            keeper = Keeper(
                folder / CHECKPOINTS,
                asked.keeping,
                asked.limits.certify_after_steps,
                run.id,
                say=fan_out.say,
                tell=tell,
                fail=lambda text: _say_fault(own_alerts, tell, text, opened, state),
                is_on_disk=asked.is_on_disk,
            )
            stack.callback(keeper.close)
            keeper.plan_ring(state)
        segment = Segment(run.id, 0, state.step, "start", run.created_s)
        if old is not None:
            # what the ended process journaled and the store has not
            fan_out.flush(REPLAY_S)
            segment = go_on(store, run, asked.start_step, state, keeper, policy, chance, tell)
            standing = store.alerts(run.id, STANDING)
            take_over_alerts(standing, state.judge, own_alerts, fan_out.say)
        fan_out.say(segment)
        if keeper is not None and not keeper.checkpoints:
            keeper.first(state, segment.index)
        measure = WatchMeasure(
            asked.model,
            asked.optimizers,
            asked.found.routers,
            asked.blocks,
            device,
            has_hooks=asked.has_hooks,
            tell=tell,
        )
        stack.callback(measure.close)
        damping = Damping(asked.optimizers)
        stack.callback(damping.close)
        parts = Parts(
            run=run,
            segment=segment,
            device=device,
            measure=measure,
            state=state,
            policy=policy,
            keeper=keeper,
            damping=damping,
            fan_out=fan_out,
            contact=contact,
            own_alerts=own_alerts,
            table=table,
            table_with_samples=lambda: with_samples,
            limits=asked.limits,
            keeping=asked.keeping,
            sample_every=asked.sample_every,
            num_timesteps=asked.num_timesteps,
            tell=tell,
            closing=closing,
        )
        watched = LeadingRun(parts, asked.line) if asked.line else WatchedRun(parts)
        for line in lines:
            tell(line)
            watched.say_event("note", line, {})
        record_rules(watched)
        if old is not None:
            watched.say_event("resume", f"goes on from step {state.step}", {})
        opened.append(watched)
        closing.push(stack.pop_all())
    _finish_at_exit(watched)
    tell(
        f"run {run.name} ({run.id}) is watched into {store.database.shown}, automatic action is "
        f"{run.mode}"
    )
    return watched


def _rules(
    store: Store, run: Run, old: Run | None, asked: Asked, *, has_samples: bool
) -> tuple[RuleTable, list[str]]:
    base = watched_rules(has_samples=has_samples)
    table, lines = rules_at_start(store, run, old, asked.limits.certify_after_steps, base)
    kept, more = measured_here(table.versions, base)
    return RuleTable(base, kept), lines + more


def _was_sampled(old: Run) -> bool:
    """Whether a run was judged by the losses of its samples."""
    try:
        recorded = read_record(Path(old.folder))
    except MoescopeError:
        return False
    return recorded is not None and is_sampled(recorded.base)


def _sinks(settings: Settings, run: Run, opened: list[WatchedRun]) -> list[Sink]:
    sinks: list[Sink] = [SqlSink(settings.store_url, run)]
    is_served = living_service(settings.home_path) is not None
    # a training of somebody else's has its own tracker: MLflow only where it is asked for or is up
    if settings.mlflow != "off" and (settings.mlflow or is_served):

        def status() -> RunStatus:
            return opened[0].status if opened else "running"

        address, dashboard = mlflow_address(settings), dashboard_address(settings)
        sinks.append(MlflowSink(address, run, dashboard, status=status))
    return sinks


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MoescopeError(
            f"run folder {folder} cannot be made ({error.strerror}): choose another home"
        ) from None
    return folder


def _say_fault(
    own_alerts: OwnAlerts,
    tell: Callable[[str], None],
    text: str,
    opened: list[WatchedRun],
    state: WatchedState,
) -> None:
    segment = opened[0].segment.index if opened else 0
    if own_alerts.raise_alert(CHECKPOINT, text, segment, state.step):
        tell(f"ALERT {CHECKPOINT}: {text}")


def _finish_at_exit(watched: WatchedRun) -> None:
    """A loop that never says `finish` ends with its process; one that fails says so."""
    mine = weakref.ref(watched)

    def finish() -> None:
        run = mine()
        if run is not None:
            run.finish("crashed" if hasattr(sys, "last_value") else "stopped")

    atexit.register(finish)
    watched.closing.callback(atexit.unregister, finish)
