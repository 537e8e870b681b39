"""The command line: a mistake is one line on stderr and exit code 2, and nothing is half done."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from moescope.cli import app
from moescope.platform.commands import answer, commands
from moescope.platform.records import Alert, Run
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.platform.terminal import ago, one_line, plain

Invoke = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def moescope(home: Path) -> Invoke:
    """Runs a command in this process, in a home of its own."""

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, list(words), env={"MOESCOPE_HOME": str(home)})

    return run


@pytest.fixture
def store(home: Path) -> Any:
    settings = Settings(home=home)
    settings.make_home()
    opened = open_store(settings.store_url)
    yield opened
    opened.close()


def a_run(run_id: str = "20260101-000000-aaaaaa", **fields: Any) -> Run:
    now_s = time.time()
    known: dict[str, Any] = {
        "id": run_id,
        "name": "tiny-aaaaaa",
        "project": "default",
        "config": {"recipe": "tiny"},
        "status": "finished",
        "device": "cpu",
        "code_version": "0.1.0",
        "created_s": now_s,
        "heartbeat_s": now_s,
    }
    return Run(**{**known, **fields})


def an_alert(run: Run) -> Alert:
    return Alert(
        id="alert-1",
        run_id=run.id,
        segment=0,
        rule="loss_spike",
        severity="critical",
        onset_step=40,
        fired_step=43,
        value=9.5,
        threshold=4.0,
        message="the loss left its usual range",
        created_s=time.time(),
        dedupe_key="loss_spike",
    )


def said(result: Result) -> str:
    """The one line of a refused command; the checks that every refusal has in common."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["trian"], ["trian", "train"], id="unknown command, with a near name"),
        pytest.param(["train"], ["no recipe given"], id="no recipe"),
        pytest.param(["train", "tinny"], ["tinny", "did you mean tiny"], id="unknown recipe"),
        pytest.param(["train", "tiny"], ["data.folder is empty", "--data"], id="no data"),
        pytest.param(
            ["train", "tiny", "--set", "moe.num_chosn=1"],
            ["moe.num_chosn", "did you mean moe.num_chosen"],
            id="unknown key, with a near name",
        ),
        pytest.param(
            ["train", "tiny", "--set", "moe.num_chosen=99"],
            ["moe.num_chosen is 99", "moe.num_experts is 8", "at most"],
            id="value beyond what another key allows",
        ),
        pytest.param(
            ["train", "tiny", "--set", "optim.learning_rate=-1"],
            ["optim.learning_rate is -1", "greater than 0"],
            id="value out of range",
        ),
        pytest.param(
            ["train", "tiny", "--set", "data.height=99999999"],
            ["data.height is 99999999", "less than or equal to 8192"],
            id="value beyond all use",
        ),
        pytest.param(
            ["train", "tiny-dense", "--set", "moe.num_chosen=1"],
            ["moe.num_chosen has no effect", "moe.num_experts is 0"],
            id="key without effect",
        ),
        pytest.param(
            ["params", "dsmoe-s-e15"], ["dsmoe-s-e15", "did you mean dsmoe_s_e16"], id="no params"
        ),
        pytest.param(
            ["params", "tiny", "--set", "moe.router=expert_choice"],
            ["moe.bias_update_speed is 0.001", "nothing to balance: use 0"],
            id="a combination that makes no sense",
        ),
        pytest.param(["train", "tiny", "--set", "steps"], ["key=value"], id="no value"),
        pytest.param(
            ["train", "tiny", "--steps", "5", "--set", "steps=6"],
            ["steps is set twice"],
            id="twice",
        ),
        pytest.param(["train", "tiny", "--steps", "0"], ["steps is 0", "greater"], id="no steps"),
        pytest.param(["train", "tiny", "--steps", "x"], ["--steps"], id="not a number"),
        pytest.param(["train", "tiny", "--mode", "maybe"], ["policy.mode", "advisory"], id="mode"),
        pytest.param(["train", "tiny", "--bogus"], ["--bogus"], id="unknown option"),
        pytest.param(["train", "--resume", "nobody"], ["nobody"], id="resume of an unknown run"),
        pytest.param(
            ["train", "--resume", "a", "--init-from", "b"], ["--init-from", "--resume"], id="both"
        ),
        pytest.param(["runs", "--json", "note", "a", "b"], ["note", "behind"], id="early option"),
        pytest.param(["runs", "note"], ["RUN"], id="argument missing"),
        pytest.param(["runs", "--store", "oracle://x"], ["oracle"], id="store of an unknown kind"),
        pytest.param(
            ["runs", "--store", "postgresql://nobody@127.0.0.1:9/none"],
            ["127.0.0.1"],
            id="no server",
        ),
        pytest.param(
            ["runs", "--store", "postgresql://ann:hush@h:notaport/d"],
            ["//ann:***@h:notaport/d"],
            id="store address that cannot be read",
        ),
        pytest.param(["rollback", "nobody"], ["nobody"], id="rollback of an unknown run"),
        pytest.param(["rollback", "a", "--to", "-1"], ["--to", "0"], id="no such step"),
        pytest.param(
            ["alerts", "ack", "a", "--as", "gone"],
            ["--as is gone: expected acknowledged, resolved or open"],
            id="no such state",
        ),
        pytest.param(["alerts", "ack", "none"], ["none"], id="unknown alert"),
        pytest.param(["alerts", "silence", "none"], ["none"], id="no alert to silence"),
        pytest.param(["alerts", "silence", "a", "--for", "0h"], ["0h", "30m"], id="no time"),
        pytest.param(["alerts", "silence", "a", "--for", "soon"], ["soon", "30m"], id="no span"),
        pytest.param(["alerts", "silence", "a", "--for", "²h"], ["²h", "30m"], id="raised digit"),
        pytest.param(
            ["alerts", "silence", "a", "--end", "--for", "2h"], ["--end", "--for 2h"], id="both"
        ),
        pytest.param(["alerts", "test-channel"], ["MOESCOPE_NOTIFY"], id="no channel"),
        pytest.param(
            ["alerts", "test-channel", "nosuch://ann:hush@h"], ["nosuch:..."], id="odd channel"
        ),
        pytest.param(["data", "check", "/does/not/exist"], ["/does/not/exist"], id="no folder"),
        pytest.param(["up", "--port", "70000"], ["--port", "65535"], id="no such port"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    moescope: Invoke, words: list[str], expected: list[str]
) -> None:
    line = said(moescope(*words))
    assert [part for part in expected if part not in line] == []


def test_a_refused_training_leaves_no_run_behind(moescope: Invoke, tmp_path: Path) -> None:
    said(moescope("train", "tiny", "--data", str(tmp_path / "nowhere")))
    assert json.loads(moescope("runs", "--json").stdout) == []


def test_a_home_that_cannot_be_written_is_named(moescope: Invoke, tmp_path: Path) -> None:
    # a file in the way stops every user, the root of a container too
    (tmp_path / "file").write_text("")
    line = said(moescope("runs", "--home", str(tmp_path / "file" / "home")))
    assert "cannot be written" in line
    assert "--home" in line


def test_a_wrong_environment_variable_is_named(home: Path) -> None:
    result = CliRunner().invoke(app, ["runs"], env={"MOESCOPE_MLFLOW_PORT": "many"})
    assert "MOESCOPE_MLFLOW_PORT is 'many'" in said(result)


def test_on_and_off_are_words_and_not_truths(moescope: Invoke) -> None:
    # the mode is accepted, so that the next fault is the one that is told
    assert "data.folder" in said(moescope("train", "tiny", "--set", "policy.mode=off"))


def test_without_a_command_the_help_is_shown(moescope: Invoke) -> None:
    result = moescope()
    assert result.exit_code == 0
    assert "Commands:" in result.stdout
    assert "rollback" in result.stdout


def test_an_empty_store_is_told_in_words_and_in_json(moescope: Invoke) -> None:
    assert "no runs yet" in moescope("runs").stdout
    assert "no open alerts" in moescope("alerts").stdout
    assert json.loads(moescope("alerts", "--json").stdout) == []


@pytest.mark.parametrize("name", ["dsmoe_s_e16", "dsmoe-s-e16"])
def test_parameters_are_told_with_their_parts(moescope: Invoke, name: str) -> None:
    told = json.loads(moescope("params", name, "--json").stdout)
    # facts: model.md section 1
    assert (told["active"], told["total"]) == (34_939_040, 96_870_560)
    assert sum(told["parts"].values()) == told["total"]
    lines = moescope("params", name).stdout.splitlines()
    assert any("active" in line and "34,939,040" in line and "33.32" in line for line in lines)


def test_parameters_follow_a_changed_key(moescope: Invoke) -> None:
    told = json.loads(moescope("params", "dsmoe-s-e16", "--set", "moe.every=1", "--json").stdout)
    # the ablation without interleaving: facts: model.md section 1
    assert (told["active"], told["total"]) == (42_332_960, 166_196_000)


def test_a_run_is_listed_noted_tagged_archived_and_deleted(
    moescope: Invoke, store: Store, home: Path
) -> None:
    folder = home / "runs" / a_run().id
    folder.mkdir(parents=True)
    store.add_run(a_run(folder=str(folder)))
    assert "tiny-aaaaaa" in moescope("runs").stdout
    assert moescope("runs", "note", "tiny-aaaaaa", "a [bold] note").exit_code == 0
    assert moescope("runs", "tag", "20260101", "good", "first").exit_code == 0
    assert moescope("runs", "tag", "20260101", "first", "--remove").exit_code == 0
    # square brackets would be markup to the terminal library, were they not escaped
    assert "a [bold] note" in moescope("runs").stdout
    (listed,) = json.loads(moescope("runs", "list", "--json").stdout)
    assert (listed["note"], listed["tags"]) == ("a [bold] note", ["good"])
    moescope("runs", "archive", "tiny-aaaaaa")
    assert json.loads(moescope("runs", "--json").stdout) == []
    assert len(json.loads(moescope("runs", "--all", "--json").stdout)) == 1
    assert "--yes" in said(moescope("runs", "delete", "tiny-aaaaaa"))
    assert moescope("runs", "delete", "tiny-aaaaaa", "--yes").exit_code == 0
    assert not folder.exists()
    assert json.loads(moescope("runs", "--all", "--json").stdout) == []


def test_a_name_of_several_runs_is_not_deleted_by_name(moescope: Invoke, store: Store) -> None:
    ids = ["20260101-000000-aaaaaa", "20260102-000000-bbbbbb"]
    for run_id in ids:
        store.add_run(a_run(run_id))
    line = said(moescope("runs", "delete", "tiny-aaaaaa", "--yes"))
    assert all(run_id in line for run_id in ids)
    assert len(store.runs()) == 2
    assert moescope("runs", "delete", ids[0], "--yes").exit_code == 0
    assert [run.id for run in store.runs()] == ids[1:]


def test_a_run_with_a_damaged_configuration_is_listed_but_not_gone_on_with(
    moescope: Invoke, store: Store
) -> None:
    store.add_run(a_run())
    store.add_run(a_run("20260102-000000-bbbbbb", name="whole"))
    store.put_alert(an_alert(a_run()))
    spoil = "UPDATE runs SET config = '{broken' WHERE name = 'tiny-aaaaaa'"
    store.database.write(lambda c: c.exec_driver_sql(spoil))
    assert "damaged" in moescope("runs").stdout
    assert [run["config"] for run in json.loads(moescope("runs", "--json").stdout)] == [
        {"recipe": "tiny"},
        {},
    ]
    assert "loss_spike" in moescope("alerts").stdout
    for words in (["train", "--resume", "tiny-aaaaaa"], ["sample", "tiny-aaaaaa"]):
        line = said(moescope(*words))
        assert "stored configuration of tiny-aaaaaa cannot be read" in line
    assert moescope("runs", "delete", "tiny-aaaaaa", "--yes").exit_code == 0


def test_a_living_run_is_not_deleted(moescope: Invoke, store: Store) -> None:
    store.add_run(a_run(status="running"))
    assert "stop it first" in said(moescope("runs", "delete", "tiny-aaaaaa", "--yes"))


def test_deleting_a_run_leaves_folders_outside_home_alone(
    moescope: Invoke, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    store.add_run(a_run(folder=str(tmp_path / "elsewhere")))
    assert moescope("runs", "delete", "tiny-aaaaaa", "--yes").exit_code == 0
    assert (tmp_path / "elsewhere").exists()


def test_a_silent_run_is_shown_as_silent(moescope: Invoke, store: Store) -> None:
    store.add_run(a_run(status="running", heartbeat_s=time.time() - 7200))
    assert "silent for 2 h" in moescope("runs").stdout


def test_an_alert_is_listed_and_acknowledged(moescope: Invoke, store: Store) -> None:
    store.add_run(a_run())
    store.put_alert(an_alert(a_run()))
    assert "loss_spike" in moescope("alerts").stdout
    assert moescope("alerts", "ack", "alert-1").exit_code == 0
    assert json.loads(moescope("alerts", "--json").stdout) == []
    (alert,) = json.loads(moescope("alerts", "list", "--all", "--json").stdout)
    assert alert["state"] == "acknowledged"
    assert alert["changed_by"]


def test_a_rollback_is_asked_of_a_running_run_only(moescope: Invoke, store: Store) -> None:
    store.add_run(a_run())
    line = said(moescope("rollback", "tiny-aaaaaa"))
    assert "is finished" in line
    assert "--resume" in line
    assert commands(store, a_run().id) == []


def test_a_rollback_is_written_as_a_command(moescope: Invoke, store: Store) -> None:
    store.add_run(a_run(status="running"))
    asked = json.loads(moescope("rollback", "tiny-aaaaaa", "--to", "30", "--json").stdout)
    assert (asked["kind"], asked["args"], asked["state"]) == ("rollback", {"to_step": 30}, "asked")
    (kept,) = commands(store, a_run().id)
    assert kept.id == asked["id"]


def test_waiting_for_a_refusal_exits_with_1_and_tells_it(
    moescope: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_run(a_run(status="running"))

    def refuse(_: float) -> None:
        # the run's part, at the moment when the command would sleep
        (command,) = commands(store, a_run().id)
        answer(store, command.id, "refused", "there is no checkpoint of step 30", time.time())

    monkeypatch.setattr(time, "sleep", refuse)
    result = moescope("rollback", "tiny-aaaaaa", "--to", "30", "--wait")
    assert result.exit_code == 1
    assert "refused: there is no checkpoint of step 30" in result.stdout


def test_a_folder_of_other_files_is_no_folder_of_clips(moescope: Invoke, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "notes.txt").write_text("nothing to see")
    line = said(moescope("data", "check", str(tmp_path / "clips")))
    assert "no clip in it is usable" in line


def test_a_file_in_the_way_of_clips_is_told_on_one_line(moescope: Invoke, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = said(moescope("data", "make-clips", str(tmp_path / "file")))
    assert "cannot write clips" in line


def test_clips_are_made_and_found_usable(moescope: Invoke, tmp_path: Path) -> None:
    folder = str(tmp_path / "clips")
    assert moescope("data", "make-clips", folder, "--num-clips", "2").exit_code == 0
    found = json.loads(moescope("data", "check", folder, "--json").stdout)
    assert (found["num_usable"], found["num_with_sound"], found["passed_over"]) == (2, 2, [])
    assert (found["num_pictures"], found["num_classes"]) == (0, 1)


def test_the_classes_of_a_folder_are_counted(moescope: Invoke, tmp_path: Path) -> None:
    folder = str(tmp_path / "clips")
    options = ("--num-clips", "12", "--by-class", "--pictures")
    made = moescope("data", "make-clips", folder, *options)
    assert (made.exit_code, one_line(made.stdout)) == (0, f"12 pictures in {folder}")
    found = json.loads(moescope("data", "check", folder, "--json").stdout)
    assert (found["num_pictures"], found["duration_s"]) == (12, 0.0)
    # twelve clips of seed 0 have four of the six skies
    assert found["classes"] == {"dawn": 0, "glow": 1, "haze": 2, "noon": 3}
    assert found["num_classes"] == 4
    told = moescope("data", "check", folder).stdout.splitlines()[0]
    assert told.startswith("12 usable clips, 12 of them pictures, 0 s, 0 with sound")
    assert told.endswith("12 with a caption, 4 classes")


def test_the_store_is_upgraded_and_copied(moescope: Invoke, store: Store, tmp_path: Path) -> None:
    store.add_run(a_run())
    versions = json.loads(moescope("db", "upgrade", "--json").stdout)
    assert versions["to"] == versions["from"]
    copy = tmp_path / "copy.db"
    assert moescope("db", "backup", str(copy)).exit_code == 0
    listed = json.loads(moescope("runs", "--store", f"sqlite:///{copy}", "--json").stdout)
    assert [run["id"] for run in listed] == [a_run().id]


def test_records_and_numbers_become_plain_json() -> None:
    found = plain({"run": a_run(tags=("a",)), "array": np.float32([1, np.nan]), "path": Path("x")})
    assert found["run"]["tags"] == ["a"]
    assert (found["array"], found["path"]) == ([1.0, "nan"], "x")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (2e5, "2 d")]
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, expected: str) -> None:
    assert ago(0.0, seconds) == expected


def test_a_message_of_several_lines_is_told_on_one() -> None:
    assert one_line("a\n  b\n\nc") == "a b c"


def test_an_alert_is_silenced_for_a_time_and_a_failed_delivery_is_told(
    moescope: Invoke, store: Store
) -> None:
    store.add_run(a_run())
    store.put_alert(an_alert(a_run()))
    store.mark_delivered("alert-1", time.time(), "JSON: no route")
    assert "nobody was told of alert-1: JSON: no route" in moescope("alerts").stdout
    before_s = time.time()
    assert moescope("alerts", "silence", "alert-1", "--for", "30m").stdout == (
        "alert-1: silenced for 30 min\n"
    )
    found = store.alert("alert-1")
    assert found.silenced_until_s == pytest.approx(before_s + 1800, abs=60)
    assert "no open alerts" in moescope("alerts").stdout
    store.set_alert_state("alert-1", "silenced", "ann", before_s - 60, before_s - 1)
    assert "alert-1" in moescope("alerts").stdout
    assert moescope("alerts", "ack", "alert-1", "--as", "resolved").exit_code == 0
    assert "nothing to silence" in said(moescope("alerts", "silence", "alert-1"))
    assert "alert-1 is resolved already" in said(moescope("alerts", "ack", "alert-1"))
    assert store.alert("alert-1").state == "resolved"
    assert moescope("alerts", "ack", "alert-1", "--as", "open").exit_code == 0


def test_a_silence_for_ever_is_ended_by_a_person(moescope: Invoke, store: Store) -> None:
    store.add_run(a_run())
    store.put_alert(an_alert(a_run()))
    assert moescope("alerts", "silence", "alert-1", "--for", "ever").stdout == (
        "alert-1: silenced until somebody ends it\n"
    )
    healed = {"state": "resolved", "changed_s": time.time() + 1}
    store.put_alert(replace(store.alert("alert-1"), **healed))
    rule, run = an_alert(a_run()).rule, a_run().name
    line = f"{rule} of {run} is silenced until somebody ends it"
    assert line in moescope("alerts").stdout
    ended = moescope("alerts", "silence", "alert-1", "--end")
    assert ended.stdout == f"{rule}: not silenced any more\n"
    assert line not in moescope("alerts").stdout
    assert store.alert("alert-1").state == "resolved"
    again = moescope("alerts", "silence", "alert-1", "--end")
    assert (again.exit_code, again.stdout) == (0, f"{rule}: was not silenced\n")


def test_a_silence_says_how_long_its_rule_is_silenced(moescope: Invoke, store: Store) -> None:
    store.add_run(a_run())
    for name in ("alert-1", "alert-2"):
        store.put_alert(replace(an_alert(a_run()), id=name, dedupe_key=name))
    moescope("alerts", "silence", "alert-2", "--for", "ever")
    assert moescope("alerts", "silence", "alert-1", "--for", "1h").stdout == (
        "alert-1: silenced until somebody ends it\n"
    )
    moescope("alerts", "silence", "alert-1", "--end")
    assert moescope("alerts", "silence", "alert-1").stdout == "alert-1: silenced for 1 h\n"
