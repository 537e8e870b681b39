"""The stretch of an alert, and the ways in which it is done again."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from ...platform import catalogue
from .gauges import Gauge, LossGauge, excursion
from .movers import LOOK_BACK_STEPS
from .onset import LEAST_CHANGE, onset_of
from .record import Entry, FlightRecord
from .replaying import Plan, Replay, State, Turn
from .verdict import Arm, Shows

LEAST_EXCURSION = 3.0
"""Spreads over three steps in a row, below which an alert is within what chance does."""
SAME, GONE = 0.4, 0.25
"""Shares of the record's excursion from which on a replay shows it, and below which it does not."""
MOST_STEPS = 24
"""Of the stretch from the onset on, unless it takes longer to be seen."""
MOST_STEPS_OF_SLOW = 100
CHECKED_STEPS = 6
"""Trained from the state at the alarm, on batches from before the onset."""


class Stretch:
    """From the onset of an alert to where its signal is judged. What a way of doing it again has
    shown is in `arms`."""

    def __init__(self, record: FlightRecord, replay: Replay, tell: Callable[[str], None]) -> None:
        self._replay, self._tell = replay, tell
        self.branch = record.branch()
        self.onset = onset_of(record.alert, self.branch)
        self.baseline = [e for e in self.branch if e.step < self.onset - LOOK_BACK_STEPS // 2]
        self.signal = str(record.alert.evidence.get("signal", ""))
        self.gauge = Gauge(self.signal, self.baseline)
        self._loss = LossGauge(self.baseline)
        self.last = self._end_of_stretch(self.onset, record.alert.fired_step)
        self.entries = [e for e in self.branch if self.onset <= e.step <= self.last]
        self.arms: list[Arm] = []
        self.usual = self.usual_of(self.gauge.score) if self.gauge.is_ready else math.nan
        """The largest excursion of the alert's signal before the onset."""
        self.limit = max(LEAST_EXCURSION, self.usual + 1.0)
        self.size = excursion([self.gauge.score(e) for e in self.entries])
        """The record's excursion."""

    def arm(
        self,
        name: str,
        words: str,
        state: State,
        turns: Sequence[Turn],
        *,
        is_fp32: bool = False,
    ) -> Arm:
        """Trains these turns from a state: does the alert's signal go as far as in the record?"""
        self._tell(f"{words} ({len(turns)} steps)")
        course = tuple(
            self._replay.do(Plan(state, tuple(turns), is_fp32=is_fp32, taps_from=self.onset))
        )
        there = [e for e in course if self.onset <= e.step <= self.last]
        size = excursion([self.gauge.score(e) for e in there])
        arm = Arm(name, words, self._shows(size, self.size, self.limit), size, course)
        self.arms.append(arm)
        return arm

    def judged(self) -> Arm:
        """The losses of the stretch's batches under the state before the onset, which is not
        trained."""
        known = [arm for arm in self.arms if arm.name == "judged"]
        if known:
            return known[0]
        words = "their losses under the state before the onset"
        self._tell(f"{words} ({min(MOST_STEPS, len(self.entries))} steps)")
        stretch = self.entries[:MOST_STEPS]
        plan = Plan("before", tuple(_turn(e) for e in stretch), is_trained=False)
        course = tuple(self._replay.do(plan))
        size = excursion([self._loss.score(e) for e in course])
        own = excursion([self._loss.score(e) for e in stretch])
        limit = max(LEAST_EXCURSION, self.usual_of(self._loss.score) + 1.0)
        # what the run itself did not find odd is no cause of anything
        shows: Shows = self._shows(size, min(own, 2 * limit), limit) if own >= limit else "no"
        arm = Arm("judged", words, shows, size, course)
        self.arms.append(arm)
        return arm

    def left_behind(self, name: str, words: str, *, is_fp32: bool = False) -> Arm:
        """Trains a few steps on from the state at the alarm, on batches from before the onset;
        judged by the alert's signal, by the losses and by the experts' shares."""
        first = self._replay.states["at"]
        batches = self._good_batches(CHECKED_STEPS)
        turns = tuple(Turn(first + i, batch, None) for i, batch in enumerate(batches))
        self._tell(f"{words} ({len(turns)} steps)")
        course = tuple(self._replay.do(Plan("at", turns, is_fp32=is_fp32)))
        size, others = excursion([self.gauge.score(e) for e in course], 2), self._beside(course)
        shows = self._shows(size, self.size, self.limit)
        if shows != "yes" and any(value >= 1 for value in others):
            usual = self._beside(self._control(batches))
            is_more = [
                value >= 1 and value - other >= 0.5
                for value, other in zip(others, usual, strict=True)
            ]
            if any(is_more):
                shows = "yes"
        if shows == "not measured":
            shows = "no"
        arm = Arm(name, words, shows, size, course)
        self.arms.append(arm)
        return arm

    def flip_rate(self, state: State) -> float:
        """The largest of any layer, on batches from before the onset."""
        first = self._replay.states[state]
        batches = self._good_batches(CHECKED_STEPS)
        turns = tuple(Turn(first + i, batch, None) for i, batch in enumerate(batches))
        course = self._replay.do(Plan(state, turns, is_trained=False))
        return max(float(e.values[catalogue.FLIP_RATE].max(initial=0.0)) for e in course)

    def recorded(self) -> list[Turn]:
        """What was done from the state before the onset on."""
        first = self._replay.states["before"]
        return [_turn(e) for e in self.branch if first <= e.step <= self.last]

    def healthy(self, *, is_configured: bool = False) -> list[Turn]:
        """The recorded turns, with batches from before the onset in the place of those since."""
        turns = self.recorded()
        num_odd = sum(t.step >= self.onset - LOOK_BACK_STEPS // 2 for t in turns)
        good = self._good_batches(num_odd)
        batches = [t.batch for t in turns[: len(turns) - num_odd]] + good
        return [
            Turn(t.step, batch, None if is_configured else t.learning_rate)
            for t, batch in zip(turns, batches, strict=True)
        ]

    def raised_rate(self) -> float:
        """The largest recorded learning rate of the stretch over the configured one."""
        ratios = [
            float(e.values[catalogue.LEARNING_RATE]) / self._replay.learning_rate(e.step)
            for e in self.entries
            if catalogue.LEARNING_RATE in e.values and self._replay.learning_rate(e.step) > 0
        ]
        return max(ratios, default=1.0)

    def usual_of(self, score: Callable[[Entry], float | None]) -> float:
        """The largest excursion before the onset, of stretches of the same length."""
        scores = [score(e) for e in self.baseline[len(self.baseline) // 3 :]]
        size = max(3, len(self.entries))
        parts = [scores[at : at + size] for at in range(0, len(scores), size)]
        return max((_or_zero(excursion(part)) for part in parts if len(part) > 1), default=0.0)

    def _good_batches(self, num: int) -> list[int]:
        """The newest batches before the onset, again and again where more are asked for."""
        good = [e.batch for e in self.baseline[-max(num, 1) :]]
        assert good, "a gauge is ready, so there are steps before the onset"
        return (good * (num // len(good) + 1))[:num]

    def _control(self, batches: Sequence[int]) -> tuple[Entry, ...]:
        """The same batches after a replay of the stretch: what good data looks like to a state that
        has gone through all that was recorded, and through nothing else."""
        turns = self.recorded()
        after = turns[-1].step + 1
        good = tuple(Turn(after + i, batch, None) for i, batch in enumerate(batches))
        self._tell(f"the same after a replay of the stretch ({len(turns) + len(good)} steps)")
        plan = Plan("before", (*turns, *good), taps_from=self.onset)
        return tuple(self._replay.do(plan))[len(turns) :]

    def _beside(self, course: Sequence[Entry]) -> list[float]:
        """How far losses, experts and updates are out of their range, in multiples of a limit."""
        scores = [(self._loss.score, LEAST_EXCURSION)]
        for signal in (catalogue.EXPERT_TOKENS, catalogue.UPDATE_WEIGHT_RATIO):
            gauge = Gauge(signal, self.baseline)
            if gauge.is_ready:
                scores.append((gauge.score, LEAST_CHANGE))
        return [
            _or_zero(excursion([score(e) for e in course], 2))
            / max(least, self.usual_of(score) + 1.0)
            for score, least in scores
        ]

    def _shows(self, size: float, of: float, limit: float) -> Shows:
        if math.isnan(size):
            return "not measured"
        if size >= max(limit, SAME * of):
            return "yes"
        return "no" if size < max(0.8 * limit, GONE * of) else "unclear"

    def _end_of_stretch(self, onset: int, fired: int) -> int:
        near = min(fired, onset + MOST_STEPS - 1)
        if fired == near:
            return fired
        scores = {e.step: self.gauge.score(e) for e in self.branch if onset <= e.step <= fired}
        soon = excursion([s for step, s in scores.items() if step <= near])
        late = excursion(list(scores.values()))
        return near if _or_zero(soon) >= 0.5 * late else min(fired, onset + MOST_STEPS_OF_SLOW)


def _turn(entry: Entry) -> Turn:
    rate = entry.values.get(catalogue.LEARNING_RATE)
    return Turn(entry.step, entry.batch, None if rate is None else float(np.float64(rate)))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
