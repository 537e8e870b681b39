"""The tests themselves: sentences that assert something."""

import ast
from typing import Any


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
            if (
                name in asserting
                or name.startswith("assert_")
                or name in ("raises", "fail", "expect")
            ):
                return True
    return False


def test_every_test_asserts_something(modules: list[Any]) -> None:
    silent = []
    for module in modules:
        if module.room != "tests":
            continue
        functions = [n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef)]
        # a test may leave the assertion to a function beside it
        asserting = {f.name for f in functions if _asserts(f, set())}
        silent += [
            f"{module.path}:{f.lineno} {f.name}"
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
