"""What a resumed run does with the alerts that its trainer left standing."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..platform.alert_kinds import HALTED, OWN_KINDS
from ..platform.records import Alert

if TYPE_CHECKING:
    from .loop import Trainer


def take_over_alerts(trainer: "Trainer", standing: Sequence[Alert]) -> None:
    """Brings what an ended trainer left standing to how the resumed run is: rules that hold no more
    are resolved, since the steps that they spoke of are not in this state."""
    holding = trainer.state.judge.holding()
    own = trainer.own_alerts
    for alert in standing:
        kind = OWN_KINDS.get(alert.rule)
        if kind is None:
            if alert.id not in holding:
                trainer.fan_out.say(replace(alert, state="resolved", changed_s=time.time()))
        elif kind.raised_by == "trainer":
            own.adopt(alert)
    own.resolve(HALTED)
