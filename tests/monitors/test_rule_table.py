"""A table of rules overlaid with versions: what holds, what is refused, what is recorded."""

from pathlib import Path
from typing import Any

import pytest

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.rule_table import (
    RECORD,
    RuleTable,
    body_of,
    checked,
    read_record,
    usable,
    versions_of,
    write_record,
)
from moescope.monitors.rules import Rule, read_rules
from moescope.platform.errors import MoescopeError
from moescope.platform.records import RuleVersion

SPIKE = next(rule for rule in DEFAULT_RULES if rule.name == "loss_spike")


def version(rule: Rule, number: int = 1, run_id: str = "", **changes: Any) -> RuleVersion:
    body = {} if changes.pop("is_removal", False) else body_of(rule) | changes
    return RuleVersion(run_id, rule.name, number, body, rule.is_on, "ann", 1.0)


def threshold(table: RuleTable) -> float:
    return table.entry("loss_spike").rule.threshold


def test_a_run_goes_before_all_runs_and_these_before_the_default() -> None:
    table = RuleTable()
    assert (threshold(table), table.entry("loss_spike").source) == (3.5, "default")
    table = table.overlaid([version(SPIKE, threshold=7.0, run_id="r1")])
    table = table.overlaid([version(SPIKE, threshold=5.0)])
    assert (threshold(table), table.entry("loss_spike").source) == (7.0, "run")
    table = table.overlaid([version(SPIKE, 2, run_id="r1", is_removal=True)])
    assert (threshold(table), table.entry("loss_spike").source) == (5.0, "all runs")
    table = table.overlaid([version(SPIKE, 2, is_removal=True)])
    assert (threshold(table), table.entry("loss_spike").source) == (3.5, "default")


def test_an_older_version_changes_nothing() -> None:
    table = RuleTable().overlaid([version(SPIKE, 3, threshold=7.0)])
    assert threshold(table.overlaid([version(SPIKE, 2, threshold=5.0)])) == 7.0


def test_a_changed_rule_keeps_its_place_and_a_new_one_comes_last() -> None:
    new = SPIKE.model_copy(update={"name": "a_new_one"})
    table = RuleTable().overlaid([version(new), version(SPIKE, threshold=5.0)])
    names = [rule.name for rule in table.rules()]
    assert names == [*(rule.name for rule in DEFAULT_RULES), "a_new_one"]


def test_what_a_rule_leaves_as_it_is_comes_back_from_its_body() -> None:
    for rule in DEFAULT_RULES:
        assert read_rules([body_of(rule)]) == (rule,)


def test_an_unknown_rule_is_told_with_near_names() -> None:
    with pytest.raises(MoescopeError, match="did you mean loss_spike"):
        RuleTable().entry("loss_spyke")


def test_what_a_run_trains_with_is_read_back(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    table = RuleTable(DEFAULT_RULES[:4]).overlaid([version(SPIKE, 2, "r1", threshold=5.0)])
    write_record(tmp_path, table)
    assert read_record(tmp_path) == table
    (tmp_path / RECORD).write_text('{"base": [{"name": "x"}], "versions": []}')
    with pytest.raises(MoescopeError, match="rule x"):
        read_record(tmp_path)
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(MoescopeError, match="cannot be read"):
        read_record(tmp_path)


def test_a_rule_that_cannot_be_used_is_left_out_and_the_others_are_taken() -> None:
    slow = version(SPIKE, delay_p99_steps=90)
    odd = RuleVersion("", "odd", 1, {"signal": "loss/totl"}, True, "ann", 1.0)
    drift = next(rule for rule in DEFAULT_RULES if rule.name == "loss_drift")
    table, lines = usable(RuleTable(), [slow, odd, version(drift, threshold=30.0)], 20)
    assert threshold(table) == 3.5
    assert table.entry("loss_drift").rule.threshold == 30.0
    assert len(lines) == 2
    assert "use at least 90" in lines[0]
    assert lines[1].startswith("rule odd is left as it was: ")
    assert usable(RuleTable(), [slow], 90)[1] == []


def test_rules_by_which_no_judge_can_work_are_refused() -> None:
    other = SPIKE.model_copy(update={"name": "other", "parameters": {"window": 70}})
    with pytest.raises(MoescopeError, match="loss_spike and other"):
        checked([SPIKE, other])
    with pytest.raises(MoescopeError, match="which is no rule here"):
        checked([rule for rule in DEFAULT_RULES if rule.name != "loss_spike"])
    with pytest.raises(MoescopeError, match="certify_after_steps is 5"):
        checked([SPIKE], 5)
    # neither a dry run nor a rule that is off rolls back
    checked([SPIKE.model_copy(update={"is_dry_run": True})], 5)
    checked([SPIKE.model_copy(update={"is_on": False})], 5)


@pytest.mark.parametrize("rows", [[{"name": "x"}], [3], 3, [{"body": 3}]])
def test_what_is_no_version_is_one_line(rows: Any) -> None:
    with pytest.raises(MoescopeError, match="no versions of rules"):
        versions_of(rows)
