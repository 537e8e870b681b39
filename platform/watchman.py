"""Rules that a dead trainer cannot judge: a run that should be alive and has fallen silent, and one
that lives but stands still.

Pure, but for what it has seen before; the service calls it every few seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .alert_kinds import HEARTBEAT_LOST, OWN_KINDS, STALLED
from .claims import how_to_go_on
from .records import Alert, Run, Segment

SILENT_AFTER_S = 30.0
STALLED_AFTER_S = 900.0


def is_stalled(last_beat_s: float, now_s: float, patience_s: float) -> bool:
    """Whether the last sign of life is older than the patience."""
    return now_s - last_beat_s > patience_s


@dataclass(frozen=True, slots=True)
class Look:
    """What the watchman is shown of one run."""

    run: Run
    segment: int
    step: int
    """The newest step that the store has; 0 before the first."""


@dataclass(frozen=True, slots=True)
class Judgement:
    raised: tuple[Alert, ...]
    resolved: tuple[str, ...]
    """Ids of alerts raised earlier whose cause is gone."""


class Watchman:
    """Remembers for each run since when its step has not moved and which alerts are out."""

    def __init__(
        self, silent_after_s: float = SILENT_AFTER_S, stalled_after_s: float = STALLED_AFTER_S
    ) -> None:
        self._silent_after_s = silent_after_s
        self._stalled_after_s = stalled_after_s
        self._store_back_s = 0.0
        self._steps: dict[str, tuple[int, int, float]] = {}

    def store_was_away(self, until_s: float) -> None:
        """The store could not be reached until then: nobody could beat, so silence counts from then
        on.
        """
        self._store_back_s = max(self._store_back_s, until_s)

    def look(self, looks: Sequence[Look], open_alerts: Sequence[Alert], now_s: float) -> Judgement:
        """Judges every run that is said to be running.

        open_alerts: those that stand in the store; an alert that stands is not raised again.
        """
        standing = {alert.dedupe_key: alert for alert in open_alerts if alert.state != "resolved"}
        raised: list[Alert] = []
        wrong: set[str] = set()
        for look in looks:
            if look.run.status != "running":
                continue
            for alert in self._judge(look, now_s):
                wrong.add(alert.dedupe_key)
                if alert.dedupe_key not in standing:
                    raised.append(alert)
        resolved = tuple(
            alert.id
            for key, alert in standing.items()
            if alert.rule in (HEARTBEAT_LOST, STALLED) and key not in wrong
        )
        return Judgement(tuple(raised), resolved)

    def _judge(self, look: Look, now_s: float) -> list[Alert]:
        run = look.run
        beat_s = max(run.heartbeat_s, self._store_back_s)
        if is_stalled(beat_s, now_s, self._silent_after_s):
            silence_s = now_s - run.heartbeat_s
            return [
                _alert(
                    look,
                    HEARTBEAT_LOST,
                    now_s,
                    silence_s,
                    self._silent_after_s,
                    f"no heartbeat for {silence_s:.0f} s: the trainer has died, hangs, or cannot "
                    f"reach the store; {how_to_go_on(run)}",
                )
            ]
        segment, step, since_s = self._steps.get(run.id, (-1, -1, now_s))
        if (segment, step) != (look.segment, look.step):
            since_s = now_s
        since_s = max(since_s, self._store_back_s)
        self._steps[run.id] = (look.segment, look.step, since_s)
        if is_stalled(since_s, now_s, self._stalled_after_s):
            stood_s = now_s - since_s
            message = (
                f"alive, but at step {look.step} for {stood_s / 60:.0f} minutes: it may be paused, "
                "wait for data, or hang in a collective"
            )
            return [_alert(look, STALLED, now_s, stood_s, self._stalled_after_s, message)]
        return []


def _alert(
    look: Look, rule: str, now_s: float, value: float, threshold: float, message: str
) -> Alert:
    run = look.run
    # one alert for each silence: the heartbeat that began it, or the step it stands at, names it
    since = f"{run.heartbeat_s:.0f}" if rule == HEARTBEAT_LOST else f"{look.segment}.{look.step}"
    key = f"{run.id}/{rule}/{since}"
    return Alert(
        id=key,
        run_id=run.id,
        segment=look.segment,
        rule=rule,
        severity=OWN_KINDS[rule].severity,
        onset_step=look.step,
        fired_step=look.step,
        value=value,
        threshold=threshold,
        message=message,
        created_s=now_s,
        dedupe_key=key,
    )


def segment_of(segments: Sequence[Segment]) -> int:
    """Returns the number of the newest segment; 0 for a run that has none yet."""
    return max((segment.index for segment in segments), default=0)
