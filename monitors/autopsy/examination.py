"""How a verdict is come to, from a record and its replay.

What an alert saw is done again from the newest sound state before its onset:
- as recorded. Where it comes back, state and data explain it; where it does not, something else
  was at work, and the state at the alarm tells whether that lies in the state or is gone
- with batches from before the onset in the place of the odd ones: without them it is the data
- at the configured learning rate, where another one was recorded
- in fp32, where the run computes in less
It knows the record and the replay, and nothing of what was done to the run.
"""

import math
from collections.abc import Callable

from ...platform import catalogue
from ...platform.errors import MoescopeError
from .fidelity import Fidelity, fidelity
from .gauges import Gauge, excursion
from .onset import LEAST_CHANGE
from .record import FlightRecord
from .replaying import Plan, Replay
from .stretch import Stretch
from .verdict import Arm, Shows, Verdict

RAISED_RATE = 1.2
"""A learning rate that is that many times the configured one; a lower one was damped."""
MOST_REPEATED = 10
FLIPPED_SHARE = 0.2
"""Of a layer's tokens, which go to other experts in fp32."""
COARSE, FINE = 0.98, 0.5
"""Shares of weights on a narrower format's grid: of what was rounded, and of what was not."""


def examine(
    record: FlightRecord, replay: Replay, tell: Callable[[str], None] = lambda _: None
) -> Verdict:
    """Replays an alert's stretch in as many ways as its verdict needs. tell: takes a line for each.

    Raises MoescopeError where there is no state from before the onset, or the data is gone.
    """
    return _Examination(record, replay, tell).run()


class _Examination:
    def __init__(self, record: FlightRecord, replay: Replay, tell: Callable[[str], None]) -> None:
        self._replay = replay
        self._stretch = Stretch(record, replay, tell)
        self._found = Verdict(arms=self._stretch.arms)

    def run(self) -> Verdict:
        found, stretch = self._found, self._stretch
        if "before" not in self._replay.states:
            raise MoescopeError(
                "there is no sound state from before the onset any more: nothing can be replayed"
            )
        found.is_replayed = True
        if not stretch.gauge.is_ready:
            found.note(
                f"what is usual of {stretch.signal or 'the signal'} is not known: it was measured "
                "too seldom before the onset"
            )
            if stretch.signal == catalogue.FLIP_RATE:
                self._is_routed_by_rounding()
            return found
        if not stretch.size >= stretch.limit:
            found.note(
                f"from the onset on the record goes {_number(stretch.size)} spreads away, and "
                f"{stretch.limit:.1f} are needed to tell it from chance: a single odd step, or none"
            )
            return found
        found.note(
            f"the record goes {_number(stretch.size)} spreads away from what was usual (up to "
            f"{stretch.usual:.1f} before the onset)"
        )
        again = stretch.arm("again", "the same again", "before", stretch.recorded())
        found.faithful = fidelity(stretch.branch, again.course, stretch.onset)
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
            exact = self._stretch.arm(
                "fp32", "all in fp32", "before", self._stretch.recorded(), is_fp32=True
            )
            if exact.shows == "no":
                found.add(
                    "precision",
                    f"it comes back in {self._replay.precision}, and not in fp32 from the same "
                    "state on the same data",
                )
                return
        judged = self._stretch.judged()
        healthy = self._stretch.arm(
            "other_data", "with batches from before the onset", "before", self._stretch.healthy()
        )
        rate = self._stretch.raised_rate()
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
        updates = Gauge(catalogue.UPDATE_WEIGHT_RATIO, self._stretch.baseline)
        there = [e for e in healthy.course if self._stretch.onset <= e.step <= self._stretch.last]
        size = excursion([updates.score(e) for e in there]) if updates.is_ready else math.nan
        if size >= max(LEAST_CHANGE, self._stretch.usual_of(updates.score) + 1.0):
            self._found.add(
                "state",
                f"the learning rate was {rate:.3g} times the configured one, and moves the updates "
                f"{size:.1f} spreads away on batches from before the onset",
            )

    def _state_to_blame(self, rate: float) -> None:
        found = self._found
        if rate > RAISED_RATE:
            configured = self._stretch.arm(
                "configured_rate",
                "with batches from before the onset, at the configured learning rate",
                "before",
                self._stretch.healthy(is_configured=True),
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
        left = self._stretch.left_behind(
            "at_alarm", "on from the state at the alarm, with good batches"
        )
        if left.shows == "yes" and self._replay.precision != "fp32":
            exact = self._stretch.left_behind(
                "at_alarm_fp32", "the same in fp32 throughout", is_fp32=True
            )
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
        if shows != "yes" and self._stretch.judged().shows == "yes":
            found.add("data", "a sound state finds the batches of the stretch odd by themselves")

    def _is_routed_by_rounding(self) -> bool:
        """Do routers that compute in less than fp32 send tokens elsewhere than in it, and did not
        before the onset? A state that was trained on so has learnt from it, and is odd in fp32 as
        well."""
        if self._replay.precision == "fp32" or self._replay.has_exact_router:
            return False
        if "at" not in self._replay.states or not self._stretch.baseline:
            return False
        before, at_alarm = (self._stretch.flip_rate(state) for state in ("before", "at"))
        if at_alarm < FLIPPED_SHARE or before > at_alarm / 4:
            return False
        self._found.add(
            "precision",
            f"in fp32 up to {at_alarm:.0%} of a layer's tokens would go to other experts from the "
            f"state at the alarm, {before:.0%} from that before the onset: routers compute in less",
        )
        return True

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

    def _repeat(self, again: Arm) -> None:
        """Does the beginning of the replay once more: does it give the same bits?"""
        turns = self._stretch.recorded()
        course = self._replay.do(Plan("before", tuple(turns[:MOST_REPEATED])))
        twice = fidelity(again.course, course, self._stretch.onset + 3)
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


def _number(value: float) -> str:
    return "nothing" if math.isnan(value) else f"{value:.1f}"
