"""A report of each kind of study: a page, its numbers, its table, and its row in the store."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from moescope.platform import reports, trials
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Attempt, Study
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.platform.tables import attempts
from moescope.platform.upserts import columns_of
from moescope.studies.report.frontier import WATCHED
from moescope.studies.report.strict import strict
from moescope.studies.report.to_mlflow import log_report
from moescope.studies.report.words import power, short
from moescope.studies.report.write import FILES, make_report, write_files
from moescope.studies.report_shell import fit_study, report, say_comparison, say_law, told_law

NOW_S = 1_790_000_000.0
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def local(tmp_path: Path) -> Any:
    with open_store(f"sqlite:///{tmp_path / 'own.db'}") as opened:
        yield opened


def made(store: Store, settings: Settings, study: Any) -> tuple[str, dict[str, Any], pd.DataFrame]:
    study.put(store)
    folder = Path(make_report(store, settings, study.name, NOW_S).folder)
    told = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    return (folder / "report.html").read_text(), told, pd.read_parquet(folder / "trials.parquet")


@pytest.mark.parametrize("kind", ["ladder", "isoflop", "grid", "ablation", "sensitivity", "seeds"])
def test_each_kind_gives_a_report(
    local: Store, settings: Settings, synthetic: Callable[..., Any], kind: str
) -> None:
    keys = {"sizes": 3, "lengths": 2} if kind == "ladder" else {}
    study = synthetic(kind, **keys)
    if kind == "isoflop":
        study.rows = study.rows[:14]
    page, told, table = made(local, settings, study)
    assert told["kind"] == kind
    assert told["headline"]
    # every trial once, whether it counts or not
    assert [row["key"] for row in told["trials"]] == [row.key for row in study.rows]
    assert table["key"].tolist() == [row.key for row in study.rows]
    assert page.count("Plotly.react(") == 1
    for row in study.rows:
        assert row.key in page
    assert "torch" in told["versions"]


def test_the_newest_report_is_kept(
    store: Store, settings: Settings, synthetic: Callable[..., Any]
) -> None:
    study = synthetic("ablation").put(store)
    assert reports.newest(store, study.name) is None
    first = make_report(store, settings, study.name, NOW_S)
    kept = reports.newest(store, study.name)
    assert kept is not None
    assert kept.content["numbers"] == first.content["numbers"]
    assert list(kept.content["figures"]) == ["ablations"]
    make_report(store, settings, study.name, NOW_S + 60)
    kept = reports.newest(store, study.name)
    assert kept is not None
    assert kept.made_s == NOW_S + 60


def test_an_unknown_study_is_one_line(store: Store, settings: Settings) -> None:
    with pytest.raises(MoescopeError, match="unknown study nothing"):
        make_report(store, settings, "nothing", NOW_S)


def test_a_study_without_trials_says_that_there_is_no_answer(
    local: Store, settings: Settings, synthetic: Callable[..., Any]
) -> None:
    study = synthetic("seeds")
    study.rows.clear()
    page, told, table = made(local, settings, study)
    assert "There is no answer yet" in told["headline"]
    assert told["headline"] in page
    assert len(table) == 0


def test_what_does_not_count_is_told_with_its_reason(
    local: Store, settings: Settings, synthetic: Callable[..., Any]
) -> None:
    study = synthetic("seeds")
    study.add({"seed": 7}, 9.0, verdict="unstable", alerts=["loss_spike"])
    study.add({"seed": 8}, None, state="failed", reason="ended by signal 9")
    study.add({"seed": 9}, None, state="waiting")
    page, told, _ = made(local, settings, study)
    reasons = {row["label"]: row["reason"] for row in told["excluded"]}
    assert list(reasons.values()) == [
        "unstable: loss_spike", "failed: ended by signal 9", "not done: it is waiting",
    ]  # fmt: skip
    for label, reason in reasons.items():
        assert label in page
        assert reason in page
    assert told["num_counted"] == 6
    assert told["answers"]["seeds"]["spread"]["num"] == 6


def test_nothing_from_outside_becomes_markup(
    local: Store, settings: Settings, synthetic: Callable[..., Any]
) -> None:
    study = synthetic("sensitivity")
    study.spec["question"] = EVIL
    study.rows.clear()
    for rate in (1e-3, 1e-2):
        study.add({"optim.learning_rate": rate, "moe.expert": EVIL}, 1.0, label=EVIL)
    study.add(
        {"optim.learning_rate": 1e-1, "moe.expert": "x"},
        None,
        state="failed",
        reason=EVIL,
        label=EVIL,
    )
    study.put(local)
    tail = Attempt(study.name, study.rows[-1].key, 1, "w", "", 1.0, 2.0, EVIL, f"tail {EVIL}")
    local.database.write(lambda c: c.execute(attempts.insert().values(columns_of(tail))))
    page, _, _ = made(local, settings, study)
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "tail &lt;/script&gt;" in page
    # plotly.js, and the figures with what draws them
    assert len(re.findall(r"</script>", page[page.index("</main>") :])) == 2


def test_the_page_needs_nothing_else(
    local: Store, settings: Settings, synthetic: Callable[..., Any]
) -> None:
    page, _, _ = made(local, settings, synthetic("seeds"))
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=", own)
    assert "@import" not in own
    assert 'name="viewport"' in own
    assert "prefers-color-scheme: dark" in own


def test_what_moved_before_the_loss_is_read_from_the_runs(
    local: Store, settings: Settings, synthetic: Callable[..., Any],
    planted_divergence: Callable[..., Any],
) -> None:  # fmt: skip
    study = synthetic("seeds")
    study.rows.clear()
    study.add({"seed": 0}, 3.0, verdict="unstable", story=planted_divergence(60))
    study.add({"seed": 1}, 1.3)
    page, told, _ = made(local, settings, study)
    trial, other = told["answers"]["frontier"]["trials"]
    # planted: MaxVio 22, the clamped share 12, the gradient 5 steps before the loss
    assert trial["loss_grew_at"] == pytest.approx(60, abs=3)
    assert trial["grew_at"]["deadlock (MaxVio)"] == pytest.approx(38 + 4, abs=3)
    assert trial["grew_at"]["clamped share"] == pytest.approx(48, abs=2)
    assert trial["grew_at"]["gradient norm"] == pytest.approx(55, abs=3)
    assert (other["loss_grew_at"], other["grew_at"]) == (None, {})
    assert "What moved before the loss" in page


def test_signals_that_are_watched_have_words_of_their_own() -> None:
    words = [watched.word for watched in WATCHED]
    assert len(set(words)) == len(words)


def test_numbers_that_json_has_not_become_null() -> None:
    assert strict({"a": float("nan"), "b": (float("inf"), 1)}) == {"a": None, "b": [None, 1]}


def test_a_coordinate_of_several_types_goes_into_parquet(
    local: Store, settings: Settings, synthetic: Callable[..., Any]
) -> None:
    study = synthetic("grid")
    study.rows.clear()
    for place, value in enumerate((1, "two", 3.5, True)):
        study.add({"moe.num_experts": value, "seed": 0}, 1.0 + place)
    _, _, table = made(local, settings, study)
    assert table["at.moe.num_experts"].tolist() == ["1", "two", "3.5", "True"]


def test_a_file_that_cannot_be_written_leaves_the_old_ones(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "report"
    write_files(
        folder, {"a": lambda path: path.write_text("old"), "b": lambda path: path.write_text("old")}
    )

    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(MoescopeError, match="cannot be written \\(No space left"):
        write_files(folder, {"a": lambda path: path.write_text("new"), "b": full})
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"a": "old", "b": "old"}
    assert [entry.name for entry in folder.parent.iterdir()] == ["report"]


def test_mlflow_has_one_run_for_the_reports_of_a_study(
    local: Store, synthetic: Callable[..., Any], empty_mlflow: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    url = f"sqlite:///{tmp_path / 'mlflow.db'}"
    settings = Settings(home=tmp_path / "home", mlflow=url)
    study = synthetic("seeds").put(local)
    lines: list[str] = []
    for now_s in (NOW_S, NOW_S + 60):
        make_report(local, settings, study.name, now_s, say=lines.append)
    assert lines == []
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.study = '{study.name}'")
    assert run.info.run_name == f"study {study.name}"
    assert run.info.status == "FINISHED"
    # as files: MLflow would show a progress bar while it fetches them
    place = Path(run.info.artifact_uri.removeprefix("file://"))
    assert sorted(file.name for file in place.iterdir()) == sorted(FILES)
    assert json.loads((place / "report.json").read_text())["made_s"] == NOW_S + 60


def test_a_report_is_made_whatever_mlflow_does(
    local: Store, synthetic: Callable[..., Any], tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", mlflow="off")
    lines: list[str] = []
    study = synthetic("seeds").put(local)
    made_ = make_report(local, settings, study.name, NOW_S, say=lines.append)
    assert lines == ["MLflow is off: the report is in its folder alone"]
    assert (Path(made_.folder) / "report.html").is_file()
    away = Settings(home=tmp_path / "home", mlflow="http://127.0.0.1:9")
    said = log_report(away, study.name, "", [])
    assert said.startswith("MLflow did not take the report: ")
    assert "\n" not in said


def test_the_command_says_the_answer_and_where_it_lies(
    tmp_path: Path, synthetic: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOESCOPE_MLFLOW", "off")
    url = f"sqlite:///{tmp_path / 'own.db'}"
    with open_store(url) as opened:
        synthetic("seeds").put(opened)
    app = typer.Typer()
    app.command()(report)
    options = ["seeds", "--store", url, "--home", str(tmp_path / "home")]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 0
    assert said.stdout.startswith("Over 6 seeds the loss is 1.2025")
    assert said.stdout.rstrip().endswith("home/studies/seeds/report/trials.parquet")
    told = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert told["answers"]["seeds"]["spread"]["num"] == 6
    assert told["files"] == list(FILES)


def test_a_law_is_fitted_to_a_studys_own_trials(
    local: Store, synthetic: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic("ladder").put(local)
    laws = fit_study(local, "ladder", ["compute", "chinchilla"], num_bootstraps=20, seed=0)
    told = [told_law(law, 1e18 if law.form.name == "chinchilla" else None) for law in laws]
    say_comparison(told)
    for one in told:
        say_law(one)
    said = capsys.readouterr().out
    assert [one["form"] for one in told] == ["chinchilla", "compute"]
    for words in ("held-out error", "the best size is", "30 runs lie", "it may be asked beyond"):
        assert words in said


def test_a_study_of_which_nothing_counts_has_no_law(local: Store) -> None:
    trials.ask(local, Study("empty", {}, "running", 1.0), [])
    with pytest.raises(MoescopeError, match="no trial of study empty counts yet"):
        fit_study(local, "empty", [], num_bootstraps=20, seed=0)
    with pytest.raises(MoescopeError, match="unknown study emty; did you mean empty"):
        fit_study(local, "emty", [], num_bootstraps=20, seed=0)


def test_numbers_are_said_in_three_figures() -> None:
    values = (0.0, 999.9, 1234.0, 1.6e6, 999_999.0, 2.5e9, 3.0e15, 0.003, float("nan"))
    assert [short(value) for value in values] == [
        "0", "1k", "1.23k", "1.6M", "1M", "2.5B", "3·10¹⁵", "0.003", "-",
    ]  # fmt: skip
    assert [power(value) for value in (1e15, 9.999e5, 2.5e-5)] == ["10¹⁵", "10⁶", "2.5·10⁻⁵"]


def test_making_a_report_loads_no_torch() -> None:
    import subprocess

    code = "import sys, moescope.studies.report.write as w, moescope.studies.report_shell; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
