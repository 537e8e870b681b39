import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moescope.cli import app
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


@pytest.mark.parametrize(
    ("name", "alerts", "verdict"),
    [
        ("dead_expert", [], "stopped"),
        ("none", [], "stopped"),
        ("dead_expert", [alert("dead_experts", ONSET + 60)], "named"),
        ("dead_expert", [alert("loss_spike", 9)], "false alarm"),
    ],
)
def test_a_run_that_was_stopped_has_no_verdict_but_what_was_raised(
    name: str, alerts: list[Alert], verdict: str
) -> None:
    [fault] = asked_faults([name])
    assert told(fault, replace(run_of(name, *alerts), is_stopped=True))["verdict"] == verdict


def test_a_signal_ends_all_runs(tmp_path: Path) -> None:
    is_over = threading.Event()
    usual = signal.getsignal(signal.SIGTERM)

    def kill() -> None:
        while signal.getsignal(signal.SIGTERM) == usual and not is_over.wait(0.01):
            pass
        if not is_over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        words = ["make-faults", "none", "beta2", "--steps", "160", "--json"]
        told = CliRunner().invoke(app, words, env={"MOESCOPE_HOME": str(tmp_path)})
    finally:
        is_over.set()
        killer.join()
    assert told.exit_code == 1, told.output
    (row,) = json.loads(told.stdout)
    assert (row["fault"], row["verdict"]) == ("none", "stopped")
    assert row["steps"] < 160
