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

ASKED = ("kept", "no-data", "where", "no-record")
"""An alert for each test, all in one run."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("incidents") / "home", mlflow="off")


@pytest.fixture(scope="module")
def alarmed(small: RunConfig, settings: Settings) -> dict[str, Alert]:
    """Alerts that were raised by hand in a healthy run, by the test that asks about them."""
    told: dict[str, Alert] = {}

    def on_step(trainer: Trainer) -> None:
        step = trainer.state.step
        if step >= 47 and len(told) < len(ASKED):
            name = ASKED[len(told)]
            alert = Alert(
                f"{trainer.run.id}-0-{step - 1}-{name}", trainer.run.id, 0, "by_hand", "critical",
                step - 2, step - 1, 9.0, 3.0, "raised by the test", 1.0, name,
                evidence={"signal": catalogue.LOSS_PER_SAMPLE},
            )  # fmt: skip
            told[name] = trainer.witness.testify(alert)
            trainer.fan_out.say(told[name])

    train(changed(small, {"steps": 52}), settings=settings, progress=False, on_step=on_step)
    return told


def run(settings: Settings, *words: str) -> tuple[int, str]:
    """Exit code and what was said; a mistake is raised by the runner as it is."""
    result = CliRunner().invoke(app, ["incident", *words, "--home", str(settings.home)])
    return result.exit_code, result.output


def test_a_false_alarm_is_replayed_kept_and_told(
    alarmed: dict[str, Alert], settings: Settings
) -> None:
    code, said = run(settings, alarmed["kept"].id)
    assert code == 0, said
    places = [said.index(word) for word in ("onset", "alarm", "what moved first", "verdict: ")]
    assert places == sorted(places)
    assert "verdict: no cause found" in said
    with open_store(settings.store_url) as store:
        kept = incident_of(store, alarmed["kept"].id)
    assert kept is not None
    assert (kept.verdict, kept.is_replayed) == ("no_cause", True)
    # asked again it answers with what is kept, as one JSON value
    code, said = run(settings, alarmed["kept"].id, "--json")
    told = json.loads(said)
    assert told["incident"]["verdict"] == "no_cause"
    assert told["incident"]["made_s"] == kept.made_s


def test_without_its_data_the_account_says_why_it_has_no_verdict(
    alarmed: dict[str, Alert], settings: Settings
) -> None:
    with open_store(settings.store_url) as store:
        run_ = store.find_run(alarmed["no-data"].run_id)
        data = {**run_.config["data"], "folder": "/nowhere/clips"}
        store.update_run(run_.id, config={**run_.config, "data": data})
        code, said = run(settings, alarmed["no-data"].id)
        store.update_run(run_.id, config=run_.config)
    assert code == 0, said
    assert "verdict: not examined yet" in said
    assert "It could not be replayed" in said


def test_it_is_replayed_where_one_asks(alarmed: dict[str, Alert], settings: Settings) -> None:
    code, said = run(settings, alarmed["where"].id, "--device", "gpu")
    assert (code, said.count("\n")) == (2, 1)
    assert "there is no device gpu (there are: cpu, cuda)" in said
    code, said = run(settings, alarmed["where"].id, "--device", "cpu")
    assert code == 0, said
    assert "verdict: no cause found" in said


def test_an_alert_without_a_record_is_refused(
    alarmed: dict[str, Alert], settings: Settings
) -> None:
    told = alarmed["no-record"]
    record = Path(settings.home) / "runs" / told.run_id / told.evidence["record"]
    files = [file for file in record.rglob("*") if file.is_file()]
    assert files
    for file in files:
        file.unlink()
    code, said = run(settings, told.id)
    assert code == 2
    assert "there is no flight record" in said
    assert len(said.strip().splitlines()) == 1
