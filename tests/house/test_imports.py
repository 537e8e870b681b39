"""Imports run downward, and torch stays where tensors are."""

import subprocess
import sys
from typing import Any

import pytest

ALLOWED = {
    "platform": {"platform"},
    "kernels": {"kernels"},
    "monitors": {"monitors", "kernels", "platform"},
    "trainer": {"trainer", "monitors", "kernels", "platform"},
    "studies": {"studies", "trainer", "monitors", "platform"},
    "dashboard": {"dashboard", "platform"},
}
SCRIPTS = {"dashboard/app.py", "dashboard/door.py"}
"""Started by their path, where relative imports do not work."""
DOORS = {"trainer/__main__.py", "studies/__main__.py"}
"""`python -m moescope.trainer`, for launchers of modules: the command by another name."""
WHO_PLANTS = {"cli.py"}
"""The shell, whose commands make demo and faulty runs."""
TORCH_FREE_ROOMS = ("platform", "dashboard")
TORCH_FREE_MODULES = (
    "moescope",
    "moescope.cli",
    "moescope.trainer.config",
    "moescope.trainer.recipes.by_name",
    "moescope.trainer.counts.parameters",
    "moescope.trainer.asked",
)


def test_imports_run_downward(package_modules: list[Any]) -> None:
    upward = [
        f"{module.path}:{line} imports {name}"
        for module in package_modules
        if module.room and module.path not in DOORS
        for name, line in module.imports()
        if name.startswith("moescope.")
        and name.split(".")[1] not in ALLOWED[module.room] | {"__version__"}
    ]
    assert upward == []


def test_nothing_that_judges_knows_of_planted_faults(package_modules: list[Any]) -> None:
    knowing = {
        module.path
        for module in package_modules
        if not module.path.startswith("trainer/faults/")
        for name, _ in module.imports()
        if name.startswith("moescope.trainer.faults")
    }
    assert knowing <= WHO_PLANTS


def test_nobody_imports_a_room_by_its_bare_name(modules: list[Any]) -> None:
    bare = [
        f"{module.path}:{line} imports {name}"
        for module in modules
        for name, line in module.imports()
        # `import platform` is the standard library's, and that is the point
        if name.split(".")[0] in {"kernels", "monitors", "trainer", "studies", "dashboard"}
        or (
            name.startswith("platform.") and name.split(".")[1] in {"store", "records", "catalogue"}
        )
    ]
    assert bare == []


def test_imports_are_relative_inside_and_absolute_outside(modules: list[Any]) -> None:
    odd = []
    for module in modules:
        is_inside = module.room in ALLOWED or module.path in ("cli.py", "__init__.py")
        wants_relative = is_inside and module.path not in SCRIPTS
        for node in module.tree.body:
            level = getattr(node, "level", None)
            source = getattr(node, "module", "") or ""
            if wants_relative and level == 0 and source.split(".")[0] == "moescope":
                odd.append(f"{module.path}:{node.lineno} should import relatively")
            if not wants_relative and level:
                odd.append(f"{module.path}:{node.lineno} should import moescope...")
    assert odd == []


def test_torch_is_not_imported_in_platform_and_dashboard(package_modules: list[Any]) -> None:
    heavy = [
        f"{module.path}:{line} imports {name}"
        for module in package_modules
        if module.room in TORCH_FREE_ROOMS
        for name, line in module.imports()
        if name.split(".")[0] in ("torch", "safetensors", "triton")
    ]
    assert heavy == []


@pytest.mark.parametrize("name", TORCH_FREE_MODULES)
def test_importing_it_loads_no_torch(name: str) -> None:
    # in a process of its own, as this one has loaded it long ago
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_module_of_platform_loads_without_torch(package_modules: list[Any]) -> None:
    names = sorted(
        "moescope." + module.path.removesuffix(".py").replace("/", ".")
        for module in package_modules
        if module.room == "platform" and "migrations" not in module.path
    )
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
