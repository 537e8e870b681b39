"""Every kind of alert says what it means and what to do, in the table and on the page."""

import ast
import re
from pathlib import Path
from typing import Any

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.platform import alert_kinds
from moescope.platform.alert_kinds import OWN_KINDS


def test_every_rule_of_the_default_table_says_what_it_means_and_what_to_do() -> None:
    wordless = [
        f"{rule.name}: {word}"
        for rule in DEFAULT_RULES
        for word in ("meaning", "advice")
        if len(getattr(rule, word)) < 8
    ]
    assert wordless == []


def test_every_kind_of_alert_has_a_section(root: Path) -> None:
    page = (root / "docs" / "alerts.md").read_text()
    sections = dict(re.findall(r"^### `(\w+)` (.*?)(?=^##|\Z)", page, re.M | re.S))
    names = [rule.name for rule in DEFAULT_RULES] + list(OWN_KINDS)
    assert sorted(sections) == sorted(names)
    for name, text in sections.items():
        for item in ("what it means", "what moescope does", "what to do"):
            assert re.search(rf"^- {item}: .{{8,}}", text, re.M), f"{name} lacks: {item}"


def test_a_rule_is_not_called_like_an_alert_of_another_kind() -> None:
    assert {rule.name for rule in DEFAULT_RULES} & set(OWN_KINDS) == set()


def test_whoever_raises_an_alert_names_a_kind_of_the_table(package_modules: list[Any]) -> None:
    known = vars(alert_kinds).items()
    constants = {name for name, value in known if name.isupper() and value in list(OWN_KINDS)}
    raised = {
        (module.path, ast.unparse(node.args[0]))
        for module in package_modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "raise_alert"
    }
    # what the trainer is told to raise it hands on
    raised.discard(("trainer/loop.py", "rule"))
    assert {name for _, name in raised} <= constants
    assert len(raised) >= 3
    assert len(constants) == len(OWN_KINDS)


def test_the_page_that_the_program_names_exists(root: Path) -> None:
    assert (root / alert_kinds.PAGE).is_file()
