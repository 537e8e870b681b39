"""A study from its plan to its last trial, on this machine."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..platform.errors import MoescopeError
from ..platform.records import Study, Trial
from ..platform.settings import Settings
from ..platform.store import Store
from . import trials
from .plan import Plan
from .worker import Worker


def run_study(
    store: Store, settings: Settings, plan: Plan, num_slots: int, say: Callable[[str], None]
) -> None:
    """Asks for the plan's trials and runs them until none is left; SIGTERM and Ctrl-C let those
    that run save first.

    Raises MoescopeError where the study has no data, or was cancelled.
    """
    spec = plan.spec
    if not spec.data:
        raise MoescopeError(f"study {spec.name} has no data: give a folder of clips with --data")
    before = [one.state for one in trials.studies(store) if one.name == spec.name]
    if before and before[0] != "running":
        raise MoescopeError(
            f"study {spec.name} is {before[0]}: `moescope study resume {spec.name}` lets it run"
        )
    wanted = Study(spec.name, spec.model_dump(mode="json"), "running", time.time())
    new, gone = trials.ask(store, wanted, rows_of(plan))
    say(f"study {spec.name}: {len(plan.trials)} trials, {new} new, {gone} retired")
    stop = threading.Event()
    with _set_by_signals(stop):
        Worker(store, settings, spec.name, num_slots, say=say).work(stop)


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


@contextmanager
def _set_by_signals(stop: threading.Event) -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
