"""Which alerts a person wants to see, as the address of the page has it; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..platform.records import Alert, AlertState, Severity

STATES: Mapping[str, tuple[AlertState, ...]] = {
    "Open": ("open",),
    "Acknowledged": ("acknowledged",),
    "Silenced": ("silenced",),
    "Resolved": ("resolved",),
    "All": ("open", "acknowledged", "silenced", "resolved"),
}
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Empty fields let everything through."""

    state: str = "Open"
    severities: frozenset[Severity] = field(default_factory=frozenset)
    rule: str = ""
    run_id: str = ""
    text: str = ""

    @property
    def is_narrow(self) -> bool:
        return self != AlertFilter(self.state)

    def address(self) -> dict[str, str]:
        """The parts of the address; those that let everything through are left out."""
        parts = {
            "state": "" if self.state == "Open" else self.state.lower(),
            "severity": "-".join(s for s in SEVERITIES if s in self.severities),
            "rule": self.rule,
            "run": self.run_id,
            "find": self.text,
        }
        return {name: value for name, value in parts.items() if value}


def from_address(parts: Mapping[str, str]) -> AlertFilter:
    """Reads an address; what it cannot read lets everything through."""
    state = parts.get("state", "").capitalize()
    told = parts.get("severity", "").split("-")
    return AlertFilter(
        state if state in STATES else "Open",
        frozenset(severity for severity in SEVERITIES if severity in told),
        parts.get("rule", ""),
        parts.get("run", ""),
        parts.get("find", ""),
    )


def matching(alerts: Sequence[Alert], wanted: AlertFilter, names: Mapping[str, str]) -> list[Alert]:
    """The alerts that are wanted, newest first; the state is the store's question, not asked here.

    Every word of the text must occur in the rule, the message, or the run. names: of runs.
    """
    words = wanted.text.lower().split()
    found = []
    for alert in alerts:
        if wanted.severities and alert.severity not in wanted.severities:
            continue
        if wanted.rule and alert.rule != wanted.rule:
            continue
        if wanted.run_id and alert.run_id != wanted.run_id:
            continue
        if words:
            name = names.get(alert.run_id, "")
            text = f"{alert.rule} {alert.message} {name} {alert.run_id} {alert.id}".lower()
            if not all(word in text for word in words):
                continue
        found.append(alert)
    return sorted(found, key=lambda alert: alert.created_s, reverse=True)


def counted(alerts: Sequence[Alert]) -> str:
    """How many there are of each severity, the worst first: `3 critical, 1 info`."""
    numbers = {s: sum(alert.severity == s for alert in alerts) for s in SEVERITIES}
    return ", ".join(f"{number:,} {severity}" for severity, number in numbers.items() if number)
