"""Which scorer a rule asks for."""

from ..platform import catalogue
from .rules import Rule
from .scoring import (
    OF_VALUES,
    ExpertScorer,
    LossScorer,
    NonFiniteScorer,
    ScalarScorer,
    Scorer,
    whole,
)
from .vector_scoring import CollapseScorer, DeadlockScorer, EntryScorer

REJECT_SIGMA = 4.0
"""Source: facts, health.md section 4, 1."""
_REJECTS = {"rise": REJECT_SIGMA, "fall": REJECT_SIGMA, "multiple": 1.5}


def scorer_key(rule: Rule) -> str:
    """Rules with the same key share a scorer. Spike and drift of the per-sample losses share one
    normaliser."""
    if rule.signal == catalogue.LOSS_PER_SAMPLE and rule.detector in ("spike", "drift"):
        return rule.signal
    options = ",".join(f"{name}={value:g}" for name, value in sorted(rule.parameters.items()))
    return f"{rule.signal}|{rule.detector}|{options}"


def make_scorer(rule: Rule, same_key: list[Rule]) -> Scorer:
    """Builds the scorer of a rule. `same_key`: all rules that will share it."""
    if scorer_key(rule) == catalogue.LOSS_PER_SAMPLE:
        spikes = [other for other in same_key if other.detector == "spike"]
        told = _merged(same_key, "spike"), _merged(same_key, "drift")
        return LossScorer(*told, reject=_reject(spikes))
    if rule.detector == "spike":
        parameters = {**rule.parameters, "reject": _reject(same_key)}
        return ScalarScorer(rule.signal, rule.detector, parameters)
    if rule.detector in OF_VALUES:
        return ScalarScorer(rule.signal, rule.detector, rule.parameters)
    if rule.detector == "non_finite":
        return NonFiniteScorer(rule.signal)
    options = whole(rule.parameters)
    if rule.detector in _REJECTS:
        usual = options.get("reject", _REJECTS[rule.detector])
        options["reject"] = _reject(same_key, usual)
    if rule.detector in ("rise", "fall", "multiple", "above"):
        return EntryScorer(rule.signal, rule.detector, options)
    if rule.detector == "collapse":
        return CollapseScorer(**options)
    if rule.detector == "deadlock":
        return DeadlockScorer(options)
    return ExpertScorer(rule.detector, rule.parameters)


def _reject(rules: list[Rule], usual: float = REJECT_SIGMA) -> float:
    """The score above which a value is not learnt: what a rule flags must not enter its own
    window."""
    return min([usual, *(rule.threshold for rule in rules)])


def _merged(rules: list[Rule], detector: str) -> dict[str, float]:
    """The loss has one spike score and one drift score, recorded as such: its rules must agree on
    their parameters."""
    given = [rule for rule in rules if rule.detector == detector]
    for rule in given:
        if rule.parameters != given[0].parameters:
            raise ValueError(
                f"rules {given[0].name} and {rule.name} give detector {detector} different "
                f"parameters ({given[0].parameters} and {rule.parameters}), but there is one "
                f"{detector} score of the loss: make them equal"
            )
    return {k: v for k, v in given[0].parameters.items() if k != "is_log"} if given else {}
