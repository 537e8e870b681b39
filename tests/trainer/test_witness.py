"""What a run leaves of an alert: before the action, through a rollback, on a full disk, and when
the process is killed.
"""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moescope.monitors.autopsy import record as record_module
from moescope.monitors.autopsy.record import read_record
from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.incidents import incident_of
from moescope.platform.records import Action, Alert
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import train

ALARM = 25


def raised(trainer: Trainer, onset: int = 24, **changes: Any) -> Alert:
    """An alert as the judge gives it, at the step that was just judged."""
    step = trainer.state.step - 1
    segment = trainer.segment.index
    values: dict[str, Any] = {
        "id": f"{trainer.run.id}-{segment}-{step}-by_hand",
        "run_id": trainer.run.id,
        "segment": segment,
        "rule": "by_hand",
        "severity": "critical",
        "onset_step": onset,
        "fired_step": step,
        "value": 9.0,
        "threshold": 3.0,
        "message": "raised by the test",
        "created_s": 1.0,
        "dedupe_key": "x",
        "evidence": {"signal": catalogue.LOSS_PER_SAMPLE},
    }
    return Alert(**(values | changes))


def test_the_record_survives_a_rollback_and_shows_both_branches(
    small: RunConfig, settings: Settings
) -> None:
    told: list[Alert] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == ALARM and not told:
            told.append(trainer.witness.testify(raised(trainer)))
            carry_out(trainer, Action("rollback", "by the test", to_step=20), is_automatic=False)
        elif trainer.state.step == ALARM + 2 and len(told) == 1:
            told.append(trainer.witness.testify(raised(trainer, onset=26)))

    result = train(
        changed(small, {"steps": 30}), settings=settings, progress=False, on_step=on_step
    )
    first, second = (read_record(Path(result.folder) / a.evidence["record"]) for a in told)
    assert [e.step for e in first.entries] == list(range(ALARM))
    # what was abandoned is still there, and not on the second alert's branch
    both = [(e.segment, e.step) for e in second.entries]
    assert both == [(0, s) for s in range(ALARM)] + [(1, s) for s in range(20, ALARM + 2)]
    assert [e.segment for e in second.branch()] == [0] * 20 + [1] * 7
    assert all(e.names for e in second.entries)
    assert all(catalogue.GRAD_LAYER_NORM in e.values for e in second.entries)


def test_an_alert_that_heals_keeps_the_place_of_its_record(
    small: RunConfig, settings: Settings
) -> None:
    seen: list[Alert] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == ALARM:
            alert = raised(trainer)
            written = trainer.witness.testify(alert)
            # the judge names it again without what was written down
            seen.extend([written, trainer.witness.known(alert), trainer.witness.testify(alert)])

    train(changed(small, {"steps": 27}), settings=settings, progress=False, on_step=on_step)
    assert seen[0].evidence["record"].startswith("incidents/")
    assert seen[1].evidence["record"] == seen[0].evidence["record"]
    assert seen[2].evidence["record"] == seen[0].evidence["record"]


def test_the_first_account_is_in_the_store_without_a_replay(
    small: RunConfig, settings: Settings
) -> None:
    told: list[Alert] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == ALARM:
            told.append(trainer.witness.testify(raised(trainer)))
            trainer.fan_out.say(told[0])

    train(changed(small, {"steps": 27}), settings=settings, progress=False, on_step=on_step)
    with open_store(settings.store_url) as store:
        account = incident_of(store, told[0].id)
    assert account is not None
    assert (account.verdict, account.is_replayed) == ("unexamined", False)
    assert account.content["onset"]["step"] == 24


def test_where_memory_is_short_the_record_is_kept_and_the_state_is_not(
    small: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Alert] = []
    said: list[str] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == ALARM:
            short = SimpleNamespace(available=2**20)
            with monkeypatch.context() as patched:
                patched.setattr("moescope.trainer.witness.psutil.virtual_memory", lambda: short)
                patched.setattr(trainer.progress, "say", said.append)
                told.append(trainer.witness.testify(raised(trainer)))

    train(changed(small, {"steps": 27}), settings=settings, progress=False, on_step=on_step)
    assert "record" in told[0].evidence
    assert "scene" not in told[0].evidence
    assert any("the state at the alert is not kept" in line for line in said)


def test_only_the_newest_incidents_keep_their_states(small: RunConfig, settings: Settings) -> None:
    def on_step(trainer: Trainer) -> None:
        if trainer.state.step >= 20 and trainer.state.step % 60 == 20:
            trainer.witness.testify(raised(trainer, onset=trainer.state.step - 2))
            trainer.keeper.flush()

    config = changed(small, {"steps": 150, "watch.num_scenes": 1})
    result = train(config, settings=settings, progress=False, on_step=on_step)
    folders = sorted((Path(result.folder) / "incidents").iterdir(), key=lambda f: f.stat().st_mtime)
    assert len(folders) == 3
    assert all((f / "record").exists() for f in folders)
    assert [(f / "at").exists() for f in folders].count(True) == 1


def test_a_full_disk_costs_the_record_and_one_line_and_training_goes_on(
    small: RunConfig,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    told: list[Alert] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == ALARM:
            with monkeypatch.context() as patched:
                patched.setattr(record_module.np, "savez", full)
                told.append(trainer.witness.testify(raised(trainer)))

    config = changed(small, {"steps": 30})
    result = train(config, settings=settings, progress=True, on_step=on_step)
    assert (result.status, result.step) == ("finished", 30)
    assert "record" not in told[0].evidence
    said = [line for line in _all(capsys).splitlines() if "flight record" in line]
    assert [line for line in said if "is lost" in line and "No space left" in line]
    assert len([line for line in said if "is lost" in line]) == 1


def test_switched_off_nothing_is_kept(small: RunConfig, settings: Settings) -> None:
    told: list[Alert] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == ALARM:
            told.append(trainer.witness.testify(raised(trainer)))

    config = changed(small, {"steps": 27, "watch.recorder_steps": 0})
    result = train(config, settings=settings, progress=False, on_step=on_step)
    assert "record" not in told[0].evidence
    assert not (Path(result.folder) / "incidents").exists()


def test_recorded_steps_and_bytes_are_bounded_as_asked(
    small: RunConfig, settings: Settings
) -> None:
    seen: list[tuple[int, int]] = []

    def on_step(trainer: Trainer) -> None:
        recorder = trainer.witness.recorder
        seen.append((len(recorder), recorder.num_bytes))

    config = changed(small, {"steps": 40, "watch.recorder_steps": 12, "watch.recorder_mib": 0.02})
    train(config, settings=settings, progress=False, on_step=on_step)
    assert max(num for num, _ in seen) <= 12
    assert max(size for _, size in seen) <= 0.02 * 2**20


KILLED = """
import os, signal, sys
from moescope.monitors.autopsy import record
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.run import train
sys.path.insert(0, sys.argv[4])
from test_witness import raised

def on_step(trainer):
    if trainer.state.step == 25:
        if sys.argv[3] == "while":
            # the arrays are written, and the process ends before the record has its name
            record.json.dump = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        alert = trainer.witness.testify(raised(trainer))
        trainer.fan_out.say(alert)
        os.kill(os.getpid(), signal.SIGKILL)

config = RunConfig.model_validate_json(sys.argv[1])
train(config, settings=Settings(home=sys.argv[2], mlflow="off"), run_id="r", progress=False,
      on_step=on_step)
"""


@pytest.mark.parametrize("when", ["while", "after"])
def test_killed_around_the_writing_a_record_is_whole_or_not_there(
    small: RunConfig, tmp_path: Path, run_script: Callable[..., tuple[int, str]], when: str
) -> None:
    home = tmp_path / "home"
    here = str(Path(__file__).parent)
    code, said = run_script(KILLED, small.model_dump_json(), str(home), when, here)
    assert code == -signal.SIGKILL, said
    incidents = home / "runs" / "r" / "incidents"
    records = list(incidents.glob("*/record"))
    assert len(records) == (1 if when == "after" else 0)
    for folder in records:
        assert len(read_record(folder).entries) == 25
    # the run goes on from its checkpoint as ever, and what was half written is cleared away
    settings = Settings(home=home, mlflow="off")
    result = train(changed(small, {"steps": 27}), settings=settings, resume="r", progress=False)
    assert result.status == "finished"
    assert list(incidents.glob("*/.*.partial")) == []
    with open_store(settings.store_url) as store:
        alerts = {a.id: json.dumps(dict(a.evidence)) for a in store.alerts("r")}
    assert all("record" in evidence for evidence in alerts.values())
    assert len(alerts) == len(records)


def _all(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err
