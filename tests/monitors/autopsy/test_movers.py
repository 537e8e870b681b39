"""What moved first is named, in order of time; what merely varies is not."""

from collections.abc import Callable

import numpy as np
import pytest

from moescope.monitors.autopsy.fidelity import fidelity
from moescope.monitors.autopsy.gauges import excursion
from moescope.monitors.autopsy.movers import first_movers, odd_clips
from moescope.monitors.autopsy.onset import onset_of
from moescope.monitors.autopsy.record import Entry, FlightRecord
from moescope.platform import catalogue
from moescope.platform.records import Alert

MakeEntry = Callable[..., Entry]


def test_nothing_moves_in_a_quiet_record(entry: MakeEntry) -> None:
    for chance in range(5):
        branch = [entry(step, chance=chance) for step in range(120)]
        assert first_movers(branch, 100, 110) == []


def test_the_layer_that_moves_before_the_loss_comes_first(entry: MakeEntry) -> None:
    def at(step: int) -> Entry:
        norms = np.ones(3)
        norms[1] = 6.0 if step >= 98 else 1.0
        factor = 4.0 if step >= 101 else 1.0
        return entry(step, factor=factor, GRAD_LAYER_NORM=norms * np.exp(0.01 * (step % 7)))

    movers = first_movers([at(step) for step in range(105)], 101, 104)
    assert (movers[0].what, movers[0].step) == ("gradient of layer 1", 98)
    loss = next(m for m in movers if m.kind == "loss")
    assert loss.step == 101


def test_an_expert_that_takes_over_is_named(entry: MakeEntry) -> None:
    def at(step: int) -> Entry:
        tokens = np.full((2, 4), 100.0) + np.arange(8).reshape(2, 4) % 3
        if step >= 100:
            tokens[1] = [10, 10, 370, 10]
        return entry(step, EXPERT_TOKENS=tokens)

    movers = first_movers([at(step) for step in range(105)], 100, 104)
    assert movers[0].what == "share of expert 2 of MoE layer 1"
    assert movers[0].score > 0


def test_only_the_odd_modality_and_noise_level_are_named(entry: MakeEntry) -> None:
    def at(step: int) -> Entry:
        made = entry(step)
        loss = made.values[catalogue.LOSS_PER_SAMPLE].copy()
        if step >= 100:
            is_high = made.values[catalogue.LOSS_SIGMA][1] > 0.75
            loss[1, is_high] *= 6.0
        return entry(step, LOSS_PER_SAMPLE=loss)

    movers = first_movers([at(step) for step in range(106)], 100, 105)
    assert {m.what for m in movers if m.kind == "modality"} == {"audio"}
    assert {m.what for m in movers if m.kind == "noise level"} == {
        "audio at noise 0.75 to 0.88",
        "audio at noise 0.88 to 1.00",
    }


def test_a_signal_that_drifts_with_the_training_is_no_mover(entry: MakeEntry) -> None:
    branch = [entry(step, GRAD_NORM=3.0 * 0.99**step * (1.05 if step % 2 else 1)) for step in
              range(120)]  # fmt: skip
    assert [m for m in first_movers(branch, 110, 119) if m.signal == catalogue.GRAD_NORM] == []


def test_the_clips_whose_losses_stand_out_are_named_by_file(entry: MakeEntry) -> None:
    def at(step: int) -> Entry:
        made = entry(step)
        loss = made.values[catalogue.LOSS_PER_SAMPLE].copy()
        if step >= 100:
            loss[:, 3] *= 5.0
        return entry(step, LOSS_PER_SAMPLE=loss)

    branch = [at(step) for step in range(104)]
    clips = odd_clips(branch, 100, 103)
    assert {c.name for c in clips} == {branch[step].names[3] for step in range(100, 104)}
    assert all(c.steps == c.batches for c in clips)


class TestTheOnset:
    def test_a_change_before_the_rule_noticed_is_found(
        self, entry: MakeEntry, alert: Callable[..., Alert]
    ) -> None:
        def at(step: int) -> Entry:
            tokens = np.full((2, 4), 100.0) + (np.arange(8).reshape(2, 4) + step) % 5
            if step >= 60:
                tokens[0] = [370, 10, 10, 10]
            return entry(step, EXPERT_TOKENS=tokens)

        branch = [at(step) for step in range(160)]
        told = alert(onset=120, fired=159, signal=catalogue.EXPERT_TOKENS, detector="monopoly")
        assert onset_of(told, branch) == 60
        # a spike's onset is a change point already
        spiked = alert(onset=120, fired=159, signal=catalogue.EXPERT_TOKENS, detector="spike")
        assert onset_of(spiked, branch) == 120

    def test_without_a_change_the_rule_is_believed(
        self, entry: MakeEntry, alert: Callable[..., Alert]
    ) -> None:
        branch = [entry(step) for step in range(160)]
        told = alert(onset=120, fired=159, signal=catalogue.EXPERT_TOKENS, detector="monopoly")
        assert onset_of(told, branch) == 120

    def test_what_is_measured_seldom_may_have_changed_since_the_last_time(
        self, entry: MakeEntry, alert: Callable[..., Alert]
    ) -> None:
        branch = [
            entry(step, **({"FLIP_RATE": np.zeros(2)} if step % 20 == 0 else {}))
            for step in range(121)
        ]
        told = alert(onset=120, fired=120, signal=catalogue.FLIP_RATE, detector="above")
        assert onset_of(told, branch) == 101


class TestFidelity:
    def test_the_same_is_exact(self, spike: FlightRecord) -> None:
        found = fidelity(spike.entries, spike.entries[80:], 100)
        assert (found.differs_from, found.is_material, found.before) == (None, False, 0.0)

    @pytest.mark.parametrize(
        ("changed", "stage"), [("LOSS_PER_SAMPLE", "forward"), ("GRAD_LAYER_NORM", "backward")]
    )
    def test_the_stage_that_differs_first_is_told(
        self, entry: MakeEntry, spike: FlightRecord, changed: str, stage: str
    ) -> None:
        signal = getattr(catalogue, changed)
        again = [
            entry(
                e.step,
                factor=4.0 if e.step >= 100 else 1.0,
                **({changed: 2 * e.values[signal]} if e.step >= 102 else {}),
            )
            for e in spike.entries[80:]
        ]
        found = fidelity(spike.entries, again, 100)
        assert (found.differs_from, found.stage) == (102, stage)


@pytest.mark.parametrize(
    ("scores", "want"),
    [
        ([0, 0, 9, 0, 0], 3.0),  # one odd step among good ones counts a third
        ([0, 9, 9, 9, 0], 9.0),
        ([6.0], 6.0),
        ([None, 6.0, None], 6.0),
    ],
)
def test_an_excursion_is_the_mean_over_three_steps(scores: list[float], want: float) -> None:
    assert excursion(scores) == pytest.approx(want)
