"""The page of rules: where each comes from, switched, tried over a run, saved, refused."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from moescope.cli import app
from moescope.dashboard import command_line
from moescope.dashboard.command_line import Answer, asked
from moescope.dashboard.rule_text import template
from moescope.monitors.rules import read_rules
from moescope.platform.commands import commands
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Run
from moescope.platform.rule_versions import RuleChange, change, newest
from moescope.platform.store import Store

TEMPLATE = template("loss/total")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the commands of the page here, where their imports are paid for once."""

    def run(store: Store, words: Sequence[str], text: str = "", limit_s: float = 0.0) -> Answer:
        done = CliRunner().invoke(app, list(words), input=text, env={"MOESCOPE_STORE": store.url})
        if done.exit_code:
            return Answer(False, done.stderr.strip().removeprefix("moescope: "))
        return Answer(True, done.stdout)

    for where in ("command_line", "asks"):
        monkeypatch.setattr(f"moescope.dashboard.{where}.asked", run)


@pytest.fixture
def page(in_this_process: None, store: Store) -> Callable[[], AppTest]:
    def seen() -> AppTest:
        found = AppTest.from_function(_rules, args=(store,), default_timeout=20).run()
        assert not found.exception, found.exception
        return found

    return seen


def _rules(store: "Store") -> None:
    from moescope.dashboard.views import rules

    rules.render(store)


def words(page: AppTest) -> str:
    kinds = (page.markdown, page.caption, page.text, page.info, page.warning, page.success)
    said = [str(element.value) for kind in (*kinds, page.error) for element in kind]
    return "\n".join(said).replace("\\", "")


def typed(page: AppTest, text: str) -> AppTest:
    (area,) = page.text_area
    return area.set_value(text).run()


def test_each_rule_says_what_it_judges_and_where_it_comes_from(
    page: Callable[[], AppTest], store: Store, spiked_run: Run
) -> None:
    rule = yaml.safe_load(TEMPLATE) | {"scope": {}, "message": "a <b>jump</b>"}
    change(store, [RuleChange("", "my_rule", rule)], "ann", time.time())
    found = words(page())
    assert "the loss stays far above its usual range: spike of `loss/per_sample` above 3.5" in found
    assert "3 of 5 times · **rolls back**" in found
    assert ":gray[changed for all runs, version 1 by ann]" in found
    assert "a <b>jump</b>" in found


def test_a_rule_is_switched_off_after_a_second_click(
    page: Callable[[], AppTest], store: Store, spiked_run: Run
) -> None:
    seen = page()
    seen.button(key="off_loss_spike").click().run()
    assert "Of all runs: loss_spike is not judged any more" in words(seen)
    seen.button(key="rule_no").click().run()
    assert newest(store) == []
    seen.button(key="off_loss_spike").click().run()
    seen.button(key="rule_yes").click().run()
    assert [(v.name, v.is_on, v.changed_by) for v in newest(store)] == [
        ("loss_spike", False, "operator")
    ]
    said = words(seen)
    assert "rule loss_spike of all runs: version 1, off" in said
    assert f"run {spiked_run.name} was asked" in said
    assert [command.kind for command in commands(store, spiked_run.id)] == ["set_rules"]
    seen.button(key="remove_loss_spike").click().run()
    seen.button(key="rule_yes").click().run()
    assert newest(store)[0].body == {}


def test_a_rule_is_tried_over_a_run_and_then_saved_for_it(
    page: Callable[[], AppTest], store: Store, spiked_run: Run
) -> None:
    seen = page()
    seen.selectbox(key="rules_of").select(spiked_run.id).run()
    seen.button(key="edit_gradient_spike").click().run()
    (area,) = seen.text_area
    rule = yaml.safe_load(area.value)
    assert rule["name"] == "gradient_spike"
    rule |= {"parameters": {"min_count": 20, "window": 32}, "silenced_by": []}
    typed(seen, yaml.safe_dump(rule))
    seen.button(key="rule_try").click().run()
    # 64 steps of the abandoned branch and 41 after the rollback; the gradient rises with the loss
    assert "alarm in 105 steps of amber-finch" in words(seen)
    (table,) = seen.dataframe
    assert table.value["rule"].tolist() == ["gradient_spike"]
    assert table.value["step"].tolist() == [62]
    assert newest(store, spiked_run.id) == []
    # what was found for another text is not shown for this one
    typed(seen, yaml.safe_dump(rule | {"threshold": 500.0}))
    assert not seen.dataframe
    seen.button(key="rule_try").click().run()
    assert "No alarm in 105 steps" in words(seen)
    seen.button(key="rule_save").click().run()
    assert "The rule becomes one of run amber-finch" in words(seen)
    seen.button(key="rule_save_yes").click().run()
    (version,) = newest(store, spiked_run.id)
    assert (version.run_id, version.body["threshold"]) == (spiked_run.id, 500.0)
    assert not seen.text_area
    assert "changed for this run, version 1 by operator" in words(seen)
    seen.button(key="edit_gradient_spike").click().run()
    assert "threshold 500.0" in words(seen)


def test_what_is_wrong_with_a_rule_is_shown_and_the_text_stays(
    page: Callable[[], AppTest], store: Store, spiked_run: Run
) -> None:
    seen = page()
    seen.button(key="rule_new").click().run()
    bad = TEMPLATE.replace("loss/total", "loss/totl")
    typed(seen, bad)
    seen.button(key="rule_try").click().run()
    assert "did you mean loss/total" in words(seen)
    seen.button(key="rule_save").click().run()
    seen.button(key="rule_save_yes").click().run()
    assert "unknown signal loss/totl; did you mean loss/total" in words(seen)
    assert seen.text_area[0].value == bad
    assert newest(store) == []
    seen.button(key="rule_close").click().run()
    assert not seen.text_area


def test_a_mistake_is_pointed_at_in_the_text(
    page: Callable[[], AppTest], store: Store, spiked_run: Run
) -> None:
    seen = page()
    seen.button(key="rule_new").click().run()
    typed(seen, TEMPLATE.replace("threshold: 6 ", "threshold: much "))
    seen.button(key="rule_try").click().run()
    assert "Line 5: threshold is 'much'" in words(seen)
    assert any("→   5  threshold: much" in code.value for code in seen.code)
    # it is said of this text, not of the next
    typed(seen, TEMPLATE)
    assert "Line 5" not in words(seen)


def test_a_dry_run_is_drawn_on_the_signal_that_the_rule_judges(
    page: Callable[[], AppTest], store: Store, spiked_run: Run
) -> None:
    seen = page()
    seen.query_params["run"] = spiked_run.id
    seen.run()
    assert seen.selectbox(key="rules_of").value == spiked_run.id
    seen.button(key="edit_gradient_spike").click().run()
    rule = yaml.safe_load(seen.text_area[0].value)
    rule |= {"parameters": {"min_count": 20, "window": 32}, "silenced_by": []}
    typed(seen, yaml.safe_dump(rule))
    seen.button(key="rule_try").click().run()
    (drawn,) = [part.proto.bytes for part in seen.get("bidi_component")]
    assert [trace["name"] for trace in json.loads(drawn)["figure"]["data"]] == [
        "abandoned branch",
        "grad/norm",
        "would be warning",
    ]
    assert b"alarm at step 62" in drawn
    # what stands for a signal of many entries is said
    seen.button(key="edit_loss_spike").click().run()
    seen.button(key="rule_try").click().run()
    assert "It judges `loss/per_sample`, sample by sample" in words(seen)


def test_a_new_rule_begins_with_the_signal_that_was_chosen(
    page: Callable[[], AppTest], store: Store, spiked_run: Run
) -> None:
    seen = page()
    seen.selectbox(key="rules_of").select(spiked_run.id).run()
    options = seen.selectbox(key="rule_signal").options
    assert options[0] == "loss/total"
    assert "attention/logit_bound" not in options  # this run has not measured it
    seen.selectbox(key="rule_signal").select("grad/norm").run()
    seen.button(key="rule_new").click().run()
    text = seen.text_area[0].value
    assert yaml.safe_load(text)["signal"] == "grad/norm"
    assert "# in the chosen run it was between 1.4 and 5.5" in text


def test_rules_are_found_by_words_state_and_whether_they_were_changed(
    page: Callable[[], AppTest], store: Store, spiked_run: Run
) -> None:
    rule = yaml.safe_load(TEMPLATE)
    change(store, [RuleChange("", "my_rule", rule)], "ann", time.time())
    seen = page()
    said = words(seen)
    assert ":blue-badge[:material/science: 1 dry run]" in said
    assert ":violet-badge[:material/edit: 1 changed]" in said
    num = len([b for b in seen.button if str(b.key).startswith("edit_")])
    seen.text_input(key="rules_find").set_value("grad/norm rolls").run()
    assert [b.key for b in seen.button if str(b.key).startswith("edit_")] == [
        "edit_non_finite_lasting"
    ]
    assert f"1 of {num} rules." in words(seen)
    seen.text_input(key="rules_find").set_value("").run()
    seen.button_group(key="rules_state").set_value("dry run").run()
    assert [b.key for b in seen.button if str(b.key).startswith("edit_")] == ["edit_my_rule"]
    seen.button_group(key="rules_state").set_value("off").run()
    assert "No rule matches" in words(seen)
    seen.button_group(key="rules_state").set_value("any state").run()
    seen.toggle(key="rules_changed").set_value(True).run()
    assert [b.key for b in seen.button if str(b.key).startswith("edit_")] == ["edit_my_rule"]


def test_the_address_says_whose_rules_and_follows_the_choice(
    page: Callable[[], AppTest], store: Store, spiked_run: Run, make: Any
) -> None:
    store.add_run(make.run("blue-fox", status="finished"))
    seen = page()
    assert seen.query_params.get("run") is None
    seen.selectbox(key="rules_of").select("id-blue-fox").run()
    assert seen.query_params["run"] == "id-blue-fox"
    seen.button(key="off_loss_spike").click().run()
    assert "it takes it when it is resumed" in words(seen)
    # a link to another run's, by its name
    seen.query_params["run"] = "amber-finch"
    seen.run()
    assert seen.selectbox(key="rules_of").value == spiked_run.id
    seen.query_params["run"] = "nobody"
    seen.run()
    assert "nobody" in words(seen)
    assert seen.selectbox(key="rules_of").value == ""


def test_how_often_a_rule_has_called_is_said(
    page: Callable[[], AppTest], store: Store, spiked_run: Run
) -> None:
    assert "**rolls back** · 1 alert so far" in words(page())


def test_a_store_that_goes_away_is_said_and_not_thrown(
    page: Callable[[], AppTest], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = page()

    def away(*_: Any, **__: Any) -> None:
        raise MoescopeError("database is locked")

    monkeypatch.setattr(type(store), "runs", away)
    seen.run()
    assert not seen.exception
    assert "database is locked" in words(seen)


def test_the_template_is_a_rule_that_does_nothing_yet() -> None:
    (rule,) = read_rules([yaml.safe_load(TEMPLATE)])
    assert rule.is_dry_run


def test_rules_that_cannot_be_read_are_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Answer:
        return Answer(False, "store is at version 9, newer than this program")

    monkeypatch.setattr(command_line, "asked", broken)
    seen = AppTest.from_function(_rules, args=(store,), default_timeout=20).run()
    assert "The rules cannot be read." in words(seen)
    assert "store is at version 9" in words(seen)


def test_a_command_is_asked_in_a_process_of_its_own(store: Store) -> None:
    assert asked(store, ["rules", "show", "loss_spike"]).text.startswith("name: loss_spike")
    refused = asked(store, ["rules", "show", "loss_spyke"])
    assert not refused.is_done
    assert refused.text.startswith("unknown rule loss_spyke; did you mean loss_spike?")


def test_a_command_that_takes_too_long_is_given_up(store: Store) -> None:
    answer = asked(store, ["rules", "list"], limit_s=0.05)
    assert (answer.is_done, answer.text[:20]) == (False, "no answer within 0 s")
