"""What the pages say is what the checkout holds."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def generator(root: Path) -> ModuleType:
    """docs/generate.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("generate", root / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_up_to_date(root: Path) -> None:
    command = [sys.executable, str(root / "docs" / "generate.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_readme_tree_matches_the_disk(
    generator: ModuleType, root: Path, files: list[str]
) -> None:
    text = (root / "README.md").read_text()
    block = text.partition(generator.TREE_START)[2].partition(generator.TREE_END)[0]
    shown, parents = set(), []
    for line in block.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, about = line.strip().partition(" ")
        parents = [*parents[: depth - 1], name.rstrip("/")]
        if about or not name.endswith("/"):
            shown.add("/".join(parents))
            assert about.strip(), f"{'/'.join(parents)} has no word about it"
    whole = tuple(generator.WHOLE_FOLDERS)
    on_disk = {next((f for f in whole if name.startswith(f + "/")), name) for name in files}
    assert shown == on_disk


def test_every_command_is_documented(generator: ModuleType, root: Path) -> None:
    page = (root / "docs" / "commands.md").read_text()
    for path, command in generator.commands():
        assert f"## `{path}" in page
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "hidden", False) or parameter.help, f"{path} {parameter.name}"


def test_every_command_that_lists_or_reports_takes_json(generator: ModuleType) -> None:
    acting = {"up", "demo", "note", "tag", "archive", "delete", "ack", "make-clips", "backup"}
    acting |= {"pause", "resume", "cancel", "retry", "schedule", "unschedule"}
    acting |= {"set", "remove", "on", "off", "silence", "skip"}
    without = {
        path
        for path, command in generator.commands()
        if not any("--json" in getattr(parameter, "opts", ()) for parameter in command.params)
    }
    assert {path.split()[-1] for path in without} == acting


def test_every_link_between_pages_leads_somewhere(root: Path, files: list[str]) -> None:
    dead = [
        f"{name}: {target}"
        for name in files
        if name.endswith(".md")
        for target in re.findall(r"\]\(([^)#]+)\)", (root / name).read_text())
        if "://" not in target and not (root / name).parent.joinpath(target).exists()
    ]
    assert dead == []


def test_every_make_target_that_a_page_names_exists(root: Path, files: list[str]) -> None:
    targets = set(re.findall(r"^([a-z.-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for name in files
        if name.endswith((".md", "run"))
        for target in re.findall(
            r"(?:^|`|part [a-z-]+ )make ([a-z.-]+)", (root / name).read_text(), re.M
        )
    }
    assert named - targets == set()
    assert {"demo", "test", "stories", "check", "bench", "clean"} <= targets


def test_no_page_names_the_machine_it_was_written_on(root: Path, files: list[str]) -> None:
    # put together here, or this file would find itself
    words = ["/".join(("", "work", "")), "/" + "root/", "/" + "home/", "/tmp/" + "plan"]
    found = [
        f"{name}: {word}"
        for name in files
        if (root / name).suffix not in (".png", ".mp4")
        for word in words
        if word in (root / name).read_text()
        # the image's own user
        and name != "Dockerfile"
    ]
    assert found == []


def test_every_decision_answers_the_four_questions(root: Path) -> None:
    pages = sorted((root / "docs" / "decisions").glob("*.md"))
    assert pages
    for page in pages:
        assert re.match(r"\d{4}-\d{2}-\d{2}-[a-z0-9-]+\.md", page.name)
        for heading in (
            "**Question.**",
            "**Choice.**",
            "**Evidence.**",
            "**What would change our mind.**",
        ):
            assert heading in page.read_text(), f"{page.name} lacks {heading}"


@pytest.fixture(scope="module")
def compose(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((root / "docker-compose.yml").read_text())
    return found


def test_every_service_that_serves_somebody_has_a_health_check(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"postgres", "mlflow", "moescope", "trainer"}
    # the trainer ends by itself: its heartbeat is watched over instead
    assert [
        name for name, service in compose["services"].items() if not service.get("healthcheck")
    ] == ["trainer"]
    assert compose["services"]["trainer"]["profiles"] == ["gpu"]


def test_postgres_is_healthy_only_when_it_listens_to_other_containers(
    compose: dict[str, Any],
) -> None:
    # while a first start makes the databases, the server listens on its socket only
    assert "-h 127.0.0.1" in compose["services"]["postgres"]["healthcheck"]["test"][1]


def test_the_compose_file_has_no_default_password(root: Path) -> None:
    text = (root / "docker-compose.yml").read_text()
    secrets = re.findall(r"\$\{([A-Z_]*(?:PASSWORD|TOKEN)[A-Z_]*)([^}]*)\}", text)
    assert {name for name, _ in secrets} == {
        "POSTGRES_PASSWORD",
        "MLFLOW_PASSWORD",
        "MOESCOPE_PASSWORD",
        "DASHBOARD_PASSWORD",
        "MOESCOPE_TOKEN",
        "MOESCOPE_VIEWER_TOKEN",
    }
    assert [name for name, rest in secrets if not rest.startswith(":?")] == []


def test_the_compose_file_publishes_on_the_loopback_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_mlflow_and_moescope_have_databases_of_their_own(compose: dict[str, Any]) -> None:
    services = compose["services"]
    mlflow = services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"].rsplit("/", 1)[1]
    store = services["moescope"]["environment"]["MOESCOPE_STORE"].rsplit("/", 1)[1]
    assert {mlflow, store} == {"mlflow", "moescope"}


def test_the_commands_of_the_compose_file_exist(
    generator: ModuleType, compose: dict[str, Any]
) -> None:
    known = dict(generator.commands())
    for name in ("moescope", "trainer"):
        first, *words = compose["services"][name]["command"]
        options = {
            option for parameter in known[f"moescope {first}"].params for option in parameter.opts
        }
        assert [word for word in words if word.startswith("--") and word not in options] == []
