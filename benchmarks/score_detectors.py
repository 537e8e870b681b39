"""Scores the default rules on made-up runs with planted faults: what is found, and how late.

    python benchmarks/score_detectors.py [number of seeds]

A healthy run is a loss per sample of level(sigma) * decay(step) * a log-normal factor, a gradient
norm that follows it, and expert counts near balance. No model is trained, so this scores the
detectors and nothing else. Each fault begins at step ONSET of a run of STEPS steps:

- odd batch: one batch with three times the loss; nothing should be raised
- spike: the loss doubles and stays so for 60 steps
- drift: the loss grows by 0.3% a step instead of falling
- gradient: the gradient norm is ten times as large for 20 steps, the loss is as before
- not a number: one step
- dead expert: one expert of eight gets no token from there on
"""

import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Judge
from moescope.platform import catalogue

STEPS, ONSET, BATCH, LAYERS, EXPERTS, TOKENS = 600, 300, 8, 3, 8, 4992
Values = dict[str, NDArray[Any]]
Fault = Callable[[Values, int], None]


def healthy(step: int, chance: np.random.Generator) -> Values:
    """What the trainer gives the judge after a step of a run that learns."""
    sigma = (np.arange(BATCH) + chance.random((2, BATCH))) / BATCH
    level = 0.15 + 0.9 * sigma**2 + 0.5 * np.exp(-8 * sigma)
    decay = 0.5 + 0.5 * np.exp(-step / 250)
    loss = level * decay * np.exp(0.25 * chance.standard_normal((2, BATCH)))
    total = loss.mean()
    shares = chance.dirichlet(np.full(EXPERTS, 60.0), size=LAYERS)
    return {
        catalogue.LOSS_PER_SAMPLE: loss.astype(np.float32),
        catalogue.LOSS_SIGMA: sigma.astype(np.float32),
        catalogue.LOSS_TOTAL: np.asarray(total, np.float32),
        catalogue.GRAD_NORM: np.asarray(total * np.exp(0.2 * chance.standard_normal()), np.float32),
        catalogue.GUARD_HELD: np.asarray(0.0, np.float32),
        catalogue.EXPERT_TOKENS: np.round(shares * TOKENS).astype(np.float32),
        catalogue.DATA_BATCH: np.asarray(step, np.float32),
    }


def scale_loss(values: Values, factor: float) -> None:
    values[catalogue.LOSS_PER_SAMPLE] *= np.float32(factor)
    values[catalogue.LOSS_TOTAL] = values[catalogue.LOSS_TOTAL] * np.float32(factor)


def odd_batch(values: Values, since: int) -> None:
    if since == 0:
        scale_loss(values, 3.0)


def spike(values: Values, since: int) -> None:
    if since < 60:
        scale_loss(values, 2.0)


def drift(values: Values, since: int) -> None:
    scale_loss(values, 1.003**since)


def gradient(values: Values, since: int) -> None:
    if since < 20:
        values[catalogue.GRAD_NORM] = values[catalogue.GRAD_NORM] * np.float32(10)


def not_a_number(values: Values, since: int) -> None:
    if since == 0:
        values[catalogue.LOSS_PER_SAMPLE][0, 0] = np.nan
        values[catalogue.LOSS_TOTAL] = np.asarray(np.nan, np.float32)


def dead_expert(values: Values, since: int) -> None:
    values[catalogue.EXPERT_TOKENS][1, 3] = 0


FAULTS: dict[str, Fault | None] = {
    "healthy": None,
    "odd batch": odd_batch,
    "spike": spike,
    "drift": drift,
    "gradient": gradient,
    "not a number": not_a_number,
    "dead expert": dead_expert,
}


def alarms(fault: Fault | None, seed: int) -> list[tuple[int, str]]:
    """Returns (step, rule) of every alert and note that one run raises."""
    judge, chance = Judge(DEFAULT_RULES, f"seed-{seed}"), np.random.default_rng(seed)
    found = []
    for step in range(STEPS):
        values = healthy(step, chance)
        if fault is not None and step >= ONSET:
            fault(values, step - ONSET)
        judgement = judge.step(step, 0, float(step), values)
        found += [(step, alert.rule) for alert in judgement.alerts]
    return found


def main(num_seeds: int) -> None:
    print(f"{num_seeds} seeds, {STEPS} steps, fault at step {ONSET}")
    print(
        f"{'planted':<14}{'runs with an alert':>20}{'median delay':>14}{'before onset':>14}  rules"
    )
    for name, fault in FAULTS.items():
        runs = [alarms(fault, seed) for seed in range(num_seeds)]
        after = [[a for a in run if a[0] >= ONSET] for run in runs]
        delays = [run[0][0] - ONSET for run in after if run]
        early = sum(a[0] < ONSET for run in runs for a in run)
        rules = sorted({rule for run in after for _, rule in run})
        delay = f"{median(delays):.0f} steps" if delays else "-"
        found = f"{len(delays)} of {num_seeds}"
        print(f"{name:<14}{found:>20}{delay:>14}{early:>14}  {', '.join(rules)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
