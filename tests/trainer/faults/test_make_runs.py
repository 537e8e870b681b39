from pathlib import Path

import pytest

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert
from moescope.trainer.faults.faults import faults
from moescope.trainer.faults.make_runs import ONSET, FaultRun, asked_faults, fault_config
from moescope.trainer.faults.shell import told


def alert(rule: str, step: int) -> Alert:
    return Alert(
        f"r-{step}-{rule}", "r", 0, rule, "warning", step, step, 1.0, 0.5, "", 0.0, f"r/{rule}"
    )


def run_of(name: str, *alerts: Alert) -> FaultRun:
    return FaultRun(name, 0, "r", ONSET, 300, alerts)


def test_every_fault_is_named_by_rules_that_there_are_and_that_can_be_in_time() -> None:
    rules = {rule.name: rule for rule in DEFAULT_RULES}
    for fault in faults():
        assert set(fault.named_by) <= rules.keys(), fault.name
        assert bool(fault.named_by) == bool(fault.within_steps), fault.name


def test_faults_are_asked_for_by_name_and_each_time_anew() -> None:
    assert [fault.name for fault in asked_faults(["beta2", "none"])] == ["beta2", "none"]
    first, second = asked_faults(["frozen_expert"])[0], asked_faults(["frozen_expert"])[0]
    assert first.plant is not second.plant
    with pytest.raises(MoescopeError, match="no fault monoply; did you mean monopoly"):
        asked_faults(["monoply"])


def test_a_run_of_a_fault_is_tiny_with_its_changes_and_nothing_acts(tmp_path: Path) -> None:
    [fault] = asked_faults(["beta2"])
    config = fault_config(fault, tmp_path, 3, 200)
    assert (config.optim.beta2, config.seed, config.steps) == (0.999, 3, 200)
    assert config.policy.mode == "off"
    assert len(list(Path(config.data.folder).glob("*.mp4"))) > 0


@pytest.mark.parametrize(
    ("name", "alerts", "verdict", "delay"),
    [
        ("dead_expert", [alert("dead_experts", ONSET + 60)], "named", 60),
        ("dead_expert", [alert("dead_experts", ONSET + 99)], "late", 99),
        ("dead_expert", [alert("loss_drift", ONSET + 60)], "no", None),
        ("dead_expert", [alert("loss_spike", 9)], "false alarm", None),
        ("none", [alert("loss_drift", ONSET + 60)], "false alarm", None),
        ("none", [], "quiet", None),
        ("beta2", [alert("loss_drift", ONSET + 60)], "seen", None),
    ],
)
def test_what_is_said_of_a_run(
    name: str, alerts: list[Alert], verdict: str, delay: int | None
) -> None:
    [fault] = asked_faults([name])
    row = told(fault, run_of(name, *alerts))
    assert (row["verdict"], row["delay"]) == (verdict, delay)
