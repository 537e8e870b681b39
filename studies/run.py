"""A study from its plan to its last trial."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..platform import trials
from ..platform.errors import MoescopeError
from ..platform.records import Study, Trial
from ..platform.settings import Settings
from ..platform.store import Store
from .launchers.by_name import launcher_for
from .plan import Plan
from .work import set_by_signals

LOOK_EVERY_S = 0.5


def start_study(store: Store, plan: Plan, *, is_served: bool) -> tuple[int, int]:
    """Asks for the plan's trials; returns how many are new, how many retired.

    is_served: a service is to see to them. Raises MoescopeError where the study has no data, or
    rests.
    """
    wanted = study_of(plan, is_served=is_served, now_s=time.time())
    refuse_at_rest(store, wanted.name)
    return trials.ask(store, wanted, rows_of(plan))


def run_study(
    store: Store,
    settings: Settings,
    plan: Plan,
    say: Callable[[str], None],
    *,
    log: Path | None = None,
) -> None:
    """Asks for the plan's trials and sees to them until none is left; SIGTERM and Ctrl-C let those
    that run here save first.

    log: where local workers say what they do; None: where this process does. Raises MoescopeError
    as `start_study` does, and where the launcher is not there: then nothing was asked for.
    """
    spec = plan.spec
    study_of(plan, is_served=False, now_s=0.0)
    refuse_at_rest(store, spec.name)
    launcher = launcher_for(store, settings, spec.name, spec.launch, log)
    new, gone = start_study(store, plan, is_served=False)
    say(f"study {spec.name}: {len(plan.trials)} trials, {new} new, {gone} retired")
    stop = threading.Event()
    fault = ""
    with set_by_signals(stop):
        try:
            while not stop.is_set():
                try:
                    if trials.is_over(store, spec.name):
                        break
                    lines = launcher.look(trials.num_wanted(store, spec.name, time.time()))
                    fault = ""
                except MoescopeError as error:
                    # the store or the engine is away for now: what runs goes on without us
                    lines = [] if str(error) == fault else [f"trying again: {error}"]
                    fault = str(error)
                for line in lines:
                    say(line)
                stop.wait(LOOK_EVERY_S)
        finally:
            launcher.stop()


def refuse_at_rest(store: Store, name: str) -> None:
    """Raises MoescopeError where a study was paused or cancelled."""
    for one in trials.studies(store):
        if one.name == name and one.state != "running":
            raise MoescopeError(
                f"study {name} is {one.state}: `moescope study resume {name}` lets it run"
            )


def study_of(plan: Plan, *, is_served: bool, now_s: float) -> Study:
    """Returns the row of a plan's study. Raises MoescopeError where it has no data."""
    spec = plan.spec
    if not spec.data:
        raise MoescopeError(f"study {spec.name} has no data: give a folder of clips with --data")
    return Study(spec.name, spec.model_dump(mode="json"), "running", now_s, is_served)


def rows_of(plan: Plan) -> list[Trial]:
    """Returns the rows of the trial table that a plan asks for."""
    return [
        Trial(
            plan.spec.name,
            trial.key,
            position,
            trial.label,
            dict(trial.coordinates),
            trial.config.model_dump(mode="json"),
            trial.cost._asdict(),
            trial.trunk,
            trial.branch_at,
        )
        for position, trial in enumerate(plan.trials)
    ]
