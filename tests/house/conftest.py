"""What the house tests read: every Python file of the package, parsed once."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("platform", "kernels", "monitors", "trainer", "studies", "dashboard")


@dataclass(frozen=True, slots=True)
class Module:
    """A Python file of the checkout. path: relative to the root, with `/`."""

    path: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The top folder; empty for a file in the root itself."""
        return self.path.split("/")[0] if "/" in self.path else ""

    def imports(self) -> Iterator[tuple[str, int]]:
        """Yields (absolute dotted name, line) of everything imported, wherever in the file."""
        package = ["moescope", *self.path.split("/")[:-1]]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    yield f"{source}.{alias.name}", node.lineno


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def files() -> list[str]:
    """All files that git does not ignore, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return sorted({name for name in listed if (ROOT / name).is_file()})


@pytest.fixture(scope="session")
def modules(files: list[str]) -> list[Module]:
    """Every Python file of the checkout, tests and benchmarks included."""
    return [
        Module(name, ast.parse((ROOT / name).read_text(), filename=name))
        for name in files
        if name.endswith(".py")
    ]


@pytest.fixture(scope="session")
def package_modules(modules: list[Module]) -> list[Module]:
    """The Python files of the package: the root's own two, and the six rooms'."""
    return [
        module
        for module in modules
        if module.room in ROOMS or module.path in ("cli.py", "__init__.py")
    ]
