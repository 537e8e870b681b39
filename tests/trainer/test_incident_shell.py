"""`moescope incident` tells the story, keeps its answer, and says on one line what it cannot."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moescope.cli import app
from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.incidents import incident_of
from moescope.platform.records import Alert
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.run import train


@pytest.fixture
def alarmed(small: RunConfig, settings: Settings) -> Alert:
    """The alert that was raised by hand in a healthy run of 60 steps."""
    told: list[Alert] = []

    def on_step(trainer: Trainer) -> None:
        if trainer.state.step == 50 and not told:
            alert = Alert(
                f"{trainer.run.id}-0-49-by_hand", trainer.run.id, 0, "by_hand", "critical", 48, 49,
                9.0, 3.0, "raised by the test", 1.0, "x",
                evidence={"signal": catalogue.LOSS_PER_SAMPLE},
            )  # fmt: skip
            told.append(trainer.witness.testify(alert))
            trainer.fan_out.say(told[0])

    train(changed(small, {"steps": 52}), settings=settings, progress=False, on_step=on_step)
    return told[0]


def run(settings: Settings, *words: str) -> tuple[int, str]:
    """Exit code and what was said; a mistake is raised by the runner as it is."""
    result = CliRunner().invoke(app, ["incident", *words, "--home", str(settings.home)])
    return result.exit_code, result.output


def test_a_false_alarm_is_replayed_kept_and_told(alarmed: Alert, settings: Settings) -> None:
    code, said = run(settings, alarmed.id)
    assert code == 0, said
    places = [said.index(word) for word in ("onset", "alarm", "what moved first", "verdict: ")]
    assert places == sorted(places)
    assert "verdict: no cause found" in said
    with open_store(settings.store_url) as store:
        kept = incident_of(store, alarmed.id)
    assert kept is not None
    assert (kept.verdict, kept.is_replayed) == ("no_cause", True)
    # asked again it answers with what is kept, as one JSON value
    code, said = run(settings, alarmed.id, "--json")
    told = json.loads(said)
    assert told["incident"]["verdict"] == "no_cause"
    assert told["incident"]["made_s"] == kept.made_s


def test_without_its_data_the_account_says_why_it_has_no_verdict(
    alarmed: Alert, settings: Settings
) -> None:
    with open_store(settings.store_url) as store:
        run_ = store.find_run(alarmed.run_id)
        data = {**run_.config["data"], "folder": "/nowhere/clips"}
        store.update_run(run_.id, config={**run_.config, "data": data})
    code, said = run(settings, alarmed.id)
    assert code == 0, said
    assert "verdict: not examined yet" in said
    assert "It could not be replayed" in said


def test_it_is_replayed_where_one_asks(alarmed: Alert, settings: Settings) -> None:
    code, said = run(settings, alarmed.id, "--device", "gpu")
    assert (code, said.count("\n")) == (2, 1)
    assert "there is no device gpu (there are: cpu, cuda)" in said
    code, said = run(settings, alarmed.id, "--device", "cpu")
    assert code == 0, said
    assert "verdict: no cause found" in said


def test_an_alert_without_a_record_is_refused(alarmed: Alert, settings: Settings) -> None:
    for file in (Path(settings.home) / "runs").glob("*/incidents/*/record/*"):
        file.unlink()
    code, said = run(settings, alarmed.id)
    assert code == 2
    assert "there is no flight record" in said
    assert len(said.strip().splitlines()) == 1
