"""The tests themselves: sentences that assert something."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def _tests(modules: list[Any]) -> list[tuple[str, ast.FunctionDef]]:
    return [
        (module.path, node)
        for module in modules
        if module.room == "tests"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def _asserts(function: ast.FunctionDef, asserting: set[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            # a process that must succeed is an assertion too
            is_checked = any(ast.unparse(k) == "check=True" for k in node.keywords)
            if (
                is_checked
                or name in asserting
                or name.startswith("assert_")
                or name in ("raises", "fail", "expect")
            ):
                return True
    return False


def test_every_test_asserts_something(modules: list[Any]) -> None:
    functions_of = {
        module.path: [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef)]
        for module in modules
        if module.room == "tests"
    }
    fixtures = {
        function.name
        for path, functions in functions_of.items()
        if path.endswith("conftest.py")
        for function in functions
        if _asserts(function, set())
    }
    silent = []
    for path, functions in functions_of.items():
        # a test may leave the assertion to a function beside it, or to a fixture
        asserting = fixtures | {f.name for f in functions if _asserts(f, set())}
        silent += [
            f"{path}:{f.lineno} {f.name}"
            for f in functions
            if f.name.startswith("test_") and not _asserts(f, asserting)
        ]
    assert silent == []


def test_names_of_tests_are_sentences(modules: list[Any]) -> None:
    short = [f"{path}: {test.name}" for path, test in _tests(modules) if test.name.count("_") < 3]
    assert short == []


def test_no_test_is_run_again_until_it_passes(modules: list[Any]) -> None:
    found = [
        f"{module.path}:{node.lineno}"
        for module in modules
        if module.room == "tests"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in ("flaky", "rerun")
    ]
    assert found == []


def test_tests_has_no_init(files: list[str]) -> None:
    assert [
        name for name in files if name.startswith("tests/") and name.endswith("__init__.py")
    ] == []


@pytest.mark.parametrize(
    ("demanded", "expected"), [("1", "1 failed, 1 skipped"), ("", "2 skipped")]
)
def test_a_skipped_postgres_test_fails_where_postgres_is_demanded(
    root: Path, tmp_path: Path, demanded: str, expected: str
) -> None:
    shutil.copy(root / "tests" / "conftest.py", tmp_path / "conftest.py")
    (tmp_path / "test_sample.py").write_text(
        "import pytest\n"
        "@pytest.mark.postgres\n"
        "def test_of_postgres(): pytest.skip('no server')\n"
        "def test_of_something_else(): pytest.skip('no such thing')\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "markers=postgres", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "MOESCOPE_TEST_REQUIRE_POSTGRES": demanded},
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in found.stdout, found.stdout
