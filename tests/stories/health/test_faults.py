"""Each fault planted into a real training of `tiny` is named by the right alert, in time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from moescope.platform.settings import Settings
from moescope.trainer.faults.faults import Fault
from moescope.trainer.faults.make_runs import ONSET, FaultRun, asked_faults, make_fault_run

pytestmark = pytest.mark.story

NAMED = [fault.name for fault in asked_faults([]) if fault.named_by]
TRUNK_STEPS = ONSET - 10
"""A little before the onset: a slow step is slow against those before it."""


@dataclass(frozen=True)
class Trunk:
    """A training without fault, from whose last state each fault goes on that is not in the
    configuration or the clips: until its onset all of them are this training."""

    folder: Path
    settings: Settings
    run: FaultRun


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Trunk:
    folder = tmp_path_factory.mktemp("trunk")
    settings = Settings(home=folder / "home", mlflow="off")
    [healthy] = asked_faults(["none"])
    run = make_fault_run(healthy, folder, 0, settings, steps=TRUNK_STEPS)
    assert (run.steps, run.alerts) == (TRUNK_STEPS, ())
    return Trunk(folder, settings, run)


@pytest.fixture
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Fault], FaultRun]:
    """Trains a run with a fault until it is named, or for a little longer than that may take."""

    def run(fault: Fault) -> FaultRun:
        folder, settings = tmp_path, Settings(home=tmp_path / "home", mlflow="off")
        branch_from = ""
        if not fault.changes and not fault.is_in_clips:
            shared: Trunk = request.getfixturevalue("trunk")
            folder, settings, branch_from = shared.folder, shared.settings, shared.run.run_id
        return make_fault_run(
            fault,
            folder,
            0,
            settings,
            steps=ONSET + fault.within_steps + 10,
            ends_when_named=True,
            branch_from=branch_from,
        )

    return run


@pytest.mark.parametrize("name", NAMED)
def test_a_planted_fault_is_named_within_its_delay(
    name: str, planted: Callable[[Fault], FaultRun]
) -> None:
    [fault] = asked_faults([name])
    run = planted(fault)
    told = [f"{alert.rule} @ {alert.fired_step - ONSET}" for alert in run.alerts]
    assert [alert.rule for alert in run.alerts if alert.fired_step < ONSET] == [], told
    delay = run.delay(fault.named_by)
    assert delay is not None, told
    assert delay <= fault.within_steps, told
    named = next(a for a in reversed(run.alerts) if a.rule in fault.named_by)
    # but for what a window looks back over, the onset that is told lies in the fault
    assert ONSET - 10 <= named.onset_step <= named.fired_step
