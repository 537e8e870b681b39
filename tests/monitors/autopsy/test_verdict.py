"""Each kind of cause gets its verdict; the replay is played from a model of what happened."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from moescope.monitors.autopsy.examination import examine
from moescope.monitors.autopsy.record import Entry, FlightRecord
from moescope.monitors.autopsy.replaying import Plan, Rounding, State
from moescope.monitors.autopsy.story import account, first_account
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert

MakeEntry = Callable[..., Entry]
RATE = 1e-3
ONSET, ALARM = 100, 104


@dataclass
class Played:
    """A run of which is known what raises its losses: batches, the learning rate, the state at the
    alarm, a low precision. No torch: a replay is what it promises, whoever keeps it."""

    make: MakeEntry
    bad_batches: frozenset[int] = frozenset()
    bad_rate: float = math.inf
    """Learning rates from which on losses rise."""
    is_state_spoiled: bool = False
    is_low_precision: bool = False
    rounded: tuple[Rounding, ...] = ()
    has_state: bool = True
    precision: str = "fp32"
    has_exact_router: bool = True
    flip_rate_at: float = 0.02
    """Of the state at the alarm; before it is 0.02."""

    @property
    def states(self) -> dict[State, int]:
        return {"before": 90, "at": ALARM + 1} if self.has_state else {}

    def learning_rate(self, step: int) -> float:
        return RATE

    def do(self, plan: Plan) -> Sequence[Entry]:
        made, rate_was_bad = [], False
        for turn in plan.turns:
            rate = RATE if turn.learning_rate is None else turn.learning_rate
            rate_was_bad = rate_was_bad or (plan.is_trained and rate >= self.bad_rate)
            is_bad = (
                turn.batch in self.bad_batches
                or rate_was_bad
                or (plan.state == "at" and self.is_state_spoiled)
                or (self.is_low_precision and not plan.is_fp32 and turn.step >= ONSET)
            )
            factor = 4.0 if is_bad else 1.0
            one = self.make(turn.step, batch=turn.batch, factor=factor, LEARNING_RATE=rate)
            if not plan.is_trained:
                flips = self.flip_rate_at if plan.state == "at" else 0.02
                one.values[catalogue.FLIP_RATE] = np.full(3, flips, np.float32)
            made.append(one)
        return made

    def roundings(self) -> Sequence[Rounding]:
        return self.rounded


@pytest.fixture
def quiet(entry: MakeEntry, alert: Callable[..., Alert]) -> FlightRecord:
    return FlightRecord(alert(), tuple(entry(step) for step in range(ALARM + 1)))


def at_rate(record: FlightRecord, rate: float) -> FlightRecord:
    """The record with another learning rate from the onset on."""
    told = {catalogue.LEARNING_RATE: np.asarray(rate, np.float32)}
    entries = tuple(
        replace(e, values={**e.values, **told}) if e.step >= ONSET else e for e in record.entries
    )
    return replace(record, entries=entries)


STRETCH = frozenset(range(ONSET, ALARM + 1))


def test_what_comes_with_the_batches_and_goes_without_them_is_the_data(
    spike: FlightRecord, entry: MakeEntry
) -> None:
    verdict = examine(spike, Played(entry, bad_batches=STRETCH))
    assert verdict.name == "data"
    assert verdict.is_firm
    assert verdict.faithful is not None
    assert verdict.faithful.differs_from is None


def test_what_any_data_brings_back_at_the_recorded_rate_only_is_the_state(
    spike: FlightRecord, entry: MakeEntry
) -> None:
    verdict = examine(at_rate(spike, 10 * RATE), Played(entry, bad_rate=5 * RATE))
    assert verdict.name == "state"
    assert any("10 times the configured one" in e.text for e in verdict.evidence)


def test_a_state_that_is_spoiled_at_the_alarm_is_told_from_a_machine_that_was(
    spike: FlightRecord, entry: MakeEntry
) -> None:
    assert examine(spike, Played(entry, is_state_spoiled=True)).name == "state"
    assert examine(spike, Played(entry)).name == "not_reproducible"


def test_what_is_gone_in_fp32_is_precision(spike: FlightRecord, entry: MakeEntry) -> None:
    verdict = examine(spike, Played(entry, is_low_precision=True, precision="bf16"))
    assert verdict.name == "precision"


def test_weights_on_a_coarse_grid_are_precision(spike: FlightRecord, entry: MakeEntry) -> None:
    rounded = (Rounding("the routers", "bf16", 0.004, 1.0),)
    assert examine(spike, Played(entry, rounded=rounded)).name == "precision"
    # they were there before, so that they explain nothing
    always = (Rounding("the routers", "bf16", 1.0, 1.0),)
    assert examine(spike, Played(entry, rounded=always)).name == "not_reproducible"


def test_a_state_whose_routers_hang_on_rounding_is_precision(
    spike: FlightRecord, entry: MakeEntry
) -> None:
    low = Played(entry, is_state_spoiled=True, precision="bf16", has_exact_router=False)
    assert examine(spike, replace(low, flip_rate_at=0.9)).name == "precision"
    assert examine(spike, low).name == "state"
    # what a router would do in bf16 does not matter to one in fp32
    exact = replace(low, flip_rate_at=0.9, has_exact_router=True)
    assert examine(spike, exact).name == "state"


def test_flips_that_a_probe_saw_are_asked_of_the_states(
    quiet: FlightRecord, entry: MakeEntry
) -> None:
    record = replace(quiet, alert=replace(quiet.alert, evidence={"signal": catalogue.FLIP_RATE}))
    low = Played(entry, precision="bf16", has_exact_router=False, flip_rate_at=0.9)
    assert examine(record, low).name == "precision"
    assert examine(record, replace(low, flip_rate_at=0.02)).name == "no_cause"


def test_two_causes_at_once_are_both_named(spike: FlightRecord, entry: MakeEntry) -> None:
    spoiled = [entry(s, factor=16.0 if s >= ONSET else 1.0) for s in range(ALARM + 1)]
    both = replace(spike, entries=tuple(spoiled))
    verdict = examine(both, Played(entry, bad_batches=STRETCH, is_state_spoiled=True))
    assert set(verdict.causes) == {"data", "state"}


def test_a_false_alarm_has_no_cause(quiet: FlightRecord, entry: MakeEntry) -> None:
    verdict = examine(quiet, Played(entry))
    assert verdict.name == "no_cause"
    assert verdict.causes == []


def test_without_a_state_from_before_it_is_said_that_nothing_can_be_replayed(
    spike: FlightRecord, entry: MakeEntry
) -> None:
    with pytest.raises(MoescopeError, match="nothing can be replayed"):
        examine(spike, Played(entry, has_state=False))


def test_an_account_is_plain_and_tells_the_verdict_and_the_clips(
    spike: FlightRecord, entry: MakeEntry
) -> None:
    first = first_account(spike, 1.0)
    assert (first.verdict, first.is_replayed) == ("unexamined", False)
    made = account(spike, examine(spike, Played(entry, bad_batches=STRETCH)), 2.0)
    assert (made.verdict, made.is_replayed) == ("data", True)
    assert made.content["onset"] == {
        "step": ONSET,
        "batch": ONSET,
        "segment": 0,
        "told_by_the_rule": ONSET,
    }
    named = {clip["name"] for clip in made.content["clips"]}
    assert named <= {name for e in spike.entries if e.step >= ONSET for name in e.names}
    assert named
    assert set(made.content["course"]) >= {"record", "again", "other_data"}


def test_a_signal_that_was_hardly_measured_gets_no_verdict(
    spike: FlightRecord, alert: Callable[..., Alert], entry: MakeEntry
) -> None:
    record = replace(spike, alert=alert(signal=catalogue.ACTIVATION_ABSMAX))
    verdict = examine(record, Played(entry))
    assert verdict.name == "no_cause"
    assert any("too seldom before the onset" in e.text for e in verdict.evidence)
