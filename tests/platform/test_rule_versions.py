"""Versions of rules, on both kinds of store: newest wins, none is lost, all or none is written."""

import threading

import pytest

from moescope.platform import tables
from moescope.platform.records import Run
from moescope.platform.rule_versions import RuleChange, change, history, newest
from moescope.platform.store import Store

SPIKE = {"signal": "loss/total", "threshold": 4.5, "scope": {"layer": [0, 2]}}


def named(store: Store, run_id: str = "") -> list[tuple[str, str, int]]:
    return [(v.run_id, v.name, v.version) for v in newest(store, run_id)]


def test_the_newest_version_holds_and_the_others_are_its_history(store: Store) -> None:
    change(store, [RuleChange("", "spike", SPIKE)], "ann", 1.0)
    (second,) = change(store, [RuleChange("", "spike", SPIKE | {"threshold": 6.0})], "bob", 2.0)
    assert newest(store) == [second]
    found = history(store, "spike")
    assert [(v.version, v.body["threshold"], v.changed_by) for v in found] == [
        (2, 6.0, "bob"),
        (1, 4.5, "ann"),
    ]
    assert found[1].body == SPIKE
    assert history(store, "other") == []


def test_a_rule_of_a_run_is_apart_from_one_of_all_runs(store: Store) -> None:
    change(store, [RuleChange("", "spike", SPIKE), RuleChange("r1", "spike", SPIKE)], "ann", 1.0)
    change(store, [RuleChange("r1", "spike", SPIKE, is_on=False)], "ann", 2.0)
    change(store, [RuleChange("r2", "drift", SPIKE)], "ann", 3.0)
    assert named(store) == [("", "spike", 1)]
    assert named(store, "r1") == [("", "spike", 1), ("r1", "spike", 2)]
    assert [version.is_on for version in newest(store, "r1")] == [True, False]


def test_all_changes_are_written_or_none(store: Store) -> None:
    bad = RuleChange("", "odd", {"x": 1}, is_on=None)  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"NOT NULL|null value|being changed"):
        change(store, [RuleChange("", "spike", SPIKE), bad], "ann", 1.0)
    assert newest(store) == []


def test_people_who_change_at_once_get_a_version_each(store: Store) -> None:
    failures: list[Exception] = []

    def work(who: str) -> None:
        try:
            for _ in range(5):
                change(store, [RuleChange("", "spike", SPIKE)], who, 1.0)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(v.version for v in history(store, "spike")) == list(range(1, 11))


def test_a_deleted_run_takes_its_rules_along(store: Store) -> None:
    store.add_run(Run("r1", "run", "p", {}, "finished", "cpu", "0", 0.0, 0.0))
    change(store, [RuleChange("", "a", SPIKE), RuleChange("r1", "b", SPIKE)], "ann", 1.0)
    store.delete_run("r1")
    assert named(store, "r1") == [("", "a", 1)]
    assert "rule_versions" in tables.metadata.tables
