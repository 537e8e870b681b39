"""Links from page to page: their labels are text of runs, alerts and studies, never markup."""

import ast
from pathlib import Path

import moescope.dashboard

APP = Path(moescope.dashboard.__file__).with_name("app.py")


def test_every_label_is_escaped_where_the_link_is_made() -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(APP.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "st.page_link"
    ]
    labels = [
        ast.unparse(word.value) for call in calls for word in call.keywords if word.arg == "label"
    ]
    assert len(labels) == len(calls) > 5
    assert [label for label in labels if not label.startswith("plain(")] == []
