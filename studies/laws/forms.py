"""The forms a scaling law may have: loss as a sum of terms, each exp(linear in the parameters).

Logs are natural. Factors are fitted as their logs, and reported as they are: in raw A and B a
gradient is so small that they never move (facts: scaling.md 2.1).
"""

# R runs  K terms  P parameters
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Columns = Mapping[str, Array]


SQUARES = 10.0
"""A Huber width that no residual reaches: least squares."""


class Terms(NamedTuple):
    """What a form says of runs at some parameters."""

    log_KR: Array
    """The log of each term; the loss is the sum of their exps."""
    slope_KRP: Array
    """Its derivative by each fitted parameter."""


@dataclass(frozen=True, slots=True)
class Form:
    """A law's algebra. `theta_P` are the parameters as they are fitted."""

    name: str
    formula: str
    source: str
    columns: tuple[str, ...]
    """Of the table, beside `loss`."""
    names: tuple[str, ...]
    """Of the parameters as they are fitted."""
    logs: frozenset[str]
    """Names of those that are fitted as a log."""
    ranges: Mapping[str, tuple[float, float]]
    """Of those that are not found by least squares: where starts are drawn."""
    terms: Callable[[Array, Columns], Terms]
    factors: tuple[str, ...]
    """The parameter of each term that is its factor, in the order of the terms."""
    reported: Callable[[dict[str, float]], dict[str, float]] = dict
    """Makes the published parameters of the fitted ones, after logs are undone."""
    huber: float = 1e-3
    """Residuals above it count linearly."""
    is_of_logs: bool = True
    """Whether residuals are of the log of the loss, or of the loss itself."""

    @property
    def has_floor(self) -> bool:
        return "E0" in self.names

    def log_loss(self, theta_P: Array, columns: Columns) -> tuple[Array, Array]:
        """Returns the log of the loss (R) and its derivative (R, P): log-sum-exp of the terms."""
        terms = self.terms(theta_P, columns)
        most_R = terms.log_KR.max(0)
        share_KR = np.exp(terms.log_KR - most_R)
        sum_R = share_KR.sum(0)
        return most_R + np.log(sum_R), np.einsum("kr,krp->rp", share_KR / sum_R, terms.slope_KRP)

    def named(self, theta_P: Array) -> dict[str, float]:
        """Returns the parameters by name, as they are published."""
        values = {
            name: float(np.exp(value) if name in self.logs else value)
            for name, value in zip(self.names, theta_P, strict=True)
        }
        return self.reported(values)


class Power(NamedTuple):
    """An exponent of a term: sign * exponent * ln(column)."""

    exponent: str
    column: str
    sign: int


def _sum_of_powers(
    parts: Mapping[str, tuple[Power, ...]],
) -> tuple[tuple[str, ...], Callable[[Array, Columns], Terms]]:
    """Returns the names and terms of a form that is a sum of factor * column^exponent * ...

    parts: the powers of each factor.
    """
    exponents = [power.exponent for powers in parts.values() for power in powers]
    names = (*parts, *dict.fromkeys(exponents))

    def terms(theta_P: Array, columns: Columns) -> Terms:
        num_runs = len(next(iter(columns.values())))
        slope_KRP = np.zeros((len(parts), num_runs, len(names)))
        for term, (factor, powers) in enumerate(parts.items()):
            slope_KRP[term, :, names.index(factor)] = 1.0
            for power in powers:
                place = names.index(power.exponent)
                slope_KRP[term, :, place] += power.sign * np.log(columns[power.column])
        return Terms(slope_KRP @ theta_P, slope_KRP)

    return names, terms


def _plain(
    name: str,
    formula: str,
    source: str,
    parts: Mapping[str, tuple[Power, ...]],
    ranges: Mapping[str, tuple[float, float]],
    huber: float = 1e-3,
    *,
    is_of_logs: bool = True,
) -> Form:
    names, terms = _sum_of_powers(parts)
    columns = dict.fromkeys(power.column for powers in parts.values() for power in powers)
    return Form(
        name, formula, source, tuple(columns), names, frozenset(parts), ranges, terms, tuple(parts),
        huber=huber, is_of_logs=is_of_logs,
    )  # fmt: skip


CHINCHILLA = _plain(
    "chinchilla",
    "L = E0 + A / params^alpha + B / tokens^beta",
    "arXiv 2203.15556, approach 3",
    {"A": (Power("alpha", "params", -1),), "B": (Power("beta", "tokens", -1),), "E0": ()},
    {"alpha": (0.05, 1.0), "beta": (0.05, 1.0)},
)
FLOW_MATCHING = _plain(
    "flow_matching",
    "L = E0 + A / params^alpha + B / tokens^beta, params active and tokens of latents; E0 is the "
    "part of the flow that no model can know",
    "arXiv 2411.17470",
    {"A": (Power("alpha", "params", -1),), "B": (Power("beta", "tokens", -1),), "E0": ()},
    {"alpha": (0.02, 1.0), "beta": (0.02, 1.0)},
)
COMPUTE = _plain(
    "compute",
    "L = E0 + A / flops^alpha",
    "arXiv 2001.08361, with a floor",
    {"A": (Power("alpha", "flops", -1),), "E0": ()},
    {"alpha": (0.02, 0.6)},
)
OVERTRAINING = _plain(
    "overtraining",
    "L = E0 + (a M^eta + b M^-eta) C^-eta, C = 6 params tokens, M = tokens / params",
    "arXiv 2403.08540",
    {
        "a": (Power("eta", "tokens_per_param", 1), Power("eta", "flops", -1)),
        "b": (Power("eta", "tokens_per_param", -1), Power("eta", "flops", -1)),
        "E0": (),
    },
    {"eta": (0.02, 0.6)},
    huber=SQUARES,
    # as the authors' notebook fits it, by scipy's curve_fit
    is_of_logs=False,
)
FINE_GRAINED = _plain(
    "fine_grained",
    "L = E0 + (g / granularity^gamma + a) / params^alpha + b / tokens^beta",
    "arXiv 2402.07871",
    {
        "g": (Power("gamma", "granularity", -1), Power("alpha", "params", -1)),
        "a": (Power("alpha", "params", -1),),
        "b": (Power("beta", "tokens", -1),),
        "E0": (),
    },
    {"gamma": (0.1, 1.0), "alpha": (0.05, 0.6), "beta": (0.05, 0.6)},
    huber=0.1,
)
SPARSITY = _plain(
    "sparsity",
    "L = e + a / params^alpha + b / tokens^beta + c / (1 - S)^lambda + d / ((1 - S)^delta "
    "params^gamma), params total",
    "arXiv 2501.12370",
    {
        "a": (Power("alpha", "params", -1),),
        "b": (Power("beta", "tokens", -1),),
        "c": (Power("lambda", "density", -1),),
        "d": (Power("delta", "density", -1), Power("gamma", "params", -1)),
        "E0": (),
    },
    {
        "alpha": (0.1, 1.0),
        "beta": (0.1, 1.0),
        "lambda": (-0.5, 0.5),
        "delta": (0.0, 0.5),
        "gamma": (0.05, 0.5),
    },
)


def saturated(experts_R: Array, log_k: float, log_most: float) -> tuple[Array, Array, Array]:
    """Returns ln Ehat (R) and its derivatives by ln k and ln Em.

    1 / Ehat = 1 / (E - 1 + k) + 1 / Em, where k = 1 / (1 / Es - 1 / Em); so Ehat(1) = Es. Source:
    arXiv 2202.01169; facts: scaling.md 3.
    """
    k, most = np.exp(log_k), np.exp(log_most)
    few_R = experts_R - 1 + k
    both_R = few_R + most
    return (
        np.log(few_R) + log_most - np.log(both_R),
        k * (1 / few_R - 1 / both_R),
        1 - most / both_R,
    )


def _with_ends(values: dict[str, float]) -> dict[str, float]:
    """Es, of the one expert of a dense network, stands in place of k."""
    kept = {name: value for name, value in values.items() if name != "k"}
    k, most = values["k"], values["Em"]
    return {**kept, "Es": k * most / (k + most)}


_ROUTED = ("a", "b", "c", "d", "k", "Em")


def _routed_terms(theta_P: Array, columns: Columns) -> Terms:
    a, b, c, d, log_k, log_most = theta_P
    n_R = np.log10(columns["params"])
    ln_R, by_k_R, by_most_R = saturated(columns["experts"], log_k, log_most)
    e_R, ten = ln_R / np.log(10), np.log(10)
    slope_R = (b + c * n_R) / ten
    log_R = a * n_R + b * e_R + c * n_R * e_R + d
    slopes = (n_R, e_R, n_R * e_R, np.ones_like(n_R), slope_R * by_k_R, slope_R * by_most_R)
    return Terms(ten * log_R[None], ten * np.stack(slopes, -1)[None])


ROUTED = Form(
    "routed",
    "log10 L = a log10 params + b log10 Ehat + c log10 params log10 Ehat + d, params of the dense "
    "network, Ehat saturating from Es to Em",
    "arXiv 2202.01169",
    ("params", "experts"),
    _ROUTED,
    frozenset({"k", "Em"}),
    {
        "a": (-0.15, -0.02),
        "b": (-0.3, 0.0),
        "c": (0.0, 0.03),
        "d": (0.5, 1.5),
        "k": (0.0, 2.0),
        "Em": (4.0, 7.0),
    },
    _routed_terms,
    (),
    _with_ends,
    # the published fit is of least squares on log10 L
    huber=SQUARES,
)

_JOINT = ("a", "b", "E0", "alpha", "beta", "delta", "omega", "gamma", "zeta", "k", "Em")


def _joint_terms(theta_P: Array, columns: Columns) -> Terms:
    of = dict(zip(_JOINT, theta_P, strict=True))
    n_R, d_R = np.log(columns["params"]), np.log(columns["tokens"])
    s_R, by_k_R, by_most_R = saturated(columns["experts"], of["k"], of["Em"])
    log_KR = np.stack(
        [
            of["a"] + of["delta"] * s_R + (of["alpha"] + of["gamma"] * s_R) * n_R,
            of["b"] + of["omega"] * s_R + (of["beta"] + of["zeta"] * s_R) * d_R,
            np.full_like(n_R, of["E0"]),
        ]
    )
    slope_KRP = np.zeros((3, len(n_R), len(_JOINT)))
    by_s = (of["delta"] + of["gamma"] * n_R, of["omega"] + of["zeta"] * d_R)
    for term, (factor, power, linear, mixed, x_R) in enumerate(
        (("a", "alpha", "delta", "gamma", n_R), ("b", "beta", "omega", "zeta", d_R))
    ):
        for name, slope_R in (
            (factor, 1.0),
            (power, x_R),
            (linear, s_R),
            (mixed, s_R * x_R),
            ("k", by_s[term] * by_k_R),
            ("Em", by_s[term] * by_most_R),
        ):
            slope_KRP[term, :, _JOINT.index(name)] = slope_R
    slope_KRP[2, :, _JOINT.index("E0")] = 1.0
    return Terms(log_KR, slope_KRP)


JOINT_MOE = Form(
    "joint_moe",
    "L = E0 + a Ehat^delta params^(alpha + gamma ln Ehat) + b Ehat^omega tokens^(beta + zeta ln "
    "Ehat), params active, Ehat saturating from Es to Em",
    "arXiv 2502.05172",
    ("params", "tokens", "experts"),
    _JOINT,
    frozenset({"a", "b", "E0", "k", "Em"}),
    {
        "alpha": (-0.4, -0.05),
        "beta": (-0.4, -0.05),
        "delta": (-0.5, 0.2),
        "omega": (-0.2, 0.8),
        "gamma": (-0.03, 0.03),
        "zeta": (-0.04, 0.02),
        "k": (0.0, 2.0),
        "Em": (4.5, 7.0),
    },
    _joint_terms,
    ("a", "b", "E0"),
    _with_ends,
    huber=0.01,
)

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        CHINCHILLA, FLOW_MATCHING, COMPUTE, OVERTRAINING, ROUTED, JOINT_MOE, FINE_GRAINED, SPARSITY,
    )
}  # fmt: skip
