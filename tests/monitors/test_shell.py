"""`moescope rules`: rules are shown, changed as a whole, switched, and tried over a stored run."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from moescope.cli import app
from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.rule_table import RuleTable, write_record
from moescope.platform import catalogue
from moescope.platform.commands import commands
from moescope.platform.records import Frame, Run, Segment
from moescope.platform.rule_versions import RuleChange, change, newest
from moescope.platform.store import Store, open_store

JUMP = """
name: total_jumps
signal: loss/total
detector: spike
threshold: 6
severity: warning
delay_p99_steps: 1
message: the loss jumps
"""
Invoke = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path, put_store: Callable[[Path], str]) -> Iterator[Store]:
    opened = open_store(put_store(home / "store.db"))
    yield opened
    opened.close()


@pytest.fixture
def rules(home: Path) -> Invoke:
    def run(*words: str, text: str = "") -> Result:
        env = {"MOESCOPE_HOME": str(home)}
        return CliRunner().invoke(app, ["rules", *words], input=text, env=env)

    return run


def a_run(name: str, status: str = "running", folder: Path | None = None) -> Run:
    where = str(folder) if folder else ""
    return Run(name, name, "p", {}, status, "cpu", "0", 0.0, time.time(), folder=where)  # type: ignore[arg-type]


def said(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_the_list_says_where_each_rule_comes_from(rules: Invoke, store: Store) -> None:
    assert rules("set", "-", text=JUMP).exit_code == 0
    found = {row["name"]: row for row in json.loads(rules("--json").stdout)}
    assert found["total_jumps"]["source"] == "all runs"
    assert found["total_jumps"]["version"]["version"] == 1
    assert found["loss_spike"]["source"] == "default"
    assert yaml.safe_load(found["loss_spike"]["yaml"])["threshold"] == 3.5
    assert "total_jumps" in rules("list").stdout


def test_what_show_prints_is_what_set_takes(rules: Invoke, store: Store, tmp_path: Path) -> None:
    text = rules("show", "loss_spike").stdout
    file = tmp_path / "spike.yaml"
    file.write_text(text.replace("threshold: 3.5", "threshold: 5.5"))
    assert "rule loss_spike of all runs: version 1" in rules("set", str(file)).stdout
    assert json.loads(rules("show", "loss_spike", "--json").stdout)["rule"]["threshold"] == 5.5
    assert rules("remove", "loss_spike").exit_code == 0
    assert rules("show", "loss_spike").stdout == text
    rows = json.loads(rules("history", "loss_spike", "--json").stdout)
    assert [(row["version"], bool(row["body"])) for row in rows] == [(2, False), (1, True)]
    assert "taken away" in rules("history", "loss_spike").stdout
    assert "never changed" in rules("history", "odd_batch").stdout


def test_a_rule_is_switched_off_and_on_again(rules: Invoke, store: Store) -> None:
    assert "version 1, off" in rules("off", "loss_spike").stdout
    assert "off already" in rules("off", "loss_spike").stdout
    state = {row["name"]: row["state"] for row in json.loads(rules("--json").stdout)}
    assert state["loss_spike"] == "off"
    assert rules("on", "loss_spike").exit_code == 0
    assert json.loads(rules("show", "loss_spike", "--json").stdout)["state"] == "on"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(JUMP.replace("loss/total", "loss/totl"), "did you mean loss/total", id="name"),
        pytest.param(JUMP + "parameters: {windw: 3}\n", "did you mean window", id="parameter"),
        pytest.param(JUMP + "parameters: {window: 1}\n", "2 to 100000", id="value"),
        pytest.param(JUMP + "treshold: 3\n", "did you mean threshold", id="key"),
        pytest.param(JUMP + "silenced_by: [nobody]\n", "nobody, which is no rule", id="silence"),
        pytest.param(JUMP.replace("threshold: 6\n", ""), "threshold", id="missing"),
        pytest.param("- 3", "holds no rule", id="no-rule"),
        pytest.param("", "holds no rule", id="empty"),
        pytest.param("a: [", "no YAML", id="no-yaml"),
        pytest.param("1: 2", "rule ?", id="odd-key"),
        pytest.param("[" * 5000, "nested too deeply", id="deep"),
        pytest.param("a: &a [x, x]\nb: [*a, *a]\n", "refers to another part", id="bomb"),
        pytest.param(JUMP + "threshold: 7\n", "threshold is given twice", id="twice"),
        pytest.param(JUMP + 'advice: "\\ud800"\n', "half a character", id="surrogate"),
        pytest.param(JUMP + "advice: 2026-99-99\n", "no YAML", id="no-date"),
    ],
)
def test_a_rule_that_cannot_be_is_one_line_and_nothing_is_stored(
    rules: Invoke, store: Store, text: str, expected: str
) -> None:
    assert expected in said(rules("set", "-", text=text))
    assert newest(store) == []


def test_a_good_rule_beside_a_bad_one_is_not_stored(rules: Invoke, store: Store) -> None:
    rows = [yaml.safe_load(JUMP), yaml.safe_load(JUMP) | {"name": "bad", "threshold": "high"}]
    assert "rule bad: threshold is 'high'" in said(rules("set", "-", text=yaml.safe_dump(rows)))
    assert newest(store) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["show", "loss_spyke"], "did you mean loss_spike"),
        (["off", "loss_spyke"], "did you mean loss_spike"),
        (["history", "loss_spyke"], "did you mean loss_spike"),
        (["remove", "loss_spike"], "moescope rules off loss_spike"),
        (["set", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--run", "nobody"], "unknown run nobody"),
        (["--json", "show", "loss_spike"], "options of `show` go behind it"),
        (["test", "current", "nobody"], "unknown run nobody"),
    ],
)
def test_a_mistake_is_one_line(
    rules: Invoke, store: Store, words: list[str], expected: str
) -> None:
    assert expected in said(rules(*words))


def test_a_rule_that_others_name_cannot_be_taken_from_them(rules: Invoke, store: Store) -> None:
    other = JUMP.replace("total_jumps", "second") + "silenced_by: [total_jumps]\n"
    assert rules("set", "-", text=JUMP).exit_code == 0
    assert rules("set", "-", text=other).exit_code == 0
    assert "rule second: silenced_by names total_jumps" in said(rules("remove", "total_jumps"))
    assert rules("off", "total_jumps").exit_code == 0


def test_runs_that_train_are_asked_and_others_are_not(rules: Invoke, store: Store) -> None:
    for run in (a_run("one"), a_run("two"), a_run("past", "finished")):
        store.add_run(run)
    out = rules("set", "-", "--by", "ann", text=JUMP).stdout
    assert "run one was asked" in out
    assert "past" not in out
    (command,) = commands(store, "one")
    assert (command.kind, command.asked_by) == ("set_rules", "ann")
    assert command.args["versions"][0]["name"] == "total_jumps"
    assert rules("off", "total_jumps", "--run", "two").exit_code == 0
    assert [len(commands(store, name)) for name in ("one", "two", "past")] == [1, 2, 0]
    of_two = json.loads(rules("show", "total_jumps", "--run", "two", "--json").stdout)
    assert (of_two["source"], of_two["state"]) == ("run", "off")


def test_a_run_that_beats_while_its_rule_is_changed_is_asked_too(
    rules: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_run(a_run("one"))
    runs, beats = Store.runs, iter(range(1, 100))

    def after_a_beat(self: Store, include_archived: bool = False) -> list[Run]:
        self.update_run("one", heartbeat_s=time.time() + next(beats))
        return runs(self, include_archived)

    monkeypatch.setattr(Store, "runs", after_a_beat)
    assert rules("set", "-", "--run", "one", text=JUMP).exit_code == 0
    assert [command.kind for command in commands(store, "one")] == ["set_rules"]


def test_a_run_that_could_not_trust_its_checkpoints_by_it_has_it_refused(
    rules: Invoke, store: Store
) -> None:
    store.add_run(a_run("one"))
    slow = JUMP.replace("delay_p99_steps: 1", "delay_p99_steps: 90") + "action: rollback\n"
    for words in (["set", "-"], ["set", "-", "--run", "one"]):
        line = said(rules(*words, text=slow))
        assert "use at least 90" in line
    assert newest(store, "one") == []
    assert commands(store, "one") == []


def test_a_run_shows_the_rules_that_it_recorded(
    rules: Invoke, store: Store, tmp_path: Path
) -> None:
    store.add_run(a_run("one", folder=tmp_path))
    write_record(tmp_path, RuleTable(DEFAULT_RULES[:4]))
    assert len(json.loads(rules("--run", "one", "--json").stdout)) == 4


def stored_jump(store: Store) -> None:
    store.add_run(a_run("one", "finished"))
    store.add_segment(Segment("one", 0, 0, "start", 0.0))
    chance = np.random.default_rng(0)
    store.write_frames(
        [
            Frame("one", 0, step, 0.0, {catalogue.LOSS_TOTAL: np.array(value, np.float32)})
            for step, value in enumerate([*chance.normal(1.0, 0.1, 100), 9.0])
        ]
    )


def test_a_rule_is_tried_over_a_stored_run_before_it_is_set(rules: Invoke, store: Store) -> None:
    stored_jump(store)
    found = json.loads(rules("test", "-", "one", "--json", text=JUMP).stdout)
    (alarm,) = found["alarms"]
    assert (alarm["rule"], alarm["step"], alarm["onset_step"]) == ("total_jumps", 100, 100)
    assert alarm["value"] > 6
    assert found["rules"] == [{"rule": "total_jumps", "num_steps": 101, "num_alarms": 1}]
    assert newest(store, "one") == []
    assert "total_jumps" in rules("test", "-", "one", text=JUMP).stdout


def test_a_rule_that_had_nothing_to_judge_is_said(rules: Invoke, store: Store) -> None:
    stored_jump(store)
    out = rules("test", "current", "one").stdout
    assert "rule loss_spike had nothing to judge" in out
    assert "no alarm in 101 steps of one" in out


def test_a_stored_rule_that_is_refused_now_can_be_taken_away(rules: Invoke, store: Store) -> None:
    body = yaml.safe_load(JUMP) | {"severity": "info", "action": "halt"}
    change(store, [RuleChange("", body.pop("name"), body)], "ann", 1.0)
    assert said(rules("list")).endswith("(moescope rules remove total_jumps takes it away)")
    assert rules("remove", "total_jumps").exit_code == 0
    assert rules("list").exit_code == 0
