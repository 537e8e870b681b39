from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.judge import Condition, Judgement
from moescope.monitors.policy import ADVISED, Policy
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Action, Alert, Checkpoint, Mode
from moescope.trainer.config import PolicyConfig


@dataclass(frozen=True)
class Limits:
    grace_steps: int = 2
    margin_steps: int = 2
    certify_after_steps: int = 20
    most_rollbacks: int = 4
    window_steps: int = 1000
    cooldown_steps: int = 10
    most_skipped_batches: int = 400
    damp_scale: float = 0.5
    damp_steps: int = 50
    harden_factor: float = 1.25
    most_hardened: float = 2.0
    relax_steps: int = 200


LIMITS = Limits()


def alert(onset: int, fired: int, segment: int = 0, rule: str = "loss_spike") -> Alert:
    return Alert(
        f"run-{segment}-{fired}-{rule}", "run", segment, rule, "critical", onset, fired, 9.0, 4.0,
        "the loss stays high", 0.0, f"run/{rule}",
    )  # fmt: skip


def condition(onset: int, fired: int, **changes: Any) -> Condition:
    segment = changes.pop("segment", 0)
    rule = changes.pop("rule", "loss_spike")
    plain = Condition(
        rule, alert(onset, fired, segment, rule), "rollback", False, True, True, onset + 1000
    )
    return replace(plain, **changes)


def judged(step: int, *conditions: Condition, segment: int = 0) -> Judgement:
    is_healthy = not any(c.impugns_state for c in conditions)
    return Judgement(step, segment, {}, conditions=conditions, is_healthy=is_healthy)


def checkpoint(step: int, health: Any = "certified", segment: int = 0) -> Checkpoint:
    return Checkpoint("run", segment, step, f"{segment}-{step}", step + 1000, 1, 0.0, health)


CHECKPOINTS = [checkpoint(step) for step in (0, 260, 270, 280)] + [checkpoint(290, "fresh")]


def decide(
    policy: Policy,
    step: int,
    *conditions: Condition,
    checkpoints: Sequence[Checkpoint] = CHECKPOINTS,
    mode: Mode = "on",
    segment: int = 0,
) -> Action:
    return policy.decide(
        step=step,
        batch=step + 1001,
        judgement=judged(step, *conditions, segment=segment),
        checkpoints=checkpoints,
        mode=mode,
    )


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy(LIMITS, tmp_path / "memory.jsonl")


def test_a_healthy_run_carries_on(policy: Policy) -> None:
    assert decide(policy, 300).kind == "carry_on"


def test_the_first_state_of_a_branch_is_always_one_to_go_back_to(tmp_path: Path) -> None:
    branched = Policy(LIMITS, tmp_path / "memory.jsonl", first_step=300)
    spike = condition(300, 302)
    there = [checkpoint(300, "fresh")]
    (first,) = branched.certify(302, there, judged(302, spike))
    assert (first.step, first.health) == (300, "certified")
    action = decide(branched, 304, spike, checkpoints=[first])
    assert (action.kind, action.to_step) == ("rollback", 300)
    # of a run that began elsewhere it is one like any other
    other = Policy(LIMITS, tmp_path / "other.jsonl")
    assert [c.health for c in other.certify(302, there, judged(302, spike))] == ["tainted"]
    assert decide(other, 304, spike, checkpoints=there).kind == "halt"


def test_a_spike_gets_its_grace_and_is_then_rolled_back(policy: Policy) -> None:
    spike = condition(300, 302)
    assert decide(policy, 302, spike).kind == "carry_on"
    assert decide(policy, 303, spike).kind == "carry_on"
    action = decide(policy, 304, spike)
    assert (action.kind, action.to_step, action.alert_id) == ("rollback", 280, spike.alert.id)
    # from the onset's batch 1300 less the margin, to the next one 1305 and the margin
    assert (action.vet_from_batch, action.vet_until_batch) == (1298, 1307)
    assert action.learning_rate_scale == 1.0


class TestWhereAnIncidentBegan:
    """Where the earliest alarm that corroborates it did, not where the one that acts did."""

    SPIKE = condition(300, 302)

    def went_to(self, policy: Policy, *others: Condition) -> int | None:
        held = [checkpoint(step) for step in (0, 260, 270, 280, 285, 295)]
        return decide(policy, 304, self.SPIKE, *others, checkpoints=held).to_step

    def warning(self, onset: int, **changes: Any) -> Condition:
        changes = {"action": "observe", "impugns_state": False, "rule": "gradient_spike"} | changes
        return condition(onset, onset + 2, **changes)

    def test_alone_it_began_with_its_own(self, policy: Policy) -> None:
        assert self.went_to(policy) == 295

    def test_a_warning_that_holds_since_before_takes_it_further_back(self, policy: Policy) -> None:
        early = self.warning(290)
        assert self.went_to(policy, early) == 285
        action = decide(policy, 304, self.SPIKE, early)
        assert "it began with gradient_spike at step 290" in action.reason
        # data is vetted from there on, too, but not before the state
        assert action.vet_from_batch == 1288

    def test_the_earliest_of_several_counts(self, policy: Policy) -> None:
        assert self.went_to(policy, self.warning(290), self.warning(283, rule="other")) == 280

    @pytest.mark.parametrize(
        "changes",
        [
            {"onset": 300 - LIMITS.certify_after_steps - 1},  # it stood long before
            {"onset": 301},  # it came after
            {"onset": 290, "speaks_of_training": False},  # a slow disk began nothing
            {"onset": 290, "segment": 1},  # of a branch that was left
        ],
    )
    def test_another_matter_is_not_taken_for_it(
        self, policy: Policy, changes: dict[str, Any]
    ) -> None:
        assert self.went_to(policy, self.warning(**changes)) == 295

    def test_states_since_then_are_tainted(self, policy: Policy) -> None:
        held = [checkpoint(285), checkpoint(291)]
        judgement = judged(304, self.SPIKE, self.warning(290))
        assert [(c.step, c.health) for c in policy.certify(304, held, judgement)] == [
            (291, "tainted")
        ]


def test_a_spike_that_is_healing_is_left_alone(policy: Policy) -> None:
    assert decide(policy, 306, condition(300, 302, is_raised=False)).kind == "carry_on"


def test_a_state_that_is_not_a_number_waits_for_nothing(policy: Policy) -> None:
    nan = condition(302, 302, is_immediate=True, rule="non_finite_loss")
    policy.note(Action("damp", "before"), 300, 1300)  # a cooldown is running
    assert decide(policy, 302, nan).kind == "rollback"


def test_only_certified_states_before_the_onset_less_the_margin_are_trusted(
    policy: Policy,
) -> None:
    checkpoints = [checkpoint(0), checkpoint(279), checkpoint(280), checkpoint(275, "tainted")]
    action = decide(policy, 290, condition(281, 283), checkpoints=checkpoints)
    assert action.to_step == 279  # 280 is younger than 281 - 2


def test_the_initial_state_counts_as_certified(policy: Policy) -> None:
    action = decide(policy, 10, condition(5, 7), checkpoints=[checkpoint(0, "fresh")])
    assert (action.kind, action.to_step) == ("rollback", 0)


def test_without_any_trusted_state_the_run_halts(policy: Policy) -> None:
    action = decide(policy, 310, condition(300, 302), checkpoints=[checkpoint(290, "fresh")])
    assert action.kind == "halt"
    assert "no certified state" in action.reason


def test_a_drift_is_damped_once(policy: Policy) -> None:
    drift = condition(200, 300, action="damp", rule="loss_drift")
    action = decide(policy, 300, drift)
    assert (action.kind, action.learning_rate_scale, action.for_steps) == ("damp", 0.5, 50)
    policy.note(action, 301, 1301)
    assert [decide(policy, step, drift).kind for step in range(301, 400)] == ["carry_on"] * 99


def test_odd_batches_are_answered_by_vetting(policy: Policy) -> None:
    odd = condition(290, 300, action="skip_data", impugns_state=False, rule="odd_batches")
    action = decide(policy, 300, odd)
    assert (action.kind, action.vet_from_batch, action.vet_until_batch) == ("skip_data", 1301, 1351)


def test_the_same_checkpoint_twice_in_a_row_goes_deeper_and_damps(policy: Policy) -> None:
    first = decide(policy, 304, condition(300, 302))
    policy.note(first, 305, 1305)
    assert first.to_step == 280
    second = decide(policy, 295, condition(291, 293, segment=1), segment=1)
    assert (second.to_step, second.learning_rate_scale, second.for_steps) == (270, 0.5, 50)
    policy.note(second, 296, 1305)
    third = decide(policy, 290, condition(286, 288, segment=2), segment=2)
    assert third.to_step == 260


def test_after_progress_the_newest_checkpoint_is_trusted_again(policy: Policy) -> None:
    policy.note(decide(policy, 304, condition(300, 302)), 305, 1305)
    checkpoints = [*CHECKPOINTS, checkpoint(400, segment=1)]
    action = decide(policy, 430, condition(420, 422, segment=1), checkpoints=checkpoints, segment=1)
    assert (action.to_step, action.learning_rate_scale) == (400, 1.0)


def test_states_of_an_abandoned_branch_are_not_gone_back_to(policy: Policy) -> None:
    policy.note(decide(policy, 304, condition(300, 302)), 305, 1305)
    checkpoints = [checkpoint(280), checkpoint(300)]  # 300 was certified on the branch left behind
    action = decide(policy, 330, condition(320, 322, segment=1), checkpoints=checkpoints, segment=1)
    assert action.to_step == 280


def test_after_the_budget_the_run_halts_and_a_restart_does_not_reset_it(tmp_path: Path) -> None:
    for segment in range(4):
        policy = Policy(LIMITS, tmp_path / "memory.jsonl")
        action = decide(policy, 304, condition(300, 302, segment=segment), segment=segment)
        assert action.kind == "rollback"
        policy.note(action, 305, 1305)
    policy = Policy(LIMITS, tmp_path / "memory.jsonl")
    action = decide(policy, 304, condition(300, 302, segment=4), segment=4)
    assert action.kind == "halt"
    assert "4 rollbacks within 1000 steps" in action.reason


def test_a_person_may_roll_back_without_spending_the_budget(policy: Policy) -> None:
    for _ in range(9):
        policy.note(Action("rollback", "asked", to_step=280), 305, 1305, is_automatic=False)
    assert decide(policy, 304, condition(300, 302)).kind == "rollback"


def test_the_budget_comes_back_after_the_window(policy: Policy) -> None:
    for segment in range(4):
        policy.note(decide(policy, 304, condition(300, 302, segment=segment)), 305, 1305)
    late = [checkpoint(1280, segment=9)]
    action = decide(policy, 1306, condition(1302, 1304, segment=9), checkpoints=late, segment=9)
    assert action.kind == "rollback"


def test_after_an_action_the_policy_cools_down(policy: Policy) -> None:
    policy.note(decide(policy, 304, condition(300, 302)), 305, 1305)
    again = condition(283, 285, segment=1)
    # ten steps from step 280 on, which is where the run went on
    assert decide(policy, 289, again, segment=1).kind == "carry_on"
    assert decide(policy, 290, again, segment=1).kind == "rollback"


def test_too_many_skipped_batches_halt_the_run(tmp_path: Path) -> None:
    policy = Policy(replace(LIMITS, most_skipped_batches=3), tmp_path / "memory.jsonl")
    for batch in (7, 8, 9):
        assert policy.skips_left == 9 - batch + 1
        policy.skip_batch(batch)
    assert policy.skipped == {7, 8, 9}
    assert policy.skips_left == 0
    action = decide(policy, 300)
    assert action.kind == "halt"
    policy.note(action, 300, 1300)
    # who resumes the run means to go on
    assert decide(Policy(LIMITS, tmp_path / "memory.jsonl"), 301).kind == "carry_on"


def test_advisory_says_once_what_it_would_do(policy: Policy) -> None:
    spike = condition(300, 302)
    found = [decide(policy, step, spike, mode="advisory") for step in range(302, 310)]
    assert {action.kind for action in found} == {"carry_on"}
    said = [action for action in found if action.reason.startswith(ADVISED)]
    assert len(said) == 1
    assert said[0].to_step == 280
    assert "roll back to step 280" in said[0].reason
    # nothing was counted, and switching on acts
    assert decide(policy, 310, spike).kind == "rollback"


def test_off_does_nothing(policy: Policy) -> None:
    assert decide(policy, 310, condition(300, 302), mode="off").kind == "carry_on"


def certified(policy: Policy, step: int, checkpoints: list[Checkpoint], *held: Condition) -> str:
    changed = policy.certify(step, checkpoints, judged(step, *held))
    new = {c.path: c for c in changed}
    return " ".join(f"{c.step}:{new.get(c.path, c).health}" for c in checkpoints)


def test_a_checkpoint_is_certified_after_healthy_steps(policy: Policy) -> None:
    checkpoints = [checkpoint(0, "fresh"), checkpoint(100, "fresh")]
    assert certified(policy, 90, checkpoints) == "0:certified 100:fresh"
    assert certified(policy, 119, checkpoints) == "0:certified 100:fresh"
    assert certified(policy, 120, checkpoints) == "0:certified 100:certified"


def test_an_alert_taints_what_was_saved_since_its_onset_and_takes_certificates_back(
    policy: Policy,
) -> None:
    checkpoints = [checkpoint(80), checkpoint(98), checkpoint(99), checkpoint(110, "fresh")]
    held = condition(100, 125)  # the alarm came 25 steps after the onset
    assert (
        certified(policy, 125, checkpoints, held)
        == "80:certified 98:certified 99:tainted 110:tainted"
    )


def test_an_observing_alert_taints_nothing(policy: Policy) -> None:
    held = condition(100, 125, action="observe", impugns_state=False)
    assert certified(policy, 125, [checkpoint(110)], held) == "110:certified"


def test_the_clock_begins_anew_after_an_unhealthy_step(policy: Policy) -> None:
    checkpoints = [checkpoint(90, "fresh")]
    certified(policy, 90, checkpoints)
    certified(policy, 105, checkpoints, condition(100, 102))
    assert certified(policy, 125, checkpoints) == "90:fresh"
    assert certified(policy, 126, checkpoints) == "90:certified"


def test_silence_of_rules_that_cannot_speak_yet_certifies_nothing(policy: Policy) -> None:
    for step in range(60):
        judgement = replace(judged(step), can_judge=step >= 48)
        changed = policy.certify(step, [checkpoint(10, "fresh")], judgement)
        assert changed == []
    assert policy.certify(68, [checkpoint(10, "fresh")], judged(68)) != []


def test_the_abandoned_branch_is_tainted_and_the_new_one_is_not(policy: Policy) -> None:
    policy.note(decide(policy, 304, condition(300, 302)), 305, 1305)
    checkpoints = [checkpoint(280), checkpoint(290, "fresh"), checkpoint(290, "fresh", segment=1)]
    changed = policy.certify(290, checkpoints, judged(290, segment=1))
    assert [(c.segment, c.step, c.health) for c in changed] == [(0, 290, "tainted")]


def test_a_certificate_that_comes_before_the_alarm_could_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoescopeError, match=r"policy\.certify_after_steps is 5"):
        Policy(replace(LIMITS, certify_after_steps=5), tmp_path / "memory.jsonl")


def test_the_trainers_configuration_fits(tmp_path: Path) -> None:
    policy = Policy(PolicyConfig(), tmp_path / "memory.jsonl", DEFAULT_RULES)
    assert decide(policy, 304, condition(300, 302)).kind == "rollback"


incident = st.tuples(
    st.integers(1, 199),  # the step at which it begins
    st.sampled_from(["rollback", "rollback", "damp", "skip_data", "nan"]),
    st.integers(1, 12),  # how often it comes back when the run passes there again
    st.integers(1, 8),  # steps from onset to alarm
)


@settings(max_examples=200, deadline=None)
@given(st.lists(incident, max_size=8), st.booleans())
def test_random_schedules_end_in_progress_or_halt(
    tmp_path_factory: pytest.TempPathFactory,
    incidents: list[tuple[int, str, int, int]],
    is_killed: bool,
) -> None:
    """A trainer in small: it obeys every action, and may be killed and restarted at any action."""
    limits = replace(LIMITS, window_steps=100, most_rollbacks=3)
    path = tmp_path_factory.mktemp("policy") / "memory.jsonl"
    policy = Policy(limits, path)
    left = {i: times for i, (_, _, times, _) in enumerate(incidents)}
    checkpoints, holding = [checkpoint(0)], dict[int, Condition]()
    step = segment = num_turns = 0
    while step < 200:
        num_turns += 1
        # 200 steps hold two windows of three rollbacks and one more, each of at most 200 steps
        assert num_turns < 200 * (3 * 3 + 2), "the run goes round in circles"
        for i, (start, kind, _, delay) in enumerate(incidents):
            if step == start + delay and left[i]:
                left[i] -= 1
                is_nan = kind == "nan"
                holding[i] = condition(
                    start,
                    step,
                    action="rollback" if is_nan else kind,
                    is_immediate=is_nan,
                    impugns_state=kind != "skip_data",
                    segment=segment,
                    rule=f"rule_{i}",
                )
            elif i in holding and step > start + delay + 15:
                del holding[i]
        judgement = judged(step, *holding.values(), segment=segment)
        changed = {(c.segment, c.step): c for c in policy.certify(step, checkpoints, judgement)}
        checkpoints = [changed.get((c.segment, c.step), c) for c in checkpoints]
        action = policy.decide(
            step=step, batch=step, judgement=judgement, checkpoints=checkpoints, mode="on"
        )
        step += 1
        policy.note(action, step, step)
        if action.kind == "halt":
            return
        if action.kind == "rollback":
            assert action.to_step is not None
            assert action.to_step < step
            chosen = [c for c in checkpoints if c.step == action.to_step]
            assert any(c.health == "certified" for c in chosen)
            step, segment = action.to_step, segment + 1
            holding.clear()
        if action.kind != "carry_on" and is_killed:
            policy = Policy(limits, path)
        if step % 10 == 0 and not any((c.segment, c.step) == (segment, step) for c in checkpoints):
            checkpoints.append(checkpoint(step, "fresh", segment))


def spike(onset: int, fired: int, peak: float, **changes: Any) -> Condition:
    return condition(onset, fired, peak=peak, can_harden=True, **changes)


def roll_back_once(policy: Policy, segment: int = 0, peak: float = 30.0) -> Action:
    action = decide(policy, 304, spike(300, 302, peak, segment=segment), segment=segment)
    assert action.kind == "rollback"
    policy.note(action, 305, 1305)
    return action


def test_after_a_rollback_the_next_one_takes_a_higher_score(policy: Policy) -> None:
    assert "hardened" not in roll_back_once(policy).reason
    assert policy.hardness("loss_spike") == 1.25
    # limit 4 x 1.25 = 5
    damped = decide(policy, 330, spike(320, 322, 4.9, segment=1), segment=1)
    assert (damped.kind, damped.learning_rate_scale) == ("damp", 0.5)
    assert "after its last rollback loss_spike asks for the next above 5" in damped.reason
    policy.note(damped, 331, 1331)
    # once; but where it goes on to rise, it is gone back
    waiting = decide(policy, 345, spike(320, 322, 4.9, segment=1), segment=1)
    assert waiting.kind == "carry_on"
    assert "limit 4 x 1.25" in waiting.reason
    again = decide(policy, 346, spike(320, 322, 5.1, segment=1), segment=1)
    assert again.kind == "rollback"
    assert "asks for the next above 5 (limit 4 x 1.25) and came to 5.1" in again.reason


def test_a_hardened_limit_is_bounded_and_relaxes_while_the_run_is_healthy(policy: Policy) -> None:
    for segment in range(4):
        roll_back_once(policy, segment)
    assert policy.hardness("loss_spike") == 2.0  # 1.25^4 = 2.44, at most 2
    for step in range(306, 506):
        policy.certify(step, [], judged(step, segment=4))
    assert policy.hardness("loss_spike") == pytest.approx(1.5)  # half the way in 200 steps
    for step in range(506, 520):
        policy.certify(step, [], judged(step, spike(500, 502, 9.0), segment=4))
    assert policy.hardness("loss_spike") == pytest.approx(1.5), "not while it is unhealthy"
    for step in range(520, 2700):
        policy.certify(step, [], judged(step, segment=4))
    assert policy.hardness("loss_spike") == 1.0


def test_hardened_limits_survive_a_crash_and_no_rollback_resets_them(tmp_path: Path) -> None:
    policy = Policy(LIMITS, tmp_path / "memory.jsonl")
    roll_back_once(policy)
    for step in range(280, 380):
        policy.certify(step, [], judged(step, segment=1))
    hardness = policy.hardness("loss_spike")
    assert 1.0 < hardness < 1.25
    again = Policy(LIMITS, tmp_path / "memory.jsonl")
    assert again.hardness("loss_spike") == pytest.approx(hardness)
    again.note(Action("rollback", "asked", to_step=0), 380, 1380, is_automatic=False)
    assert again.hardness("loss_spike") == pytest.approx(hardness)


def test_rules_on_non_finite_values_and_shares_are_never_hardened(policy: Policy) -> None:
    nan = condition(300, 302, rule="non_finite_lasting", is_immediate=True, peak=1.0)
    for segment in range(3):
        action = decide(policy, 302, replace(nan, alert=alert(300, 302, segment)), segment=segment)
        assert action.kind == "rollback"
        policy.note(action, 303, 1303)
    assert policy.hardness("non_finite_lasting") == 1.0


def test_one_rule_that_brought_the_run_back_does_not_blind_another(policy: Policy) -> None:
    roll_back_once(policy)
    other = spike(320, 322, 4.5, segment=1, rule="gradient_spike")
    assert decide(policy, 330, other, segment=1).kind == "rollback"


def test_a_factor_of_one_hardens_nothing(tmp_path: Path) -> None:
    policy = Policy(replace(LIMITS, harden_factor=1.0), tmp_path / "memory.jsonl")
    roll_back_once(policy)
    assert policy.hardness("loss_spike") == 1.0


def test_a_memory_of_before_there_was_hardening_is_read(tmp_path: Path) -> None:
    (tmp_path / "memory.jsonl").write_text(
        '{"what": "action", "kind": "rollback", "step": 305, "batch": 1305, "alert_id": "a", '
        '"to_step": 280, "segment": 0, "is_automatic": true}\n'
    )
    policy = Policy(LIMITS, tmp_path / "memory.jsonl")
    assert policy.hardness("loss_spike") == 1.0
    action = decide(policy, 295, condition(291, 293, segment=1), segment=1)
    assert action.to_step == 270, "the rollback itself is remembered"


def test_a_rule_that_asks_for_a_halt_gets_one_and_the_highest_rung_comes_first(
    policy: Policy,
) -> None:
    holding = [
        condition(290, 292, action=action, rule=f"rule_{action}")
        for action in ("observe", "skip_data", "damp", "rollback", "halt")
    ]
    found = []
    while holding:
        action = decide(policy, 304, *holding)
        found.append(action.kind)
        holding.pop()
    assert found == ["halt", "rollback", "damp", "skip_data", "carry_on"]
