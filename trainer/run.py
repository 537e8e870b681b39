"""The one place of assembly: from a configuration to a trained run."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import torch

from ..kernels.choice import Choice, choose_expert_path
from ..monitors.default_rules import DEFAULT_RULES
from ..monitors.going_on import (
    began_at,
    mark_going_on,
    take_over_alerts,
    undo_unless,
    usable_states,
)
from ..monitors.guard import Guard
from ..monitors.judge import Judge
from ..monitors.policy import Policy
from ..monitors.rule_table import RuleTable
from ..monitors.rules import Rule
from ..monitors.rules_at_start import rules_at_start
from ..monitors.states.keeping import Keeper
from ..monitors.states.sound import CHECKPOINTS, MEMORY
from ..platform.alert_kinds import CHECKPOINT
from ..platform.announcement import dashboard_address, mlflow_address
from ..platform.claims import claim, let_go
from ..platform.contact import Contact
from ..platform.delivery import DeliveryThread
from ..platform.errors import MoescopeError
from ..platform.mlflow_sink import MlflowSink
from ..platform.own_alerts import STANDING
from ..platform.records import Run, RunStatus, Segment, Trial
from ..platform.run_log import LOG
from ..platform.settings import Settings
from ..platform.sinks import FanOut, Sink
from ..platform.sql_sink import SqlSink
from ..platform.store import Store, open_store
from ..platform.trials import trial_of_run
from .compute.compiled import compile_blocks
from .config import RunConfig
from .counts.parameters import count_parameters
from .data.batches import Batches
from .data.classes import read_classes, refuse_more_classes, write_classes
from .data.clips import ClipIndex, find_clips
from .data.encoding import refuse_other_encoding, refuse_other_models
from .data.shards import kept_encoding, write_encoding
from .evaluation.probe import Probe
from .loop import Trainer
from .measure import Measure
from .model.make import make_model
from .numerics import policy_on
from .open_run import (
    announced_changes,
    changes,
    new_run,
    next_segment,
    resumed_run,
)
from .optim.ema import Ema
from .optim.groups import make_optimizer
from .origin import branched_state, load_weights
from .progress import ProgressLine
from .rules_of_a_run import say_rules
from .sampling.at_checkpoints import CheckpointSamples
from .state import TrainState
from .vetting import vetting_after_resume


@dataclass(frozen=True, slots=True)
class RunResult:
    run_id: str
    name: str
    status: RunStatus
    step: int
    last_loss: float
    folder: Path


def train(
    config: RunConfig,
    *,
    settings: Settings | None = None,
    name: str = "",
    run_id: str = "",
    resume: str = "",
    init_from: str = "",
    branch_from: str = "",
    branch_at: int | None = None,
    progress: bool = True,
    on_step: Callable[[Trainer], None] | None = None,
) -> RunResult:
    """Trains a run to its end and returns how it ended.

    resume: a run (id or name) that goes on from its newest usable checkpoint; where `config`
    differs from what it had, a segment records the difference. init_from: a run whose averaged
    weights a new run starts from. branch_from, branch_at: a run whose whole state, of its newest
    usable checkpoint or that of a step, a new run goes on from. on_step: called at every step
    boundary; there `trainer.log({...})` records scalars of a user's own. Raises MoescopeError on
    whatever its user can mend. SIGTERM and Ctrl-C save a checkpoint first.
    """
    opened = open_trainer(
        config,
        settings or Settings(),
        name=name,
        run_id=run_id,
        resume=resume,
        init_from=init_from,
        branch_from=branch_from,
        branch_at=branch_at,
        progress=progress,
    )
    with opened as trainer, _stopping_on_signals(trainer):
        return _train(trainer, on_step)


@contextmanager
def open_trainer(
    config: RunConfig,
    settings: Settings,
    *,
    name: str = "",
    run_id: str = "",
    resume: str = "",
    init_from: str = "",
    branch_from: str = "",
    branch_at: int | None = None,
    progress: bool = False,
) -> Iterator[Trainer]:
    """Yields a trainer at its first step boundary, for whoever wants to turn the loop; arguments
    as of `train`."""
    settings.make_home()
    device = device_of(config)
    _leave_cores_to_decoders(config)
    with ExitStack() as stack:
        store = open_store(settings.store_url)
        stack.callback(store.close)
        old = store.find_run(resume) if resume else None
        other = init_from or branch_from
        clips = clips_for(config, old, store.find_run(other) if other else None)
        run = (
            resumed_run(old, config, _device_name(device))
            if old
            else new_run(config, settings, name, run_id, _device_name(device), version("moescope"))
        )
        table, refused = rules_at_start(store, run, old, config.policy.certify_after_steps)
        state = fresh_state(config, device, run.id, table.rules())
        origin = load_weights(state.model, store, init_from, config) if init_from else None
        if origin is not None:
            state.ema = Ema(state.model, config.optim.ema_decay)
        if branch_from:
            saved, origin = branched_state(store, branch_from, branch_at, config)
            state.restore(saved)
        if old is None and any(run.id == other.id for other in store.runs(include_archived=True)):
            raise MoescopeError(f"there is a run {run.id} already: resume it, or leave the id out")
        holder = claim(store, run)
        stack.callback(let_go, store, run.id, holder)
        batches = Batches(clips, config.data, config.seed)
        stack.callback(batches.close)
        opened: list[Trainer] = []
        stack.callback(undo_unless, opened, store, run, old)
        if old is None:
            store.add_run(run)
        else:
            mark_going_on(store, run)
        first_step = began_at(store, old) if old else state.step
        trainer = _assemble(
            stack,
            settings,
            config,
            device,
            run,
            holder,
            state,
            table,
            batches,
            progress,
            first_step,
            trial_of_run(store, run.id),
        )
        trainer.num_passed_over = len(clips.passed_over)
        _say_start(trainer, clips, "" if origin is None else origin.text)
        _open_segment(trainer, store, old)
        say_rules(trainer, refused)
        if origin is not None:
            trainer.say_event("note", f"starts from {origin.text}", origin.details)
        trainer.keep_first()
        (Path(run.folder) / "config.json").write_text(config.model_dump_json(indent=2))
        write_classes(Path(run.folder), clips.classes)
        if clips.encoding is not None:
            write_encoding(Path(run.folder), clips.encoding)
        opened.append(trainer)
        yield trainer


def clips_for(config: RunConfig, old: Run | None, origin: Run | None) -> ClipIndex:
    """Finds the clips; a class keeps the number that it had when the run began, or in the run whose
    weights it starts from, whatever folders came or went since.
    """
    before = old or origin
    known = read_classes(Path(before.folder)) if before is not None else {}
    clips = find_clips(config.data.folder, known, is_resumed=old is not None)
    refuse_other_encoding(clips.folder, clips.encoding, config)
    kept = kept_encoding(Path(before.folder)) if before is not None else None
    if before is not None and kept is not None and clips.encoding is not None:
        refuse_other_models(clips.encoding, kept, before.name)
    if config.model.family == "class":
        refuse_more_classes(clips.classes, config.model.num_classes, clips.folder)
    return clips


def fresh_state(
    config: RunConfig, device: torch.device, run_id: str, rules: Sequence[Rule] = DEFAULT_RULES
) -> TrainState:
    """Returns the state of a run that has not begun."""
    model = make_model(config).to(device)
    if config.compute.is_compiled:
        compile_blocks(model)
    return TrainState(
        model,
        make_optimizer(model, config),
        Ema(model, config.optim.ema_decay),
        Guard(device, config.guard.extreme_factor, config.guard.most_in_a_row),
        Judge(rules, run_id),
    )


def _assemble(
    stack: ExitStack,
    settings: Settings,
    config: RunConfig,
    device: torch.device,
    run: Run,
    holder: str,
    state: TrainState,
    table: RuleTable,
    batches: Batches,
    show_progress: bool,
    first_step: int,
    trial: Trial | None,
) -> Trainer:
    """Builds the trainer around the state; what must be closed is closed in reverse order.

    first_step: where the run began, which is not 0 in a branch. trial: of a study, if the run is
    one.
    """
    folder = Path(run.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MoescopeError(
            f"run folder {folder} cannot be made ({error.strerror}): choose another home"
        ) from None
    line = ProgressLine(run.name, config.steps, is_on=show_progress, log=folder / LOG)
    stack.callback(line.close)
    contact = Contact(settings.store_url, run.id, holder)
    stack.callback(contact.close)
    # closed after the fan-out, so that the last alert is in the store when it delivers once more
    addresses, dashboard_url = settings.notify.split(), dashboard_address(settings)
    delivery = DeliveryThread(settings.store_url, addresses, holder, dashboard_url=dashboard_url)
    stack.callback(delivery.close)
    sinks: list[Sink] = [SqlSink(settings.store_url, run)]
    if settings.mlflow != "off":
        mlflow_url = mlflow_address(settings)
        # asked when the sink closes: by then the trainer knows how it ended
        mirror = MlflowSink(mlflow_url, run, dashboard_url, lambda: trainer.status, trial)
        sinks.append(mirror)
    fan_out = FanOut(folder / "journal", sinks)
    stack.callback(fan_out.close)
    policy = Policy(config.policy, folder / MEMORY, table.rules(), first_step=first_step)
    keeper = Keeper(
        folder / CHECKPOINTS,
        config.checkpoint,
        config.policy.certify_after_steps,
        run.id,
        say=fan_out.say,
        tell=line.say,
        fail=lambda text: trainer.raise_alert(CHECKPOINT, text),
    )
    stack.callback(keeper.close)
    trainer = Trainer(
        config=config,
        run=run,
        segment=Segment(run.id, 0, state.step, "start", run.created_s),
        device=device,
        state=state,
        batches=batches,
        measure=Measure(state.model, config, device),
        probe=Probe(config, batches, device),
        samples=CheckpointSamples(config, run) if config.watch.are_checkpoints_sampled else None,
        policy=policy,
        keeper=keeper,
        fan_out=fan_out,
        contact=contact,
        progress=line,
        mode=run.mode,
        rules=table,
    )
    stack.callback(trainer.witness.close)
    return trainer


def _open_segment(trainer: Trainer, store: Store, old: Run | None) -> None:
    """Opens the run's first segment, or the next one at the newest usable checkpoint."""
    if old is None:
        trainer.open_segment(trainer.segment)
        return
    usable = usable_states(store, trainer.keeper, trainer.policy, old.id)
    if not usable:
        raise MoescopeError(f"run {old.name} has no usable checkpoint in {trainer.keeper.folder}")
    if usable[-1].step >= trainer.config.steps:
        raise MoescopeError(
            f"run {old.name} is at step {usable[-1].step} of {trainer.config.steps} already: "
            "ask for more steps with --steps"
        )
    saved, checkpoint, _ = trainer.keeper.load(usable[-1].step)
    trainer.state.restore(saved)
    trainer.keeper.drop_after(checkpoint.step)
    segment = next_segment(store, old, trainer.config, checkpoint.step, checkpoint.segment)
    trainer.open_segment(segment)
    trainer.say_event(
        "resume", f"goes on from step {checkpoint.step}", {"changes": segment.changes}
    )
    trainer.state.judge.announce("resume", checkpoint.step)
    for kind in announced_changes(changes(old, trainer.config)):
        trainer.say_event(kind, "the configuration was changed", {"changes": segment.changes})
        trainer.state.judge.announce(kind, checkpoint.step)
    trainer.vetting = vetting_after_resume(trainer)
    standing = store.alerts(old.id, STANDING)
    take_over_alerts(standing, trainer.state.judge, trainer.own_alerts, trainer.fan_out.say)


def _say_start(trainer: Trainer, clips: ClipIndex, origin: str) -> None:
    config, line = trainer.config, trainer.progress
    parameters = count_parameters(config)
    line.say(
        f"run {trainer.run.name} ({trainer.run.id}): {config.recipe}, "
        f"{parameters.total / 1e6:.2f} M parameters, {parameters.active / 1e6:.2f} M active, "
        f"on {trainer.run.device}"
    )
    line.say(
        f"{len(clips.clips)} clips in {config.data.folder}" + (f"; {origin}" if origin else "")
    )
    line.say(f"precision: {policy_on(trainer.device, config.compute)}")
    line.say(trainer.witness.recorder.told())
    if config.moe_blocks:
        line.say(f"experts: {_expert_path(config, trainer.device).reason}")
    for name, reason in clips.passed_over:
        line.say(f"passed over {name}: {reason}")


def _expert_path(config: RunConfig, device: torch.device) -> Choice:
    is_latent = config.moe.layer == "latent"
    width = config.moe.latent_head_width if is_latent else config.model.width
    products = policy_on(device, config.compute).products
    return choose_expert_path(device, getattr(torch, products), width, config.moe.hidden)


@contextmanager
def _stopping_on_signals(trainer: Trainer) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask for a stop with a checkpoint; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if trainer.is_stopping:
            raise KeyboardInterrupt
        trainer.progress.say("stopping after this step, with a checkpoint (once more ends at once)")
        trainer.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(trainer: Trainer, on_step: Callable[[Trainer], None] | None) -> RunResult:
    status: RunStatus = "crashed"
    try:
        status = trainer.train(on_step)
    except BaseException:
        trainer.progress.log(traceback.format_exc())
        raise
    finally:
        if not trainer.contact.replaced_by:
            trainer.contact.set_status(status, finished_s=time.time())
    run = trainer.run
    return RunResult(
        run.id, run.name, status, trainer.state.step, trainer.last_loss, Path(run.folder)
    )


def _leave_cores_to_decoders(config: RunConfig) -> None:
    """Takes fewer compute threads than cores: `tiny` on two cores is slower with two threads
    (0.26 s a step beside a decoder) than with one (0.22 s)."""
    cores = os.cpu_count() or 1
    torch.set_num_threads(min(torch.get_num_threads(), max(1, cores - config.data.workers)))


def device_of(config: RunConfig) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise MoescopeError("device is cuda, but torch sees no GPU: use device=cpu or device=auto")
    wants_cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if wants_cuda else "cpu")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
