"""The verdict: data, state, precision, not reproducible, or no cause found, from a record and its
replay.

What an alert saw is done again from the newest sound state before its onset:
- as recorded. Where it comes back, state and data explain it; where it does not, something else
  was at work, and the state at the alarm tells whether that lies in the state or is gone
- with batches from before the onset in the place of the odd ones: without them it is the data
- at the configured learning rate, where another one was recorded
- in fp32, where the run computes in less
It knows the record and the replay, and nothing of what was done to the run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ...platform import catalogue
from ...platform.errors import MoescopeError
from .fidelity import Fidelity, fidelity
from .gauges import Gauge, LossGauge, excursion
from .movers import LOOK_BACK_STEPS
from .onset import LEAST_CHANGE, onset_of
from .record import Entry, FlightRecord
from .replaying import Plan, Replay, State, Turn

Cause = Literal["data", "state", "precision", "not_reproducible"]
Shows = Literal["yes", "no", "unclear", "not measured"]
NO_CAUSE = "no_cause"
UNEXAMINED = "unexamined"

LEAST_EXCURSION = 3.0
"""Spreads over three steps in a row, below which an alert is within what chance does."""
SAME, GONE = 0.4, 0.25
"""Shares of the record's excursion from which on a replay shows it, and below which it does not."""
MOST_STEPS = 24
"""Of the stretch from the onset on, unless it takes longer to be seen."""
MOST_STEPS_OF_SLOW = 100
CHECKED_STEPS = 6
"""Trained from the state at the alarm, on batches from before the onset."""
RAISED_RATE = 1.2
"""A learning rate that is that many times the configured one; a lower one was damped."""
MOST_REPEATED = 10
FLIPPED_SHARE = 0.2
"""Of a layer's tokens, which go to other experts in fp32."""
COARSE, FINE = 0.98, 0.5
"""Shares of weights on a narrower format's grid: of what was rounded, and of what was not."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way in which the stretch was done again."""

    name: str
    words: str
    shows: Shows
    excursion: float
    course: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    text: str
    speaks_for: str
    """A cause, or `-` where it speaks for none."""


@dataclass(slots=True)
class Verdict:
    causes: list[Cause] = field(default_factory=list)
    is_firm: bool = True
    """False where a replay lay between showing it and not, or did not follow the record."""
    evidence: list[Evidence] = field(default_factory=list)
    arms: list[Arm] = field(default_factory=list)
    faithful: Fidelity | None = None
    is_replayed: bool = False

    @property
    def name(self) -> str:
        if self.causes:
            return " and ".join(self.causes)
        return NO_CAUSE if self.is_replayed else UNEXAMINED

    def add(self, cause: Cause, text: str) -> None:
        if cause not in self.causes:
            self.causes.append(cause)
        self.evidence.append(Evidence(text, cause))

    def note(self, text: str) -> None:
        self.evidence.append(Evidence(text, "-"))


def examine(
    record: FlightRecord, replay: Replay, tell: Callable[[str], None] = lambda _: None
) -> Verdict:
    """Replays an alert's stretch in as many ways as its verdict needs. tell: takes a line for each.

    Raises MoescopeError where there is no state from before the onset, or the data is gone.
    """
    return _Examination(record, replay, tell).run()


class _Examination:
    def __init__(self, record: FlightRecord, replay: Replay, tell: Callable[[str], None]) -> None:
        self._alert, self._replay, self._tell = record.alert, replay, tell
        self._branch = record.branch()
        self._onset = onset = onset_of(record.alert, self._branch)
        fired = record.alert.fired_step
        self._baseline = [e for e in self._branch if e.step < onset - LOOK_BACK_STEPS // 2]
        self._signal = str(record.alert.evidence.get("signal", ""))
        self._gauge = Gauge(self._signal, self._baseline)
        self._loss = LossGauge(self._baseline)
        self._last = self._end_of_stretch(onset, fired)
        self._stretch = [e for e in self._branch if onset <= e.step <= self._last]
        self._found = Verdict()

    def run(self) -> Verdict:
        found, gauge = self._found, self._gauge
        if "before" not in self._replay.states:
            raise MoescopeError(
                "there is no sound state from before the onset any more: nothing can be replayed"
            )
        if not gauge.is_ready:
            found.note(
                f"{self._signal or 'the signal'} was measured too seldom before the onset to say "
                "what is usual"
            )
            found.is_replayed = True
            if self._signal == catalogue.FLIP_RATE:
                self._is_routed_by_rounding()
            return found
        usual = self._usual(gauge.score)
        self._limit = max(LEAST_EXCURSION, usual + 1.0)
        self._record = excursion([gauge.score(e) for e in self._stretch])
        found.is_replayed = True
        if not self._record >= self._limit:
            found.note(
                f"from the onset on the record goes {_number(self._record)} spreads away, and "
                f"{self._limit:.1f} are needed to tell it from chance: a single odd step, or none"
            )
            return found
        found.note(
            f"the record goes {_number(self._record)} spreads away from what was usual (up to "
            f"{usual:.1f} before the onset)"
        )
        again = self._arm("again", "the same again", "before", self._recorded())
        found.faithful = fidelity(self._branch, again.course, self._onset)
        self._tell_fidelity(found.faithful)
        self._repeat(again)
        if again.shows == "yes":
            self._explained(again)
        if again.shows != "yes" or found.faithful.is_material:
            self._not_explained(again.shows)
        if "unclear" in [arm.shows for arm in found.arms]:
            found.is_firm = False
        return found

    def _explained(self, again: Arm) -> None:
        """State and data bring it back: which of them?"""
        found = self._found
        if self._replay.precision != "fp32":
            exact = self._arm("fp32", "all in fp32", "before", self._recorded(), is_fp32=True)
            if exact.shows == "no":
                found.add(
                    "precision",
                    f"it comes back in {self._replay.precision}, and not in fp32 from the same "
                    "state on the same data",
                )
                return
        judged = self._judged()
        healthy = self._arm(
            "other_data", "with batches from before the onset", "before", self._healthy()
        )
        rate = self._raised_rate()
        if healthy.shows == "no":
            found.add(
                "data",
                "it comes back with the batches of the stretch, and not without them, from the "
                "same state",
            )
        elif healthy.shows == "yes" or (judged.shows == "no" and rate > RAISED_RATE):
            self._state_to_blame(rate)
        if judged.shows == "yes" and "data" not in found.causes:
            found.add(
                "data",
                "a sound state finds these batches odd before it has learnt anything of them "
                f"({_number(judged.excursion)} spreads)",
            )
        if rate > RAISED_RATE and "state" not in found.causes:
            self._rate_beside(healthy, rate)

    def _rate_beside(self, healthy: Arm, rate: float) -> None:
        """Beside another cause: did a raised learning rate move the updates by itself?"""
        updates = Gauge(catalogue.UPDATE_WEIGHT_RATIO, self._baseline)
        there = [e for e in healthy.course if self._onset <= e.step <= self._last]
        size = excursion([updates.score(e) for e in there]) if updates.is_ready else math.nan
        if size >= max(LEAST_CHANGE, self._usual(updates.score) + 1.0):
            self._found.add(
                "state",
                f"the learning rate was {rate:.3g} times the configured one, and moves the updates "
                f"{size:.1f} spreads away on batches from before the onset",
            )

    def _state_to_blame(self, rate: float) -> None:
        found = self._found
        if rate > RAISED_RATE:
            configured = self._arm(
                "configured_rate",
                "with batches from before the onset, at the configured learning rate",
                "before",
                self._healthy(is_configured=True),
            )
            if configured.shows != "yes":
                found.add(
                    "state",
                    f"the learning rate was {rate:.3g} times the configured one: with it any data "
                    "brings it back, at the configured rate none does",
                )
                return
        found.add(
            "state",
            "it comes back with batches from before the onset, too: the state before the onset is "
            "spoiled already, or does not bear its learning rate",
        )

    def _not_explained(self, shows: Shows) -> None:
        """The replay differs from the record: what made the difference, and is it still there?"""
        found, faithful = self._found, self._found.faithful
        assert faithful is not None
        where = (
            f"from step {faithful.differs_from} on, first in the {faithful.stage} pass"
            if faithful.differs_from is not None
            else "nowhere by more than rounding"
        )
        said = "shows less" if shows == "yes" else "does not show it"
        found.note(f"the replay {said}; it differs from the record {where}")
        self._rounded()
        if "at" not in self._replay.states:
            found.is_firm = False
            if shows != "yes":
                found.add(
                    "not_reproducible",
                    "the same state and data do not bring it back; the state at the alarm was not "
                    "kept, so that it may be at fault as well",
                )
            return
        if "precision" in found.causes:
            return
        left = self._left_behind("at_alarm", "on from the state at the alarm, with good batches")
        if left.shows == "yes" and self._replay.precision != "fp32":
            exact = self._left_behind("at_alarm_fp32", "the same in fp32 throughout", is_fp32=True)
            if exact.shows == "no":
                found.add(
                    "precision",
                    f"the state at the alarm shows it on any data in {self._replay.precision}, and "
                    "not in fp32",
                )
                return
            if self._is_routed_by_rounding():
                return
        if left.shows == "yes":
            found.add(
                "state",
                "the same state and data do not bring it back, but the state at the alarm shows it "
                f"on good batches, too ({_number(left.excursion)} spreads): weights, moments or "
                "router biases were changed on the way",
            )
        elif shows != "yes":
            found.add(
                "not_reproducible",
                "neither the state before nor that at the alarm shows it on the same or on good "
                "data: it came from the machine or from code outside of both, and has left no "
                "trace in the state",
            )
        if shows != "yes" and self._judged().shows == "yes":
            found.add("data", "a sound state finds the batches of the stretch odd by themselves")

    def _is_routed_by_rounding(self) -> bool:
        """Do routers that compute in less than fp32 send tokens elsewhere than in it, and did not
        before the onset? A state that was trained on so has learnt from it, and is odd in fp32 as
        well."""
        if self._replay.precision == "fp32" or self._replay.has_exact_router:
            return False
        if "at" not in self._replay.states or not self._baseline:
            return False
        before, at_alarm = (self._flip_rate(state) for state in ("before", "at"))
        if at_alarm < FLIPPED_SHARE or before > at_alarm / 4:
            return False
        self._found.add(
            "precision",
            f"in fp32 up to {at_alarm:.0%} of a layer's tokens would go to other experts from the "
            f"state at the alarm, {before:.0%} from that before the onset: routers compute in less",
        )
        return True

    def _flip_rate(self, state: State) -> float:
        """The largest of any layer, on batches from before the onset."""
        first = self._replay.states[state]
        batches = self._good_batches(CHECKED_STEPS)
        turns = tuple(Turn(first + i, batch, None) for i, batch in enumerate(batches))
        course = self._replay.do(Plan(state, turns, is_trained=False))
        return max(float(e.values[catalogue.FLIP_RATE].max(initial=0.0)) for e in course)

    def _rounded(self) -> None:
        """Do weights lie on the grid of a narrower format, and did not before?"""
        told: set[str] = set()
        for rounding in self._replay.roundings():
            is_coarse = rounding.share_at >= COARSE and rounding.share_before <= FINE
            if is_coarse and rounding.part not in told:
                told.add(rounding.part)
                self._found.add(
                    "precision",
                    f"at the alarm {rounding.share_at:.0%} of the weights of {rounding.part} lie "
                    f"on the grid of {rounding.dtype}, {rounding.share_before:.0%} before the "
                    "onset: they are being rounded",
                )

    def _left_behind(self, name: str, words: str, *, is_fp32: bool = False) -> Arm:
        """Trains a few steps on from the state at the alarm, on batches from before the onset;
        judged by the alert's signal, by the losses and by the experts' shares."""
        first = self._replay.states["at"]
        batches = self._good_batches(CHECKED_STEPS)
        turns = tuple(Turn(first + i, batch, None) for i, batch in enumerate(batches))
        self._tell(f"{words} ({len(turns)} steps)")
        course = tuple(self._replay.do(Plan("at", turns, is_fp32=is_fp32)))
        size, others = excursion([self._gauge.score(e) for e in course], 2), self._beside(course)
        shows = self._shows(size, self._record, self._limit)
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
        self._found.arms.append(arm)
        return arm

    def _control(self, batches: Sequence[int]) -> tuple[Entry, ...]:
        """The same batches after a replay of the stretch: what good data looks like to a state that
        has gone through all that was recorded, and through nothing else."""
        turns = self._recorded()
        after = turns[-1].step + 1
        good = tuple(Turn(after + i, batch, None) for i, batch in enumerate(batches))
        self._tell(f"the same after a replay of the stretch ({len(turns) + len(good)} steps)")
        plan = Plan("before", (*turns, *good), taps_from=self._onset)
        return tuple(self._replay.do(plan))[len(turns) :]

    def _beside(self, course: Sequence[Entry]) -> list[float]:
        """How far losses, experts and updates are out of their range, in multiples of a limit."""
        scores = [(self._loss.score, LEAST_EXCURSION)]
        for signal in (catalogue.EXPERT_TOKENS, catalogue.UPDATE_WEIGHT_RATIO):
            gauge = Gauge(signal, self._baseline)
            if gauge.is_ready:
                scores.append((gauge.score, LEAST_CHANGE))
        return [
            _or_zero(excursion([score(e) for e in course], 2))
            / max(least, self._usual(score) + 1.0)
            for score, least in scores
        ]

    def _judged(self) -> Arm:
        """The losses of the stretch's batches under the state before the onset, which is not
        trained."""
        known = [arm for arm in self._found.arms if arm.name == "judged"]
        if known:
            return known[0]
        words = "their losses under the state before the onset"
        self._tell(f"{words} ({min(MOST_STEPS, len(self._stretch))} steps)")
        stretch = self._stretch[:MOST_STEPS]
        plan = Plan("before", tuple(_turn(e) for e in stretch), is_trained=False)
        course = tuple(self._replay.do(plan))
        size = excursion([self._loss.score(e) for e in course])
        own = excursion([self._loss.score(e) for e in stretch])
        limit = max(LEAST_EXCURSION, self._usual(self._loss.score) + 1.0)
        # what the run itself did not find odd is no cause of anything
        shows: Shows = self._shows(size, min(own, 2 * limit), limit) if own >= limit else "no"
        arm = Arm("judged", words, shows, size, course)
        self._found.arms.append(arm)
        return arm

    def _arm(
        self,
        name: str,
        words: str,
        state: State,
        turns: Sequence[Turn],
        *,
        is_fp32: bool = False,
    ) -> Arm:
        self._tell(f"{words} ({len(turns)} steps)")
        course = tuple(
            self._replay.do(Plan(state, tuple(turns), is_fp32=is_fp32, taps_from=self._onset))
        )
        there = [e for e in course if self._onset <= e.step <= self._last]
        size = excursion([self._gauge.score(e) for e in there])
        arm = Arm(name, words, self._shows(size, self._record, self._limit), size, course)
        self._found.arms.append(arm)
        return arm

    def _repeat(self, again: Arm) -> None:
        """Does the beginning of the replay once more: does it give the same bits?"""
        turns = self._recorded()
        course = self._replay.do(Plan("before", tuple(turns[:MOST_REPEATED])))
        twice = fidelity(again.course, course, self._onset + 3)
        if twice.before == 0.0:
            self._found.note(f"two replays of {len(course)} steps are equal bit for bit")
        else:
            self._found.note(
                f"two replays differ by up to {twice.before:.1e} of a value: the machine does not "
                "compute the same twice"
            )

    def _tell_fidelity(self, faithful: Fidelity) -> None:
        if faithful.differs_from is None:
            self._found.note(f"the replay follows the record through {faithful.num_steps} steps")
        if faithful.before > 1e-3:
            self._found.is_firm = False
            self._found.note(
                f"the replay differs from the record by {faithful.before:.1e} before the onset "
                "already: another machine, or the data or code has changed since"
            )

    def _shows(self, size: float, of: float, limit: float) -> Shows:
        if math.isnan(size):
            return "not measured"
        if size >= max(limit, SAME * of):
            return "yes"
        return "no" if size < max(0.8 * limit, GONE * of) else "unclear"

    def _usual(self, score: Callable[[Entry], float | None]) -> float:
        """The largest excursion before the onset, of stretches of the same length."""
        scores = [score(e) for e in self._baseline[len(self._baseline) // 3 :]]
        size = max(3, len(self._stretch))
        parts = [scores[at : at + size] for at in range(0, len(scores), size)]
        return max((_or_zero(excursion(part)) for part in parts if len(part) > 1), default=0.0)

    def _end_of_stretch(self, onset: int, fired: int) -> int:
        near = min(fired, onset + MOST_STEPS - 1)
        if fired == near:
            return fired
        scores = {e.step: self._gauge.score(e) for e in self._branch if onset <= e.step <= fired}
        soon = excursion([s for step, s in scores.items() if step <= near])
        late = excursion(list(scores.values()))
        return near if _or_zero(soon) >= 0.5 * late else min(fired, onset + MOST_STEPS_OF_SLOW)

    def _recorded(self) -> list[Turn]:
        first = self._replay.states["before"]
        return [_turn(e) for e in self._branch if first <= e.step <= self._last]

    def _healthy(self, *, is_configured: bool = False) -> list[Turn]:
        """The recorded turns, with batches from before the onset in the place of those since."""
        turns = self._recorded()
        num_odd = sum(t.step >= self._onset - LOOK_BACK_STEPS // 2 for t in turns)
        good = self._good_batches(num_odd)
        batches = [t.batch for t in turns[: len(turns) - num_odd]] + good
        return [
            Turn(t.step, batch, None if is_configured else t.learning_rate)
            for t, batch in zip(turns, batches, strict=True)
        ]

    def _good_batches(self, num: int) -> list[int]:
        """The newest batches before the onset, again and again where more are asked for."""
        good = [e.batch for e in self._baseline[-max(num, 1) :]]
        assert good, "a gauge is ready, so there are steps before the onset"
        return (good * (num // len(good) + 1))[:num]

    def _raised_rate(self) -> float:
        """The largest recorded learning rate of the stretch over the configured one."""
        ratios = [
            float(e.values[catalogue.LEARNING_RATE]) / self._replay.learning_rate(e.step)
            for e in self._stretch
            if catalogue.LEARNING_RATE in e.values and self._replay.learning_rate(e.step) > 0
        ]
        return max(ratios, default=1.0)


def _turn(entry: Entry) -> Turn:
    rate = entry.values.get(catalogue.LEARNING_RATE)
    return Turn(entry.step, entry.batch, None if rate is None else float(np.float64(rate)))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _number(value: float) -> str:
    return "nothing" if math.isnan(value) else f"{value:.1f}"
