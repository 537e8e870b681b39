"""A fitted law: what it says, how sure it is of it, and whether it may be asked beyond its runs."""

# R runs  P parameters  B bootstraps  Q questions
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ...platform.errors import MoescopeError, did_you_mean
from .checks import Diagnostics, HeldOut, Verdict, diagnose, held_out, judge
from .estimate import NUM_STARTS, Estimate, estimate
from .forms import FORMS, Array, Form
from .table import read_columns
from .uncertainty import resampled, seed_noise

NUM_BOOTSTRAPS = 400
FLAT = 1.0025
"""Sizes whose loss is within 0.25% of the least are as good. Source: facts: scaling.md 3 (Ling)."""
NUM_SIZES = 601
MOST_FLAT = 1e3


class Interval(NamedTuple):
    low: Array
    high: Array


class Optimum(NamedTuple):
    """The size to train with a budget; each interval is of 95% of the bootstraps."""

    flops: float
    params: float
    tokens: float
    loss: float
    params_interval: tuple[float, float]
    tokens_interval: tuple[float, float]
    loss_interval: tuple[float, float]
    flat_params: tuple[float, float]
    """Sizes whose loss at this budget is within 0.25% of the least."""


@dataclass(frozen=True)
class Law:
    """A form fitted to runs. Bootstraps are made when an interval is first asked for."""

    form: Form
    columns: Mapping[str, Array]
    """Of the runs that it was fitted to, `loss` among them."""
    estimate: Estimate
    num_bootstraps: int
    seed: int
    num_starts: int = NUM_STARTS

    @property
    def params(self) -> dict[str, float]:
        """The parameters by name, as the form's formula has them."""
        return self.form.named(self.estimate.theta_P)

    def predict(self, params: Any = None, tokens: Any = None, **others: Any) -> Array:
        """Returns the loss (Q) of runs that the form's columns tell of. Raises MoescopeError where
        one is missing."""
        questions = self._asked(params, tokens, others)
        log_Q, _ = self.form.log_loss(self.estimate.theta_P, questions)
        return np.exp(log_Q)

    def interval(
        self, params: Any = None, tokens: Any = None, *, level: float = 0.95, **others: Any
    ) -> Interval:
        """Returns between what the law's loss (Q) lies in a share `level` of the bootstraps; the
        law, and not a single run with its noise."""
        questions = self._asked(params, tokens, others)
        losses_BQ = np.exp(
            [self.form.log_loss(theta_P, questions)[0] for theta_P in self.bootstraps]
        )
        return Interval(*_between(losses_BQ, level))

    def optimal(self, flops: float, **others: Any) -> Optimum:
        """Returns the size that has the least loss with 6 params tokens = flops.

        others: what else the form reads, as experts. Raises MoescopeError where the form knows not
        both params and tokens.
        """
        if not {"params", "tokens"} <= set(self.form.columns) and (
            "tokens_per_param" not in self.form.columns
        ):
            raise MoescopeError(
                f"a law of form {self.form.name} reads {', '.join(self.form.columns)}, and cannot "
                "weigh params against tokens"
            )
        if not flops > 0:
            raise MoescopeError(f"flops is {flops:g}, but must be positive")
        params, loss = self._best_at(self.estimate.theta_P, flops, others)
        around_Q = params * np.geomspace(1 / MOST_FLAT, MOST_FLAT, NUM_SIZES)
        losses_Q = self._along(self.estimate.theta_P, around_Q, flops, others)
        flat_Q = around_Q[losses_Q <= FLAT * loss]
        found = [self._best_at(theta_P, flops, others) for theta_P in self.bootstraps]
        low, high = _between(np.array([(n, flops / 6 / n, value) for n, value in found]), 0.95)
        of_params, of_tokens, of_loss = (
            (float(a), float(b)) for a, b in zip(low, high, strict=True)
        )
        flat = (float(flat_Q[0]), float(flat_Q[-1]))
        return Optimum(
            float(flops), params, flops / 6 / params, loss, of_params, of_tokens, of_loss, flat
        )

    def parameter_intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Returns {parameter: (low, high)}. Single parameters drift together where predictions do
        not (facts: scaling.md 2.1): ask `interval` of what is decided by it."""
        named = [self.form.named(theta_P) for theta_P in self.bootstraps]
        names = list(self.params)
        low, high = _between(np.array([[row[name] for name in names] for row in named]), level)
        return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}

    @cached_property
    def bootstraps(self) -> Array:
        """Parameters (B, P) of the fits to resampled runs."""
        return resampled(
            self.form.name, self.columns, self.estimate, self.num_bootstraps, self.seed
        )

    @cached_property
    def noise(self) -> float:
        """Standard deviation of log loss around the law, over runs."""
        residual_R = self.residuals
        return float(np.sqrt((residual_R**2).sum() / max(1, self.num_free)))

    @property
    def residuals(self) -> Array:
        """log loss - log of the law, (R)."""
        log_R, _ = self.form.log_loss(self.estimate.theta_P, self.columns)
        return np.log(self.columns["loss"]) - log_R

    @property
    def num_free(self) -> int:
        """Runs beyond what the parameters take."""
        return len(self.columns["loss"]) - len(self.form.names)

    @cached_property
    def seed_noise(self) -> float | None:
        """Standard deviation of log loss between runs that differ in their seed alone."""
        return seed_noise(self.columns)

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """Whether the solver arrived, and what the runs do not pin."""
        return diagnose(self.form, self.columns, self.estimate)

    @cached_property
    def held_out(self) -> HeldOut | None:
        """How the law of the smaller runs foretells the largest; None where too few are left."""
        return held_out(self.form, self.columns, self.seed, self.num_starts)

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the law may be asked beyond its runs, and why not."""
        num_runs = len(self.columns["loss"])
        return judge(self.form, num_runs, self.diagnostics, self.held_out, self.noise)

    def _asked(self, params: Any, tokens: Any, others: Mapping[str, Any]) -> dict[str, Array]:
        given = {"params": params, "tokens": tokens, **others}
        frame = {name: value for name, value in given.items() if value is not None}
        return read_columns(frame, self.form.columns)

    def _best_at(
        self, theta_P: Array, flops: float, others: Mapping[str, Any]
    ) -> tuple[float, float]:
        """Returns the best size at a budget, to 0.1%, and its loss: over all sizes first, then
        around the best of them."""
        size, reach = np.sqrt(flops / 6), 1e9
        for _ in range(3):
            sizes_Q = size * np.geomspace(1 / reach, reach, 61)
            losses_Q = self._along(theta_P, sizes_Q, flops, others)
            size, reach = sizes_Q[losses_Q.argmin()], reach ** (2 / 60)
        return float(size), float(losses_Q.min())

    def _along(
        self, theta_P: Array, params_Q: Array, flops: float, others: Mapping[str, Any]
    ) -> Array:
        """Returns the loss of sizes that all cost `flops`."""
        frame = {"params": params_Q, "tokens": flops / 6 / params_Q, "flops": flops, **others}
        questions = read_columns(frame, self.form.columns)
        losses_Q: Array = np.exp(self.form.log_loss(theta_P, questions)[0])
        return losses_Q


def fit(
    frame: Any,
    form: str = "chinchilla",
    *,
    num_bootstraps: int = NUM_BOOTSTRAPS,
    seed: int = 0,
    num_starts: int = NUM_STARTS,
) -> Law:
    """Fits a scaling law to a table of runs.

    frame: a DataFrame or a mapping of arrays, with `loss` and the columns of the form, as `params`
    and `tokens` for chinchilla. form: a name in `FORMS`. num_starts: at most; tables of a few noisy
    runs, whose starts never agree, take them all. Raises MoescopeError on an unknown form, a
    missing column, numbers that are not positive, and fewer runs than the form has parameters.
    """
    if form not in FORMS:
        raise MoescopeError(
            f"unknown form {form}{did_you_mean(form, FORMS)} (there are: {', '.join(FORMS)})"
        )
    chosen = FORMS[form]
    columns = read_columns(frame, (*chosen.columns, "loss"))
    num_runs, num_parameters = len(columns["loss"]), len(chosen.names)
    if num_runs <= num_parameters:
        raise MoescopeError(
            f"{num_runs} runs do not pin the {num_parameters} parameters of {form}: at least "
            f"{num_parameters + 1} are needed"
        )
    found = estimate(chosen, columns, columns["loss"], seed=seed, num_starts=num_starts)
    return Law(chosen, columns, found, num_bootstraps, seed, num_starts)


def _between(values_BQ: Array, level: float) -> tuple[Array, Array]:
    ends = [(1 - level) / 2, (1 + level) / 2]
    # unbiased for few bootstraps too: numpy's own choice is a twentieth too narrow at 60 of them
    low, high = np.quantile(values_BQ, ends, axis=0, method="weibull")
    return low, high
