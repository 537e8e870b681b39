"""Whether a trial is to end before its last step: unstable, or behind those it is compared with."""

from typing import NamedTuple

import numpy as np

from ..platform import catalogue, trials
from ..platform.records import Trial
from ..platform.series import is_living, latest, read_series
from ..platform.store import Store
from .results import FEWEST_STEPS, LAST_SHARE
from .spec import EarlyStop, Halving, StudySpec


class Ending(NamedTuple):
    verdict: str
    """unstable, or stopped early."""
    reason: str


def ending_of(store: Store, spec: StudySpec, trial: Trial) -> Ending | None:
    """Returns why a running trial is to end now; None: it goes on.

    A rung that it has come to is noted in its row, where others are compared with it.
    """
    asked = spec.early_stop
    if not asked.unstable_steps and asked.halving is None:
        return None
    newest = latest(store, trial.run_id, [catalogue.LOSS_TOTAL]).get(catalogue.LOSS_TOTAL)
    if newest is None:
        return None
    step = newest[0]
    ending = _unstable(store, asked, trial, step)
    if ending is None and asked.halving is not None:
        ending = _behind(store, spec, asked.halving, trial, step)
    return ending


def _unstable(store: Store, asked: EarlyStop, trial: Trial, step: int) -> Ending | None:
    if not asked.unstable_steps:
        return None
    now = max((segment.index for segment in store.segments(trial.run_id)), default=0)
    for alert in store.alerts(trial.run_id, states=["open", "acknowledged"]):
        if alert.severity != "critical" or alert.segment != now:
            continue
        if step - alert.fired_step >= asked.unstable_steps:
            return Ending("unstable", f"{alert.rule} stands since step {alert.fired_step}")
    return None


def _behind(
    store: Store, spec: StudySpec, asked: Halving, trial: Trial, step: int
) -> Ending | None:
    steps = int(trial.config["steps"])
    (now,) = (one for one in trials.trials(store, spec.name) if one.key == trial.key)
    known = dict(now.result.get("rungs", {}))
    for rung in asked.rungs:
        name, last = f"{rung:g}", round(rung * steps)
        if name in known or step < last:
            continue
        loss = _loss_until(store, trial, last)
        known[name] = loss
        trials.note(store, trial, {"rungs": known})
        others = [
            one.result["rungs"][name]
            for one in trials.trials(store, spec.name)
            if one.key != trial.key
            and _place(spec, one) == _place(spec, trial)
            and name in one.result.get("rungs", {})
        ]
        if not is_kept(loss, others, asked.keep):
            best = min(value for value in others if value is not None)
            told = "no finite loss" if loss is None else f"loss {loss:.4f}"
            return Ending(
                "stopped early",
                f"{told} at step {last}, the best of {len(others) + 1} has {best:.4f}",
            )
    return None


def is_kept(loss: float | None, others: list[float | None], keep: float) -> bool:
    """Whether a loss is among the best share of all that came to its rung; None is the worst, and
    the first one goes on whatever it is."""
    values = sorted(np.inf if value is None else value for value in others)
    if not values or values[0] == np.inf:
        return True
    num_kept = max(1, int(keep * (len(values) + 1)))
    better = sum(value <= (np.inf if loss is None else loss) for value in values)
    return better < num_kept


def _loss_until(store: Store, trial: Trial, step: int) -> float | None:
    """Mean loss of the last steps before a rung, as `results.py` takes it at the end."""
    num_steps = max(FEWEST_STEPS, round(LAST_SHARE * step))
    series = read_series(
        store, trial.run_id, catalogue.LOSS_TOTAL, from_step=step - num_steps, to_step=step - 1
    )
    losses = series.values[is_living(series, store.segments(trial.run_id))].ravel()
    finite = losses[np.isfinite(losses)]
    return float(finite.mean()) if len(finite) else None


def _place(spec: StudySpec, trial: Trial) -> dict[str, object]:
    """What two trials must have in common to be compared."""
    free = {*spec.axes, "ablation"}
    return {key: value for key, value in trial.coordinates.items() if key not in free}
