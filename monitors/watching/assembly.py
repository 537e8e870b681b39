"""Puts a watched run together: its rows in the store, its folder, threads, hooks and judge."""

import atexit
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from ...platform import leases
from ...platform.alert_kinds import CHECKPOINT
from ...platform.announcement import dashboard_address, living_service, mlflow_address
from ...platform.claims import claim, new_run_id
from ...platform.contact import Contact, run_lease
from ...platform.delivery import DeliveryThread
from ...platform.errors import MoescopeError
from ...platform.mlflow_sink import MlflowSink
from ...platform.own_alerts import OwnAlerts
from ...platform.records import Mode, Run, RunStatus, Segment
from ...platform.settings import Settings
from ...platform.sinks import FanOut, Sink
from ...platform.sql_sink import SqlSink
from ...platform.store import Store, open_store
from ..guard import Guard
from ..judge import Judge
from ..policy import Policy
from ..policy_limits import Limits
from ..rule_table import RuleTable
from ..rules_at_start import rules_at_start
from ..states.chance import random_state, set_random_state
from ..states.keeping import Keeper
from .commands_taken import record_rules
from .damping import Damping
from .find_blocks import FoundBlocks
from .find_routers import Found
from .limits import WatchKeeping
from .measuring import WatchMeasure
from .state import Restorable, WatchedState
from .watched_rules import measured_here, watched_rules
from .watched_run import Parts, WatchedRun


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
    mode: Mode
    sample_every: int
    num_timesteps: int
    has_hooks: bool
    is_on_disk: bool
    limits: Limits
    keeping: WatchKeeping
    tell: Callable[[str], None]


def open_watch(asked: Asked) -> WatchedRun:
    """Enters the run into the store and begins to watch. Leaves nothing half done where that
    fails, which raises MoescopeError."""
    # libraries draw when they are first used: a training computes the same with us and without
    before = random_state()
    try:
        return _open(asked)
    finally:
        set_random_state(before)


def _open(asked: Asked) -> WatchedRun:
    settings, tell = asked.settings, asked.tell
    settings.make_home()
    device = next((p.device for p in asked.model.parameters()), torch.device("cpu"))
    opened: list[WatchedRun] = []
    closing = ExitStack()
    with ExitStack() as stack:
        store = open_store(settings.store_url)
        stack.callback(store.close)
        run = _new_run(store, asked, device)
        # both before the training begins: the store may be away when the first step comes
        table, lines = _rules(store, run, asked, has_samples=False)
        with_samples, _ = _rules(store, run, asked, has_samples=True)
        holder = claim(store, run)
        stack.callback(leases.release, store, run_lease(run.id), holder)
        stack.callback(_undo_unless, opened, store, run)
        store.add_run(run)
        folder = _made(Path(run.folder))
        contact = Contact(settings.store_url, run.id, holder)
        stack.callback(contact.close)
        # closed after the fan-out, so that the last alert is there when it delivers once more
        delivery = DeliveryThread(settings.store_url, settings.notify.split(), holder)
        stack.callback(delivery.close)
        fan_out = FanOut(folder / "journal", _sinks(settings, run, opened))
        stack.callback(fan_out.close)
        own_alerts = OwnAlerts(run.id, fan_out.say)
        state = WatchedState(
            asked.model, asked.objects or {}, Guard(device), Judge(table.rules(), run.id)
        )
        segment = Segment(run.id, 0, 0, "start", run.created_s)
        fan_out.say(segment)
        keeper = None
        if asked.objects is not None:
            keeper = Keeper(
                folder / "checkpoints",
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
        watched = WatchedRun(
            Parts(
                run=run,
                segment=segment,
                device=device,
                measure=measure,
                state=state,
                policy=Policy(asked.limits, folder / "memory.jsonl", table.rules()),
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
        )
        for line in lines:
            tell(line)
            watched.say_event("note", line, {})
        record_rules(watched)
        opened.append(watched)
        closing.push(stack.pop_all())
    _finish_at_exit(watched)
    tell(
        f"run {run.name} ({run.id}) is watched into {store.database.shown}, automatic action is "
        f"{run.mode}"
    )
    return watched


def _new_run(store: Store, asked: Asked, device: torch.device) -> Run:
    """Raises MoescopeError where the name is taken: whoever looks for it would find two runs."""
    if asked.name:
        for other in store.runs(include_archived=True):
            if asked.name in (other.name, other.id):
                raise MoescopeError(
                    f"there is a run called {asked.name} already ({other.id}, {other.status}): "
                    "choose another name, or leave it out and get one"
                )
    now_s, run_id = time.time(), new_run_id()
    found = asked.found.routers
    model = type(asked.model).__name__
    return Run(
        id=run_id,
        name=asked.name or f"{model.lower()}-{run_id[-6:]}",
        project=asked.project,
        config={
            # where runs of our own have their recipe
            "recipe": f"watched {model}",
            "watched": {
                "model": model,
                "parameters": sum(p.numel() for p in asked.model.parameters()),
                "optimizer": ", ".join(type(one).__name__ for one in asked.optimizers),
                "routers": [router.name for router in found],
                "num_experts": found[0].num_experts if found else 0,
                "blocks": list(asked.blocks.names),
                "sample_every": asked.sample_every,
                "state": list(asked.objects or ()),
            },
        },
        status="running",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        code_version=version("moescope"),
        created_s=now_s,
        heartbeat_s=now_s,
        mode=asked.mode,
        folder=str(asked.settings.home_path / "runs" / run_id),
    )


def _rules(
    store: Store, run: Run, asked: Asked, *, has_samples: bool
) -> tuple[RuleTable, list[str]]:
    base = watched_rules(has_samples=has_samples)
    table, lines = rules_at_start(store, run, None, asked.limits.certify_after_steps, base)
    kept, more = measured_here(table.versions, base)
    return RuleTable(base, kept), lines + more


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


def _undo_unless(opened: list[WatchedRun], store: Store, run: Run) -> None:
    if not opened:
        store.delete_run(run.id)
        shutil.rmtree(run.folder, ignore_errors=True)


def _finish_at_exit(watched: WatchedRun) -> None:
    """A loop that never says `finish` ends with its process; one that fails says so."""
    mine = weakref.ref(watched)

    def finish() -> None:
        run = mine()
        if run is not None:
            run.finish("crashed" if hasattr(sys, "last_value") else "stopped")

    atexit.register(finish)
    watched.closing.callback(atexit.unregister, finish)
