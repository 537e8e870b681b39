"""Trains runs with a planted fault each, into the store, where they can be judged again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...platform.errors import MoescopeError, did_you_mean
from ...platform.frozen import changed
from ...platform.records import Alert
from ...platform.settings import Settings
from ...platform.store import open_store
from ..config import RunConfig
from ..data.deliveries import make_demo_deliveries
from ..data.make_clips import make_clips
from ..loop import Trainer
from ..recipes.stream import tiny
from ..run import train
from .faults import Fault, faults

ONSET = 150
"""Step from which a fault acts: detectors have learnt what is usual by then."""
NUM_CLIPS = 120
_SPOILED_BATCHES = 60


@dataclass(frozen=True, slots=True)
class FaultRun:
    fault: str
    seed: int
    run_id: str
    onset: int
    steps: int
    """Trained, of those that were asked for; less where it ended at the alert."""
    alerts: tuple[Alert, ...]
    is_stopped: bool = False
    """Whether somebody asked for its end: a signal, or a command."""

    def delay(self, named_by: Sequence[str]) -> int | None:
        """Steps from the onset to the first alert of these rules; None where there was none."""
        found = [
            alert.fired_step - self.onset
            for alert in self.alerts
            if alert.rule in named_by and alert.fired_step >= self.onset
        ]
        return min(found, default=None)


def asked_faults(names: Sequence[str]) -> tuple[Fault, ...]:
    """Returns the faults of these names, or all. Raises MoescopeError on an unknown one."""
    known = {fault.name: fault for fault in faults()}
    for name in names:
        if name not in known:
            raise MoescopeError(
                f"there is no fault {name}{did_you_mean(name, known)} "
                f"(there are: {', '.join(known)})"
            )
    return tuple(known[name] for name in names or known)


def fault_config(fault: Fault, folder: Path, seed: int, steps: int) -> RunConfig:
    """Writes the clips of a run into `folder`, unless they are there, and returns its
    configuration: `tiny`, watched closely and with nothing acting on alerts."""
    config = changed(
        tiny(),
        {
            "seed": seed,
            "steps": steps,
            "data.batch": 8,
            "watch.sample_every": 5,
            "watch.probe_every": 50,
            "policy.mode": "off",
            "checkpoint.ring_gib": 0.0,
            "checkpoint.disk_every_steps": 1_000_000,
            **fault.changes,
        },
    )
    clips = folder / "clips"
    are_there = clips.is_dir()
    if fault.is_in_clips:
        config = changed(config, {"data.order": "by_folder", "data.windows_per_clip": 16})
    if fault.is_in_clips and not are_there:
        make_demo_deliveries(
            clips,
            config.data,
            seed,
            clean_batches=ONSET,
            spoiled_batches=_SPOILED_BATCHES,
            last_batches=20,
        )
    elif not are_there:
        make_clips(clips, NUM_CLIPS, seed=seed)
    return changed(config, {"data.folder": str(clips)})


def make_fault_run(
    fault: Fault,
    folder: Path,
    seed: int,
    settings: Settings,
    *,
    steps: int,
    ends_when_named: bool = False,
    branch_from: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> FaultRun:
    """Trains one run with the fault from step ONSET on.

    folder: of its clips. ends_when_named: whether it ends with the alert that names the fault.
    branch_from: a run of the same configuration and clips from whose last state, before ONSET, it
    goes on, instead of from step 0.
    """
    config = fault_config(fault, folder, seed, steps)
    has_asked = False
    newest: Trainer | None = None

    def on_step(trainer: Trainer) -> None:
        nonlocal has_asked, newest
        newest = trainer
        if fault.plant is not None and trainer.state.step >= ONSET:
            fault.plant(trainer)
        if ends_when_named and trainer.raised.intersection(fault.named_by):
            has_asked = True
            trainer.stop()

    result = train(
        config,
        settings=settings,
        name=f"{fault.name}-{seed}",
        branch_from=branch_from,
        progress=False,
        on_step=on_step,
    )
    with open_store(settings.store_url) as store:
        alerts = tuple(store.alerts(result.run_id))
    say(f"{result.name}: {result.step} steps, {len(alerts)} alerts")
    # a signal in the last step comes too late for the run, and not for those after it
    is_stopping = newest is None or newest.is_stopping
    is_stopped = is_stopping and result.status in ("stopped", "finished") and not has_asked
    return FaultRun(fault.name, seed, result.run_id, ONSET, result.step, alerts, is_stopped)
