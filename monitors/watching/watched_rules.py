"""The rules of a watched run: those of any run, as far as it measures their signals.

Without losses of samples the one loss is judged by the rules for it (`plain_rules.py`), which here
ask for what their namesakes of the default table ask for.
"""

from collections.abc import Sequence

from ...platform import catalogue
from ...platform.frozen import changed
from ...platform.records import RuleVersion
from ..default_rules import DEFAULT_RULES
from ..plain_rules import PLAIN_RULES
from ..rules import Rule, RuleAction

NOT_MEASURED = frozenset(
    {
        *(catalogue.EXPERT_OUTPUT_COSINE, catalogue.FLIP_RATE, catalogue.PROBE_LOSS),
        catalogue.ATTENTION_LOGIT_BOUND,
    }
)
"""Signals of rules that need a probe batch, or modules of our own."""
_ACTIONS: dict[str, RuleAction] = {
    "loss_spike": "rollback",
    "loss_divergence": "rollback",
    "loss_drift": "damp",
}
"""What the rules on the one loss ask for; the others observe."""


def watched_rules(*, has_samples: bool) -> tuple[Rule, ...]:
    """has_samples: whether each step brings the losses of its samples."""
    measured = [rule for rule in DEFAULT_RULES if rule.signal not in NOT_MEASURED]
    if has_samples:
        return tuple(measured)
    kept = [rule for rule in measured if rule.signal != catalogue.LOSS_PER_SAMPLE]
    names = {rule.name for rule in kept}
    plain = [
        changed(rule, {"action": _ACTIONS.get(rule.name, "observe")})
        for rule in PLAIN_RULES
        if rule.name not in names
    ]
    return (*kept, *plain)


def is_sampled(rules: Sequence[Rule]) -> bool:
    """Whether rules judge the losses of samples."""
    return any(rule.signal == catalogue.LOSS_PER_SAMPLE for rule in rules)


def measured_here(
    versions: tuple[RuleVersion, ...], rules: tuple[Rule, ...]
) -> tuple[tuple[RuleVersion, ...], list[str]]:
    """Returns the versions that do not put a rule on a signal that is not measured in the place of
    one that is, and a line for each other."""
    own = {rule.name: rule.signal for rule in rules}
    has_samples = is_sampled(rules)
    kept, lines = [], []
    for version in versions:
        signal = version.body.get("signal")
        is_missing = signal in NOT_MEASURED or (
            signal == catalogue.LOSS_PER_SAMPLE and not has_samples
        )
        if is_missing and version.name in own:
            lines.append(
                f"rule {version.name} stays on {own[version.name]}: this run does not measure "
                f"{signal}"
            )
        else:
            kept.append(version)
    return tuple(kept), lines
