"""The folder is the package: its list of sub-packages, its names, and the other `platform`."""

import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOMS = ("platform", "kernels", "monitors", "trainer", "studies", "dashboard")


def test_the_list_of_packages_equals_the_folders(root: Path, package_modules: list[Any]) -> None:
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {"/".join(module.path.split("/")[:-1]) for module in package_modules}
    found = {
        ".".join(["moescope", *folder.split("/")]) if folder else "moescope" for folder in folders
    }
    # a folder whose files lie only in its sub-folders is a package too
    found |= {name.rsplit(".", 1)[0] for name in found if name.count(".") > 1}
    assert sorted(listed) == sorted(found)


def test_files_that_are_not_python_are_in_the_package_data(root: Path, files: list[str]) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    packaged = set()
    for package, patterns in settings["package-data"].items():
        folder = root.joinpath(*package.split(".")[1:])
        packaged |= {
            path.relative_to(root).as_posix()
            for pattern in patterns
            for path in folder.glob(pattern)
        }
    needed = {
        name
        for name in files
        if name.split("/")[0] in ROOMS and not name.endswith((".py", "README.md"))
    }
    assert needed - packaged == set()


def test_platform_has_no_init(root: Path) -> None:
    assert not (root / "platform" / "__init__.py").exists()


def test_the_standard_platform_module_wins_in_every_folder(root: Path) -> None:
    code = "import platform; print(platform.system())"
    for folder in (".", *ROOMS, "tests", "docs"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root / folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout.strip() == "Linux", f"{folder}: {found.stderr}"


def test_no_module_is_named_like_another_library(root: Path, package_modules: list[Any]) -> None:
    known = set(sys.stdlib_module_names)
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name != "moescope":
            tops = (distribution.read_text("top_level.txt") or "").split()
            known |= {name.lower().replace("-", "_"), *tops}
    # these three are what the rooms are called; the first is why platform/ has no __init__.py
    known -= {"platform"}
    odd = [
        module.path
        for module in package_modules
        for part in (*module.path.split("/")[:-1], Path(module.path).stem)
        if part in known and not part.startswith("__")
    ]
    assert odd == []


def test_no_file_is_a_drawer_for_everything(files: list[str]) -> None:
    drawers = {"utils", "util", "helpers", "common", "manager", "base", "misc"}
    assert [name for name in files if Path(name).stem in drawers] == []


def test_torch_is_pinned_alike_wherever_it_is_installed(root: Path) -> None:
    pin = "torch==2.13.0"
    lines = (root / "constraints.txt").read_text().splitlines()
    assert pin in lines
    assert f"TORCH := {pin}" in (root / "Makefile").read_text()
    assert pin in (root / "Dockerfile").read_text()


def test_every_pin_is_exact_and_no_line_is_editable(root: Path) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [line for line in pins if line.count("==") != 1 or "+" in line or "@" in line] == []


def test_what_is_installed_is_what_is_pinned(root: Path) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    installed = {d.metadata["Name"].lower(): d.version.split("+")[0] for d in distributions()}
    required = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [requirement.partition(">")[0].partition("[")[0] for requirement in required]
    assert {name: installed[name] for name in names} == {name: pins[name] for name in names}
