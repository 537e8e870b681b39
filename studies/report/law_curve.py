"""What a law says of budgets: the least loss at each compute, and the size to train."""

# R runs  Q questions  B bootstraps  S sizes
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..laws.forms import Array
from ..laws.law import Law

NUM_SIZES, NUM_BUDGETS = 61, 40
SAME = 1.05
"""Values within 5% are one: sizes are met within 1%, tokens by whole steps."""


class Recommended(NamedTuple):
    """The size to train with a budget; intervals are of 95%."""

    flops: float
    is_beyond: bool
    """Whether it is more than any trial had."""
    params: float
    params_interval: tuple[float, float]
    tokens: float
    tokens_interval: tuple[float, float]
    loss: float
    loss_interval: tuple[float, float]
    flat_params: tuple[float, float]
    """As good: within 0.25% of the least loss."""


class Curve(NamedTuple):
    """The least loss that a law foretells for a compute."""

    flops: tuple[float, ...]
    loss: tuple[float, ...]
    low: tuple[float, ...]
    """Of the 95% band; empty where the runs do not pin the law."""
    high: tuple[float, ...]
    measured_to: float
    """The largest trial's FLOPs: what lies beyond is foretold."""


def flops_per_6nd(frame: pd.DataFrame) -> float:
    """Returns the trials' FLOPs over 6 params tokens, the median: a law's budgets are of the
    latter, a study's are counted with attention."""
    if frame.empty:
        return 1.0
    return float((frame["flops"] / (6 * frame["params"] * frame["tokens"])).median())


def recommended(
    law: Law, frame: pd.DataFrame, flops: float, others: Mapping[str, float]
) -> Recommended:
    """Returns the size to train with `flops`, counted as a study counts them."""
    best = law.optimal(flops / flops_per_6nd(frame), **others)
    return Recommended(
        flops,
        flops > SAME * float(frame["flops"].max()),
        best.params,
        best.params_interval,
        best.tokens,
        best.tokens_interval,
        best.loss,
        best.loss_interval,
        best.flat_params,
    )


def curve_of(
    law: Law, frame: pd.DataFrame, until: float, others: Mapping[str, float], *, has_band: bool
) -> Curve:
    """Returns the least loss over sizes from the smallest trial's compute to `until` times the
    largest's; sizes go as far beyond the trials' as the compute does."""
    most = float(frame["flops"].max())
    flops_Q = np.geomspace(float(frame["flops"].min()), most * until, NUM_BUDGETS)
    sizes_S = np.geomspace(frame["params"].min(), frame["params"].max() * until, NUM_SIZES)
    shape = (NUM_SIZES, NUM_BUDGETS)
    of_size_SQ = np.broadcast_to(sizes_S[:, None], shape)
    asked = {
        "params": of_size_SQ,
        "tokens": flops_Q[None] / flops_per_6nd(frame) / 6 / of_size_SQ,
        **others,
    }
    # overtraining's C is 6 params tokens, which `others` does not know of
    is_of_6nd = "tokens_per_param" in law.form.columns
    asked["flops"] = flops_Q[None] / (flops_per_6nd(frame) if is_of_6nd else 1.0)
    asked["tokens_per_param"] = asked["tokens"] / of_size_SQ
    if "density" in others:
        # of sparsity params are the total
        asked["params"] = of_size_SQ * float((frame["total_params"] / frame["params"]).median())
    columns = {
        name: np.broadcast_to(np.asarray(asked[name], float), shape).ravel()
        for name in law.form.columns
    }

    def least(theta_P: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            log_SQ = law.form.log_loss(theta_P, columns)[0].reshape(shape)
            found_Q: Array = np.exp(log_SQ).min(0)
        return found_Q

    middle_Q = least(law.estimate.theta_P)
    low, high = (), ()
    if has_band:
        least_BQ = np.array([least(theta_P) for theta_P in law.bootstraps])
        low_Q, high_Q = np.quantile(least_BQ, (0.025, 0.975), axis=0, method="weibull")
        low, high = tuple(low_Q.tolist()), tuple(high_Q.tolist())
    return Curve(tuple(flops_Q.tolist()), tuple(middle_Q.tolist()), low, high, most)
