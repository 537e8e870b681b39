"""A table of our rules at work: the judge itself, fed with a curve."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...platform import catalogue
from ..judge import Judge
from ..rules import Rule


class JudgedRules:
    """A judge with these rules; a step is flagged by alerts, not by notes.

    A gradient norm of NaN was not recorded: it is not shown to the judge.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._judge = Judge(rules, "curve")
        self._step = 0

    def update(self, loss: float, grad_norm: float = math.nan) -> bool:
        return bool(self.alerting(loss, grad_norm))

    def alerting(self, loss: float, grad_norm: float = math.nan) -> tuple[str, ...]:
        """Names of the rules that alert with this step."""
        values: dict[str, NDArray[Any]] = {catalogue.LOSS_TOTAL: np.asarray(loss)}
        if not math.isnan(grad_norm):
            values[catalogue.GRAD_NORM] = np.asarray(grad_norm)
        judgement = self._judge.step(self._step, 0, float(self._step), values)
        self._step += 1
        return tuple(alert.rule for alert in judgement.alerts)

    def fork(self) -> Self:
        other = type(self)(self._rules)
        other._judge.load_state_dict(self._judge.state_dict())
        other._step = self._step
        return other


def scaled(rules: Sequence[Rule], factors: Mapping[str, float]) -> tuple[Rule, ...]:
    """The rules once for each factor of their thresholds, named `{factor's name}_{rule}`.

    A rule whose limit is no matter of degree (not finite, a note) is left out: its threshold is not
    on the way between few and many alarms. Copies share their detectors, so that one pass over a
    curve judges by all of them.
    """
    graded = [r for r in rules if r.detector != "non_finite" and r.severity != "info"]
    names = {rule.name for rule in graded}
    return tuple(
        rule.model_copy(
            update={
                "name": f"{label}_{rule.name}",
                "threshold": rule.threshold * factor,
                "silenced_by": tuple(f"{label}_{n}" for n in rule.silenced_by if n in names),
            }
        )
        for label, factor in factors.items()
        for rule in graded
    )


def own_rule(rules: Sequence[Rule]) -> Callable[[int], JudgedRules]:
    """The rule for a run of any length, as public rules are made."""
    return lambda num_steps: JudgedRules(rules)
