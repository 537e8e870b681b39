"""Every signal of the catalogue is measured and drawn by someone, and every rule names one."""

import ast
from typing import Any

from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.platform import catalogue

CONSTANTS = {
    name: value
    for name, value in vars(catalogue).items()
    if name.isupper() and isinstance(value, str) and value in catalogue.CATALOGUE
}


def _used(modules: list[Any], rooms: set[str]) -> set[str]:
    """The constants of the catalogue that files of these rooms read, by attribute or by name."""
    found: set[str] = set()
    for module in modules:
        if module.room in rooms and module.path != "platform/catalogue.py":
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Attribute):
                    found.add(node.attr)
                elif isinstance(node, ast.Name):
                    found.add(node.id)
    return found & CONSTANTS.keys()


def test_every_signal_has_a_constant() -> None:
    assert sorted(CONSTANTS.values()) == sorted(catalogue.CATALOGUE)


def test_every_signal_is_measured(package_modules: list[Any]) -> None:
    measured = _used(package_modules, {"monitors", "trainer", "platform"})
    assert sorted(CONSTANTS.keys() - measured) == []


def test_every_signal_is_drawn(package_modules: list[Any]) -> None:
    drawn = _used(package_modules, {"dashboard"})
    assert sorted(CONSTANTS.keys() - drawn) == []


def test_every_rule_names_a_signal_of_the_catalogue() -> None:
    signals = [rule.signal for rule in DEFAULT_RULES]
    assert signals
    assert [name for name in signals if name not in catalogue.CATALOGUE] == []


def test_signals_are_called_by_their_constants(package_modules: list[Any]) -> None:
    free = [
        f"{module.path}:{node.lineno} says {node.value!r}"
        for module in package_modules
        if module.path != "platform/catalogue.py"
        and not module.path.startswith("platform/signals/")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and node.value in catalogue.CATALOGUE
    ]
    assert free == []


def test_every_word_of_a_signal_is_there() -> None:
    wordless = [
        f"{spec.name}: {word}"
        for spec in catalogue.CATALOGUE.values()
        for word in ("unit", "help", "high", "low", "cost", "source")
        if not getattr(spec, word)
    ]
    assert wordless == []
