"""A replay from a saved state gives the bits that the run had, and writes nothing of the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moescope.monitors.autopsy.record import Entry, read_record
from moescope.monitors.autopsy.replaying import Plan, Turn
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.records import Alert, Run
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.replay import open_replay
from moescope.trainer.run import train

EXACT = (
    catalogue.LOSS_PER_SAMPLE,
    catalogue.LOSS_SIGMA,
    catalogue.LOSS_TOTAL,
    catalogue.GRAD_NORM,
    catalogue.GRAD_LAYER_NORM,
    catalogue.LEARNING_RATE,
)
BEFORE, ONSET, ALARM = 10, 16, 18
WAYS_REPLAYED = (
    "sigmoid",
    "softmax",  # with two micro-batches
    "latent",
    "muon, cosine",
    "two noise experts",
    "dsmoe",
    "bf16",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "replayed_way" in metafunc.fixturenames:
        metafunc.parametrize("replayed_way", WAYS_REPLAYED)


@pytest.fixture
def alarmed(small: RunConfig, settings: Settings) -> Any:
    """Trains with an alert that is raised by hand; gives (run, alert, entries of its record)."""

    def trained(**changes: Any) -> tuple[Run, Alert, list[Entry]]:
        config = changed(small, {"steps": 22, "watch.sample_every": 4, **changes})
        raised: list[Alert] = []

        def on_step(trainer: Trainer) -> None:
            if trainer.state.step == ALARM + 1 and not raised:
                alert = Alert(
                    f"{trainer.run.id}-0-{ALARM}-by_hand", trainer.run.id, 0, "by_hand",
                    "critical", ONSET, ALARM, 9.0, 3.0, "raised by the test", 1.0, "x",
                    evidence={"signal": catalogue.LOSS_PER_SAMPLE},
                )  # fmt: skip
                raised.append(trainer.witness.testify(alert))
                trainer.fan_out.say(raised[0])

        result = train(config, settings=settings, progress=False, on_step=on_step)
        with open_store(settings.store_url) as store:
            run = store.find_run(result.run_id)
        record = read_record(Path(run.folder) / raised[0].evidence["record"])
        return run, raised[0], record.branch()

    return trained


def turns(entries: list[Entry], first: int) -> tuple[Turn, ...]:
    return tuple(
        Turn(e.step, e.batch, float(e.values[catalogue.LEARNING_RATE]))
        for e in entries
        if e.step >= first
    )


def differing(recorded: list[Entry], again: list[Entry]) -> list[str]:
    by_step = {e.step: e for e in recorded}
    return [
        f"{name} at step {e.step}"
        for e in again
        for name in EXACT
        if e.values[name].tobytes() != by_step[e.step].values[name].tobytes()
    ]


@pytest.mark.usefixtures("one_thread")
def test_a_replay_of_the_record_is_the_record_bit_for_bit(
    alarmed: Any, ways: dict[str, dict[str, Any]], replayed_way: str
) -> None:
    run, alert, entries = alarmed(**ways[replayed_way])
    with open_replay(run, alert, ONSET) as replay:
        # from memory, as the disk has none that young
        assert replay.states == {"before": BEFORE, "at": ALARM + 1}
        again = list(replay.do(Plan("before", turns(entries, BEFORE))))
        assert [e.step for e in again] == list(range(BEFORE, ALARM + 1))
        assert [e.names for e in again] == [e.names for e in entries if e.step >= BEFORE]
        assert differing(entries, again) == []
        # what was sampled in the run is there at every step of a replay
        assert all(catalogue.ACTIVATION_ABSMAX in e.values for e in again)


@pytest.mark.usefixtures("one_thread")
def test_other_data_another_rate_and_fp32_give_other_steps(alarmed: Any) -> None:
    run, alert, entries = alarmed(**{"compute.precision": "bf16", "moe.every": 1})
    recorded = turns(entries, BEFORE)
    with open_replay(run, alert, ONSET) as replay:
        assert "bfloat16" in replay.precision
        same = replay.do(Plan("before", recorded))
        others = {
            "data": Plan("before", tuple(Turn(t.step, t.batch - 9, None) for t in recorded)),
            "rate": Plan("before", tuple(Turn(t.step, t.batch, 0.1) for t in recorded)),
            "fp32": Plan("before", recorded, is_fp32=True),
        }
        for plan in others.values():
            found = replay.do(plan)
            assert not np.array_equal(
                found[-1].values[catalogue.LOSS_PER_SAMPLE],
                same[-1].values[catalogue.LOSS_PER_SAMPLE],
            )
        # asked again after all that, it is the same again: nothing is left of what went before
        assert differing(same, replay.do(Plan("before", recorded))) == []


@pytest.mark.usefixtures("one_thread")
def test_without_training_the_losses_are_those_of_one_state(alarmed: Any) -> None:
    run, alert, entries = alarmed()
    [last] = [t for t in turns(entries, ALARM) if t.step == ALARM]
    with open_replay(run, alert, ONSET) as replay:
        twice = replay.do(Plan("before", (last, last), is_trained=False))
    one, two = (e.values[catalogue.LOSS_PER_SAMPLE] for e in twice)
    assert one.tobytes() == two.tobytes()


@pytest.mark.usefixtures("one_thread")
def test_a_replay_changes_no_file_of_the_run(alarmed: Any) -> None:
    run, alert, entries = alarmed()
    files = {p: p.stat().st_mtime_ns for p in Path(run.folder).rglob("*") if p.is_file()}
    with open_replay(run, alert, ONSET) as replay:
        replay.do(Plan("before", turns(entries, BEFORE)))
        replay.roundings()
    assert {p: p.stat().st_mtime_ns for p in Path(run.folder).rglob("*") if p.is_file()} == files


def test_without_the_states_of_the_incident_a_checkpoint_on_disk_serves(alarmed: Any) -> None:
    run, alert, _ = alarmed(**{"watch.num_scenes": 0, "checkpoint.disk_every_steps": BEFORE})
    with open_replay(run, alert, ONSET) as replay:
        assert replay.states == {"before": BEFORE}
        assert replay.roundings() == []


def test_a_run_whose_folder_is_gone_is_told_on_one_line(alarmed: Any, tmp_path: Path) -> None:
    run, alert, _ = alarmed()
    Path(run.folder).rename(tmp_path / "elsewhere")
    with pytest.raises(MoescopeError, match="is not here"), open_replay(run, alert, ONSET):
        pass


def test_a_memory_that_is_full_is_told_on_one_line_and_other_faults_are_not(alarmed: Any) -> None:
    run, alert, _ = alarmed()
    full = pytest.raises(MoescopeError, match="the memory of cpu does not hold a second training")
    with full, open_replay(run, alert, ONSET, "cpu"):
        torch.empty(2**55)
    with pytest.raises(RuntimeError, match="shape"), open_replay(run, alert, ONSET, "cpu"):
        torch.zeros(3).view(2, 2)
