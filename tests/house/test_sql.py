"""SQL is never built from what a person wrote: values go beside a statement, not into it."""

import ast
from typing import Any

import pytest

RUNS_SQL = {"execute", "executemany", "executescript", "exec_driver_sql"}
"""Methods of a connection; what else is called so is given no text."""
MAKES_SQL = {"text", "literal_column"}
"""Of SQLAlchemy, where they are imported from it."""

NAMES_TABLES = {
    "platform/dashboard_role.py": "tables of platform/tables.py; the schema and a role, quoted",
    "platform/engines.py": "puts back a whole number that SQLite gave",
    "platform/migrate.py": "asks for settings that the module lists",
    "platform/migrations/versions/0006_chunks.py": "its own tables",
    "platform/spans.py": "tables and columns of platform/tables.py",
    "platform/row_writing.py": "tables and columns of platform/tables.py",
    "platform/upkeep.py": "tables of platform/tables.py",
}
"""Files whose statements hold names that cannot be parameters, and where the names come from."""


def _is_ours(node: ast.expr) -> bool:
    """Whether a part of a statement cannot come from outside: a literal, a constant of a module, a
    whole number, or a choice between such."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.JoinedStr):
        return all(_is_ours(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _is_ours(node.value)
    if isinstance(node, ast.IfExp):
        return _is_ours(node.body) and _is_ours(node.orelse)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "int"
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name.isupper()


def _is_made_here(node: ast.expr) -> bool:
    """Whether it is a text that is put together on the spot."""
    is_format = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("format", "join")
    return is_format or isinstance(node, ast.JoinedStr | ast.BinOp)


def _statements_from_outside(tree: ast.Module) -> list[int]:
    """Lines on which a text becomes SQL that may hold what somebody wrote."""
    made_by = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        for alias in node.names
        if alias.name in MAKES_SQL
    }
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        argument = node.args[0]
        makes = isinstance(node.func, ast.Name) and node.func.id in made_by
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        # a statement of SQLAlchemy goes to `execute` under any name: only texts are looked at there
        is_text = makes or method == "exec_driver_sql" or _is_made_here(argument)
        if (makes or method in RUNS_SQL) and is_text and not _is_ours(argument):
            found.append(node.lineno)
    return found


def test_no_statement_is_put_together_from_what_comes_from_outside(modules: list[Any]) -> None:
    found = [
        f"{module.path}:{line}"
        for module in modules
        if module.room not in ("tests", "benchmarks")
        for line in _statements_from_outside(module.tree)
        if module.path not in NAMES_TABLES
    ]
    assert found == [], "give the value as a parameter, or name a constant"


@pytest.mark.parametrize(
    ("code", "is_refused"),
    [
        ("c.execute(f'SELECT {name}')", True),
        ("c.execute('SELECT ' + name)", True),
        ("c.execute('SELECT %s' % name)", True),
        ("c.execute('SELECT {}'.format(name))", True),
        ("c.exec_driver_sql(words)", True),
        ("from sqlalchemy import text\nc.execute(text(words))", True),
        ("from sqlalchemy import text as sql\nc.execute(sql(f'SELECT {name}'))", True),
        ("c.execute('SELECT ?', [name])", False),
        ("c.execute(f'SELECT {TABLE}, {int(number)}')", False),
        ("c.execute(statement, values)", False),
        ("st.text(str(error))", False),
    ],
)
def test_what_may_come_from_outside_is_told_from_what_cannot(code: str, is_refused: bool) -> None:
    assert bool(_statements_from_outside(ast.parse(code))) == is_refused
