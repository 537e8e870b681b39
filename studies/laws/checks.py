"""What may be wrong with a fit: a solver that stopped early, parameters that nothing pins, and a
law that fits what it saw and foretells nothing."""

# R runs  P parameters  H held-out runs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...platform.errors import MoescopeError
from .estimate import NUM_STARTS, Estimate, estimate
from .forms import Array, Form

SETTLED_GRADIENT = 1e-4
"""Of the objective per run, by a parameter moved so far that the log loss moves by a Huber width:
the unscaled solver of facts: scaling.md 2.1 stops at 1000 times that."""
UNMOVED = 1e-6
"""Change since the start, relative, of a parameter that the solver did not touch."""
MOST_CONDITION = 1e4
"""200 where sizes and tokens vary freely, 8e4 where tokens are 20 times the parameters in all runs.
"""
RUNS_PER_PARAMETER = 3
HELD_OUT_SHARE = 0.1
MOST_HELD_OUT_ERROR = 0.01
"""Of the largest runs' loss; published laws that could be trusted missed by less (facts: scaling.md
2.1, 5.2: 0.1 to 0.8%), those that could not by 4%."""
NOISES = 2.0
OUTLIER = 5.0
"""Robust standard deviations."""


class Diagnostics(NamedTuple):
    """What the solver did, and what the runs say of the parameters."""

    has_converged: bool
    gradient: float
    """The largest slope that is left, as in `Estimate`."""
    unmoved: tuple[str, ...]
    """Parameters that are where the solver began."""
    condition: float
    """Of the derivative of log loss by the parameters, columns of unit length."""
    loosest: tuple[str, ...]
    """Parameters that can move together with the least effect, the freest first."""
    outliers: tuple[int, ...]
    """Rows further from the law than 5 robust standard deviations; they count linearly."""
    num_starts: int
    num_agreeing: int

    @property
    def warnings(self) -> tuple[str, ...]:
        told = []
        if not self.has_converged:
            told.append(f"the solver stopped early: a slope of {self.gradient:.2g} is left")
        if self.unmoved:
            told.append(f"{', '.join(self.unmoved)} did not move from the start")
        if self.condition > MOST_CONDITION:
            told.append(
                f"the runs do not tell {' and '.join(self.loosest)} apart "
                f"(condition {self.condition:.1e})"
            )
        if self.num_agreeing == 1 and self.num_starts > 1:
            told.append(f"one of {self.num_starts} starts led here: there may be a better fit")
        return tuple(told)


class HeldOut(NamedTuple):
    """The largest runs, foretold by a law of all others."""

    rows: tuple[int, ...]
    errors_H: Array
    """predicted / measured - 1."""

    @property
    def mean_error(self) -> float:
        return float(np.abs(self.errors_H).mean())


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a law may be asked beyond its runs."""

    can_extrapolate: bool
    reasons: tuple[str, ...]
    """Why not; empty where it may."""


def diagnose(form: Form, columns: Mapping[str, Array], found: Estimate) -> Diagnostics:
    """Looks at a fit that is done."""
    log_R, slope_RP = form.log_loss(found.theta_P, columns)
    length_P = np.linalg.norm(slope_RP, axis=0)
    _, size_P, directions_PP = np.linalg.svd(slope_RP / np.maximum(length_P, 1e-300))
    freest = np.argsort(-np.abs(directions_PP[-1]))[:2]
    moved_P = np.abs(found.theta_P - found.start_P) / np.maximum(np.abs(found.start_P), 1e-12)
    residual_R = np.log(columns["loss"]) - log_R
    centred_R = residual_R - np.median(residual_R)
    sigma = 1.4826 * float(np.median(np.abs(centred_R)))
    return Diagnostics(
        has_converged=bool(found.gradient < SETTLED_GRADIENT),
        gradient=found.gradient,
        unmoved=tuple(
            name for name, moved in zip(form.names, moved_P, strict=True) if moved < UNMOVED
        ),
        condition=float(size_P[0] / max(size_P[-1], 1e-300)),
        loosest=tuple(form.names[place] for place in freest),
        outliers=tuple(np.flatnonzero(np.abs(centred_R) > OUTLIER * sigma + 1e-12).tolist()),
        num_starts=found.num_starts,
        num_agreeing=found.num_agreeing,
    )


def held_out(
    form: Form, columns: Mapping[str, Array], seed: int = 0, num_starts: int = NUM_STARTS
) -> HeldOut | None:
    """Fits all but the largest tenth of the runs, of those of one cost all or none, and foretells
    these. None where too few are left for the form."""
    cost_R = _cost(columns)
    least = np.sort(cost_R)[-max(1, round(HELD_OUT_SHARE * len(cost_R)))]
    is_held_out_R = cost_R >= least * (1 - 1e-6)
    seen = {name: values[~is_held_out_R] for name, values in columns.items()}
    if len(seen["loss"]) <= len(form.names):
        return None
    found = estimate(form, seen, seen["loss"], seed=seed, num_starts=num_starts)
    others = {name: values[is_held_out_R] for name, values in columns.items()}
    log_H, _ = form.log_loss(found.theta_P, others)
    errors_H = np.exp(log_H) / others["loss"] - 1
    return HeldOut(tuple(np.flatnonzero(is_held_out_R).tolist()), errors_H)


def judge(
    form: Form,
    num_runs: int,
    diagnostics: Diagnostics,
    foretold: HeldOut | None,
    noise: float,
) -> Verdict:
    """Says whether a law may be asked beyond its runs. noise: of log loss around it."""
    reasons = list(diagnostics.warnings)
    least = RUNS_PER_PARAMETER * len(form.names)
    if num_runs < least:
        reasons.append(
            f"{num_runs} runs for {len(form.names)} parameters: at least {least} are needed"
        )
    if foretold is None:
        reasons.append("no run can be held out: too few are left for the form")
    else:
        bound = max(MOST_HELD_OUT_ERROR, NOISES * noise)
        if foretold.mean_error > bound:
            reasons.append(
                f"a law of the smaller runs misses the largest by {foretold.mean_error:.1%} "
                f"(at most {bound:.1%})"
            )
    return Verdict(not reasons, tuple(reasons))


def _cost(columns: Mapping[str, Array]) -> Array:
    """What orders runs by size: their FLOPs, or what stands in for them."""
    for names in (("flops",), ("params", "tokens"), ("params",)):
        if set(names) <= set(columns):
            cost_R: Array = np.prod([columns[name] for name in names], axis=0)
            return cost_R
    raise MoescopeError(f"{', '.join(columns)} do not say which runs are the largest")
