"""How thresholds of the plain rules are chosen: above everything that a healthy curve reaches."""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from ...platform import catalogue
from ..rules import Rule
from ..scorers import make_scorer
from .curves import Curve
from .score import WARM_UP_STEPS

MARGIN = 1.15
"""A threshold is so many times the highest healthy score."""


def highest_score(rule: Rule, curves: Sequence[Curve]) -> float:
    """The highest score at which the rule would have alerted on any curve after its warm-up: with
    a patience of k of n, the k-th highest of n scores in a row."""
    highest = -math.inf
    for curve in curves:
        scorer = make_scorer(rule, [rule])
        last: deque[float] = deque(maxlen=rule.of_last)
        series = curve.loss if rule.signal == catalogue.LOSS_TOTAL else curve.grad_norm
        for step, value in enumerate(series):
            found = scorer.update(step, {rule.signal: np.asarray(value)}).get(rule.detector)
            if found is None:
                continue
            last.append(found.value)
            if step >= WARM_UP_STEPS and len(last) >= rule.patience:
                highest = max(highest, sorted(last)[-rule.patience])
    return highest
