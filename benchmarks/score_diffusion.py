"""Scores the default rules on healthy trainings of `tiny`, as they are and with planted changes of
the loss, in units of each run's own residual sigma.

    python benchmarks/score_diffusion.py [SEEDS] [STEPS]

Each run is trained once (batch 8), then its recorded values go through the judge again and again.
Sigma is the robust spread of a step's mean log loss of the video against what was expected of its
noise levels; a change of k sigma adds k * sigma to the log of every loss of the step.

- false alarms: alerts of level warning or worse on the runs as they are
- guard: steps that it held back
- lasting: +4 sigma from a step on; the rule that speaks of it first, and after how many steps
- drift of the data: +1 sigma by and by, over 100 steps, and it stays
- drift of the state: the same, and the losses of the probe rise with those of the training
- single: one step of +8 sigma; nothing may be raised
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge
from moescope.monitors.loss_signals import LossNormaliser
from moescope.monitors.scores.intervals import wilson
from moescope.platform import catalogue
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.faults.make_runs import asked_faults, make_fault_run

WARM_UP, EVERY = 500, 150
JUDGED = (
    catalogue.LOSS_PER_SAMPLE,
    catalogue.LOSS_SIGMA,
    catalogue.LOSS_TOTAL,
    catalogue.GRAD_NORM,
)
DRIFT_STEPS = 100
SHAPES = (
    ("lasting", 8),
    ("drift of the data", 150),
    ("drift of the state", 150),
    ("single", 60),
)
"""With the steps within which it is to be seen."""


@dataclass
class Recorded:
    seed: int
    values: list[dict[str, NDArray[Any]]]
    alerts: list[str]
    num_held: int
    sigma: float


def record(seed: int, steps: int, home: Path) -> Recorded:
    settings = Settings(home=home, mlflow="off")
    [fault] = asked_faults(["none"])
    run = make_fault_run(fault, home / f"clips-{seed}", seed, settings, steps=steps)
    with open_store(settings.store_url) as store:
        series = {name: read_series(store, run.run_id, name).values for name in JUDGED}
        held = read_series(store, run.run_id, catalogue.GUARD_HELD).values
        probed = read_series(store, run.run_id, catalogue.PROBE_LOSS)
    values = [{name: series[name][step] for name in JUDGED} for step in range(run.steps)]
    for step, loss in zip(probed.steps, probed.values, strict=True):
        values[step][catalogue.PROBE_LOSS] = loss
    alerts = [f"{alert.rule} at {alert.fired_step}" for alert in run.alerts]
    return Recorded(seed, values, alerts, int(held.sum()), residual_sigma(values))


def residual_sigma(values: list[dict[str, NDArray[Any]]]) -> float:
    """1.4826 MAD of the video's mean log loss of a step against level and noise levels."""
    normaliser, found = LossNormaliser(), []
    for step, one in enumerate(values):
        residuals = normaliser.residuals(one[catalogue.LOSS_PER_SAMPLE], one[catalogue.LOSS_SIGMA])
        assert residuals is not None
        if step >= WARM_UP:
            found.append(residuals.log_level_M[0] - residuals.level_M[0])
        normaliser.learn(residuals, np.ones(2))
    return float(1.4826 * np.median(np.abs(np.array(found) - np.median(found))))


def change_at(shape: str, since: int, sigma: float) -> float:
    """What is added to the log of a loss."""
    if shape == "lasting":
        return 4 * sigma
    if shape.startswith("drift"):
        return sigma * min(1.0, (since + 1) / DRIFT_STEPS)
    return 8 * sigma if since == 0 else 0.0


def replay(run: Recorded, shape: str, onset: int, length: int) -> tuple[str, int] | None:
    """Returns the first alert after the onset: its rule, and steps after it."""
    judged = (*JUDGED, catalogue.PROBE_LOSS)
    judge = Judge([r for r in DEFAULT_RULES if r.signal in judged], "r")
    raised = [catalogue.LOSS_PER_SAMPLE, catalogue.LOSS_TOTAL]
    if shape != "drift of the data":
        raised.append(catalogue.PROBE_LOSS)
    for step in range(min(onset + length, len(run.values))):
        one = dict(run.values[step])
        if step >= onset:
            factor = np.exp(change_at(shape, step - onset, run.sigma))
            for name in one.keys() & raised:
                one[name] = (one[name] * factor).astype(np.float32)
        alerts = judge.step(step, 0, float(step), one).alerts
        if alerts and step >= onset:
            return alerts[0].rule, step - onset
    return None


def main(num_seeds: int, steps: int) -> None:
    with TemporaryDirectory() as folder:
        runs = [record(seed, steps, Path(folder)) for seed in range(num_seeds)]
    total = sum(len(run.values) for run in runs)
    print(f"{num_seeds} healthy runs of tiny, {total:,} steps in all")
    for run in runs:
        alarms = ", ".join(run.alerts) or "no alert"
        print(f"  seed {run.seed}: sigma {run.sigma:.3f}, held back {run.num_held}, {alarms}")
    for shape, limit in SHAPES:
        found = [
            replay(run, shape, onset, max(limit, 150))
            for run in runs
            for onset in range(WARM_UP, steps - 200, EVERY)
        ]
        in_time = [f for f in found if f is not None and f[1] <= limit]
        low, high = wilson(len(in_time), len(found))
        delays = [f[1] for f in found if f is not None]
        rules = sorted({f[0] for f in found if f is not None})
        late = f"median delay {median(delays):.0f}" if delays else "-"
        print(
            f"  {shape:18} {len(in_time)} of {len(found)} within {limit} steps "
            f"({low:.2f} to {high:.2f}), {late}; {', '.join(rules) or 'nothing raised'}"
        )


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 3,
        int(sys.argv[2]) if len(sys.argv) > 2 else 2000,
    )
