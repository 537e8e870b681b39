"""Alerts that the trainer raises about itself, not about a signal: once each, until their cause is
gone.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import replace

from .alert_kinds import OWN_KINDS
from .records import Alert, AlertState

AGAIN_STEPS = 500
"""The same is not raised again within so many steps."""


STANDING: tuple[AlertState, ...] = ("open", "acknowledged", "silenced")


class OwnAlerts:
    """What was raised and still stands; `say` writes an alert down."""

    def __init__(self, run_id: str, say: Callable[[Alert], None]) -> None:
        self._run_id = run_id
        self._say = say
        self._silent_until: dict[str, int] = {}
        self._standing: dict[str, list[Alert]] = {}

    def raise_alert(self, rule: str, message: str, segment: int, step: int) -> bool:
        """Raises an alert of one of the trainer's kinds; returns whether it is news."""
        kind = OWN_KINDS[rule]
        subject = f"{rule} {re.sub(r'[0-9.]+', '#', message)}"
        if step < self._silent_until.get(subject, 0):
            return False
        self._silent_until[subject] = step + AGAIN_STEPS
        # a step may come again in a later segment, and two of a kind may come at one step
        words = hashlib.blake2b(subject.encode(), digest_size=4).hexdigest()
        key = f"{self._run_id}/{rule}/{segment}-{step}-{words}"
        alert = Alert(
            key, self._run_id, segment, rule, kind.severity, step, step, 0.0, 0.0, message,
            time.time(), f"{self._run_id}/{rule}",
        )  # fmt: skip
        self._standing.setdefault(rule, []).append(alert)
        self._say(alert)
        return True

    def stands(self, rule: str) -> bool:
        return rule in self._standing

    def since_s(self, rule: str) -> float:
        """When the newest alert of a kind was raised."""
        return max(alert.created_s for alert in self._standing[rule])

    def resolve(self, rule: str) -> None:
        """Its cause is gone."""
        for alert in self._standing.pop(rule, ()):
            self._say(replace(alert, state="resolved", changed_s=time.time()))
        self._silent_until = {
            subject: step
            for subject, step in self._silent_until.items()
            if not subject.startswith(f"{rule} ")
        }

    def adopt(self, alert: Alert) -> None:
        """Takes over what an earlier trainer of the run raised and what still stands."""
        self._standing.setdefault(alert.rule, []).append(alert)
