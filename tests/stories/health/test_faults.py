"""Each fault planted into a real training of `tiny` is named by the right alert, in time."""

from pathlib import Path

import pytest

from moescope.platform.settings import Settings
from moescope.trainer.faults.make_runs import ONSET, asked_faults, make_fault_run

pytestmark = pytest.mark.story

NAMED = [fault.name for fault in asked_faults([]) if fault.named_by]


@pytest.mark.parametrize("name", NAMED)
def test_a_planted_fault_is_named_within_its_delay(name: str, tmp_path: Path) -> None:
    [fault] = asked_faults([name])
    settings = Settings(home=tmp_path / "home", mlflow="off")
    run = make_fault_run(
        fault,
        tmp_path,
        0,
        settings,
        steps=ONSET + fault.within_steps + 10,
        ends_when_named=True,
    )
    told = [f"{alert.rule} @ {alert.fired_step - ONSET}" for alert in run.alerts]
    assert [alert.rule for alert in run.alerts if alert.fired_step < ONSET] == [], told
    delay = run.delay(fault.named_by)
    assert delay is not None, told
    assert delay <= fault.within_steps, told
    named = next(a for a in reversed(run.alerts) if a.rule in fault.named_by)
    # but for what a window looks back over, the onset that is told lies in the fault
    assert ONSET - 10 <= named.onset_step <= named.fired_step
