"""How far a law would have come out otherwise: fits of resampled runs, and the noise of seeds."""

# R runs  P parameters  B bootstraps
from collections.abc import Mapping, Sequence
from os import sched_getaffinity

import numpy as np
from joblib import Parallel, delayed

from .estimate import Estimate, refit
from .forms import FORMS, Array
from .table import seeds_of

ALONE = 200
"""Bootstraps up to which no other process is started: that takes seconds."""


def resampled(
    form_name: str,
    columns: Mapping[str, Array],
    estimate: Estimate,
    num: int,
    seed: int = 0,
) -> Array:
    """Returns the parameters (B, P) of fits to `num` tables with the same runs and other noise.

    A table has the loss that the law gives each run, times exp of a residual that is drawn, with
    replacement, among those of the runs; residuals are widened by sqrt(R / (R - P)) for what the
    fit took of them. Runs themselves stay: a small table drawn with replacement would lose the
    sizes that pin a law (arXiv 2404.10102 draws runs, of 240). Fits start from the estimate.
    """
    form = FORMS[form_name]
    log_R, _ = form.log_loss(estimate.theta_P, columns)
    residual_R = np.log(columns["loss"]) - log_R
    freedom = max(1, len(log_R) - len(estimate.theta_P))
    residual_R = (residual_R - residual_R.mean()) * np.sqrt(len(log_R) / freedom)
    chance = np.random.default_rng(seed)
    losses_BR = np.exp(log_R + chance.choice(residual_R, (num, len(log_R))))
    inputs = {name: np.asarray(columns[name]) for name in form.columns}
    num_processes = min(len(sched_getaffinity(0)), 8)
    if num <= ALONE or num_processes == 1:
        return _refit(form_name, inputs, estimate.theta_P, losses_BR)
    parts = np.array_split(losses_BR, num_processes)
    # joblib's processes never run the caller's script again, as the standard library's would
    fits = Parallel(n_jobs=num_processes)(
        delayed(_refit)(form_name, inputs, estimate.theta_P, part_BR) for part_BR in parts
    )
    return np.concatenate(fits)


def _refit(form_name: str, inputs: Mapping[str, Array], theta_P: Array, losses_BR: Array) -> Array:
    form = FORMS[form_name]
    return np.stack([refit(form, inputs, loss_R, theta_P) for loss_R in losses_BR])


def seed_noise(columns: Mapping[str, Array]) -> float | None:
    """Returns the standard deviation of log loss between runs that differ in their seed alone;
    None where no run was repeated."""
    groups: Sequence[Array] = [np.log(columns["loss"][rows]) for rows in seeds_of(columns)]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return float(np.sqrt(squares / freedom))
