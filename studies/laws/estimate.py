"""Finds a form's parameters: many starts, a scaled objective, analytic slopes, and a second solver
at the end.
"""

# R runs  P parameters  K terms
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, nnls

from .forms import Array, Columns, Form

NUM_STARTS = 48
NUM_POLISHED = 4
ENOUGH_AGREE = 8
"""Starts that came to the same best end: no others are tried."""
MOST_ITERATIONS = 400
GRADIENT = 1e-6
"""Slope at which a solver may stop; a run's part of it is about 1 away from a minimum."""


class Estimate(NamedTuple):
    """Parameters and how they were come by."""

    theta_P: Array
    objective: float
    """sum_R huber(residual of log loss / form.huber), in units of the form's Huber width."""
    gradient: float
    """The largest slope of the objective that is left, over runs."""
    start_P: Array
    """Where the solver began that won."""
    num_starts: int
    num_agreeing: int
    """Starts that came within 0.1% of the best objective."""


def huber(z_R: Array) -> tuple[Array, Array]:
    """Returns the Huber function of width 1 and its derivative."""
    is_small_R = np.abs(z_R) <= 1
    value_R = np.where(is_small_R, 0.5 * z_R**2, np.abs(z_R) - 0.5)
    return value_R, np.clip(z_R, -1, 1)


def objective(
    theta_P: Array, form: Form, columns: Columns, log_loss_R: Array
) -> tuple[float, Array]:
    """Returns sum_R huber((log L - log loss) / d) and its gradient; of L - loss where the form is
    fitted so.

    Divided by d: with a Huber width of 1e-3 gradients of the plain objective are about 1e-6, and
    L-BFGS-B takes that for an end (facts: scaling.md 2.1). The scale of the residuals is 1 here.
    """
    said_R, slope_RP = form.log_loss(theta_P, columns)
    if not form.is_of_logs:
        said_R, slope_RP = np.exp(said_R), np.exp(said_R)[:, None] * slope_RP
    target_R = log_loss_R if form.is_of_logs else np.exp(log_loss_R)
    value_R, by_R = huber((said_R - target_R) / form.huber)
    return float(value_R.sum()), by_R @ slope_RP / form.huber


def estimate(
    form: Form, columns: Columns, loss_R: Array, *, seed: int = 0, num_starts: int = NUM_STARTS
) -> Estimate:
    """Fits a form to runs from `num_starts` starts."""
    chance = np.random.default_rng(seed)
    starts = [_start(form, columns, loss_R, chance) for _ in range(num_starts)]
    return best_of(form, columns, loss_R, starts)


def best_of(
    form: Form,
    columns: Columns,
    loss_R: Array,
    starts: Sequence[Array],
) -> Estimate:
    """Fits a form from one start after the other until enough agree, and finishes the best of them
    with BFGS."""
    told = (form, columns, np.log(loss_R))
    rough: list[tuple[tuple[Array, float], Array]] = []
    for start_P in starts:
        rough.append((_descend(start_P, told, "L-BFGS-B"), start_P))
        values = [value for (_, value), _ in rough]
        if _num_agreeing(values) >= ENOUGH_AGREE:
            break
    rough.sort(key=lambda entry: entry[0][1])
    fine = [
        (_descend(theta_P, told, "BFGS"), start_P) for (theta_P, _), start_P in rough[:NUM_POLISHED]
    ]
    (theta_P, value), start_P = min(fine, key=lambda entry: entry[0][1])
    found = [entry[0][1] for entry in fine] + [entry[0][1] for entry in rough[NUM_POLISHED:]]
    return Estimate(
        theta_P,
        value,
        float(np.abs(_scale(theta_P, form, columns) * objective(theta_P, *told)[1]).max())
        / len(loss_R),
        start_P,
        len(rough),
        _num_agreeing(found),
    )


def _num_agreeing(values: Sequence[float]) -> int:
    least = min(values)
    return sum(value <= least * 1.001 + 1e-9 for value in values)


def refit(form: Form, columns: Columns, loss_R: Array, theta_P: Array) -> Array:
    """Fits a form to runs of which one fit is known that cannot be far; returns the parameters."""
    told = (form, columns, np.log(loss_R))
    return _descend(theta_P, told, "BFGS")[0]


def _scale(theta_P: Array, form: Form, columns: Columns) -> Array:
    """What each parameter alone changes by to move the residuals by about a Huber width."""
    _, slope_RP = form.log_loss(theta_P, columns)
    size_P = np.sqrt((slope_RP**2).mean(0))
    scale_P: Array = form.huber / np.maximum(size_P, 1e-3 * size_P.max() + 1e-12)
    return scale_P


def _directions(theta_P: Array, form: Form, columns: Columns) -> Array:
    """Returns directions (P, P), in columns, each of which moves the residuals by about a Huber
    width, and none of them what another one moves: without them a valley in which alpha and A go
    together takes a solver hundreds of steps."""
    scale_P = _scale(theta_P, form, columns)
    _, slope_RP = form.log_loss(theta_P, columns)
    scaled_RP = slope_RP * scale_P / form.huber / np.sqrt(len(slope_RP))
    _, size_P, direction_PP = np.linalg.svd(scaled_RP, full_matrices=False)
    found_PP: Array = scale_P[:, None] * direction_PP.T / np.maximum(size_P, 1e-4 * size_P[0])
    return found_PP


def _descend(start_P: Array, told: tuple[Form, Columns, Array], method: str) -> tuple[Array, float]:
    """Minimises from a start, in units that suit the solver there."""
    form, columns, _ = told
    is_last = method == "BFGS"
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        units_PP = (
            _directions(start_P, form, columns)
            if is_last
            else np.diag(_scale(start_P, form, columns))
        )

        def scaled(step_P: Array) -> tuple[float, Array]:
            value, by_P = objective(start_P + units_PP @ step_P, *told)
            if not np.isfinite(value):
                return 1e300, np.zeros_like(step_P)
            return value, units_PP.T @ by_P

        # of L-BFGS-B: an end because the value hardly falls would be a false one
        own = {} if is_last else {"ftol": 0.0, "maxcor": 20, "maxfun": 4 * MOST_ITERATIONS}
        options = {"maxiter": MOST_ITERATIONS, "gtol": GRADIENT, **own}
        found = minimize(scaled, np.zeros_like(start_P), jac=True, method=method, options=options)
    theta_P: Array = start_P + units_PP @ found.x
    return theta_P, float(found.fun)


def _start(form: Form, columns: Columns, loss_R: Array, chance: np.random.Generator) -> Array:
    """Draws what is not linear, and finds the factors by non-negative least squares for it
    (variable projection): exponents that are far off still get factors of the right size."""
    theta_P = np.zeros(len(form.names))
    for name, (low, high) in form.ranges.items():
        theta_P[form.names.index(name)] = chance.uniform(low, high)
    if not form.factors:
        return theta_P
    places = [form.names.index(name) for name in form.factors]
    unit_KR = np.exp(form.terms(theta_P, columns).log_KR)
    size_K = unit_KR.max(1)
    # relative errors: residuals are of log loss
    factor_K, _ = nnls((unit_KR / size_K[:, None] / loss_R).T, np.ones(len(loss_R)))
    least = 1e-3 * loss_R.min()
    theta_P[places] = np.log(np.maximum(factor_K, least) / size_K)
    return theta_P
