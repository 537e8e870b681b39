"""Writes what the program itself knows into the documentation: signals, commands, the tree.

    python docs/generate.py            writes
    python docs/generate.py --check    writes nothing; one line per stale page, and exit code 1

Sources: the catalogue for docs/signals.md, the default rules and the table of other alerts for
docs/alerts.md, the command line for docs/commands.md, and for the tree in README.md the first
sentence of each module's docstring, or FILES below for what has none.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from moescope.cli import app
from moescope.monitors.alert_words import HARDENS_IN, unit_of
from moescope.monitors.default_rules import DEFAULT_RULES
from moescope.monitors.rules import Rule
from moescope.platform.alert_kinds import OWN_KINDS
from moescope.platform.catalogue import CATALOGUE
from moescope.platform.signals.spec import SignalSpec

ROOT = Path(__file__).parent.parent
TREE_START, TREE_END = "<!-- tree: written by `make docs` -->\n```\n", "```\n<!-- end of tree -->"
LINE_CHARACTERS, LABEL_CHARACTERS = 118, 32
TIERS = {
    "step": "every step",
    "sampled": "every `watch.sample_every` steps",
    "slow": "every `watch.probe_every` steps",
    "system": "about once a second",
    "user": "when it is logged",
}
SIGNALS_HEAD = """# Signals

Written by `make docs` from `platform/signals/`, the one table from which the dashboard and the
rules take their words too. A program's own scalars are called `user/...` (`run.log`). Scalars are
lossless: no fault of a sink costs one. Vectors may be left out when a sink falls behind;
`sink/coalesced` counts how many.
"""
COMMANDS_HEAD = """# Commands

Written by `make docs` from the command line itself. A mistake is told on one line and gives exit
code 2; a command that did not reach its aim gives 1. Settings come from the environment
(`MOESCOPE_HOME`, `MOESCOPE_STORE`, `MOESCOPE_MLFLOW`, `MOESCOPE_NOTIFY`, `MOESCOPE_HOST`,
`MOESCOPE_DASHBOARD_PORT`, `MOESCOPE_MLFLOW_PORT`, `MOESCOPE_METRICS_PORT`, `MOESCOPE_TOKEN`,
`MOESCOPE_VIEWER_TOKEN`, `MOESCOPE_DASHBOARD_URL`, `MOESCOPE_DASHBOARD_STORE`,
`MOESCOPE_MLFLOW_AUTH`, `MOESCOPE_ALLOW_NETWORK_STORE`); an option wins over them.
"""
ALERTS_HEAD = """# Alerts

Written by `make docs` from the default rules (`monitors/default_rules.py`) and the table of what no
rule on a signal raises (`platform/alert_kinds.py`). `moescope rules` changes rules, and a run may
have others: each alert carries its own meaning and advice along.

An alert is raised once for an incident, with its onset (the step where the change began, not where
it was noticed) and its evidence. It is open until somebody acknowledges it or its cause is gone:
then it is resolved by itself. `moescope alerts silence ALERT --for 2h` sends nothing of it, and of
further ones of its rule and run, for that long, also where it is resolved meanwhile; what still
holds then calls again. With `--for ever` that lasts until somebody ends it, by `--end` or on the
dashboard's page of alerts; however it ends, what still holds calls again.

Where values stay high until the rule has learnt a new baseline, its alert ends too, but nothing has
healed: it is shown as `new baseline`. Where that rule lowers the rate, rolls back or halts, no
state is certified that was saved from the onset (less `policy.margin_steps`) to
`policy.window_steps` after the end.

Where alerts are sent is `MOESCOPE_NOTIFY`, and `moescope alerts
test-channel` tries it; what could not be sent is tried again and shown in the dashboard, by
`moescope alerts` and by `moescope doctor`.
"""
DOES = {
    "observe": "It is recorded and shown; training is not touched.",
    "skip_data": "The next batches are judged before they are trained on; odd ones are passed by.",
    "damp": "The learning rate is lowered for a while (`policy.damp_scale`, `policy.damp_steps`).",
    "rollback": "The run goes back to the newest certified checkpoint before the onset and vets "
    "the data from there; a second time at the same place further, and damped; when the budget is "
    "used up it halts.",
    "halt": "The run is ended and waits for a person.",
}
"""What moescope does on an alert, by the rule's action, where automatic action is on."""
WHOLE_FOLDERS = {
    "studies/library": "named studies, a file each",
    "docs/decisions": "a page per decision: question, choice, evidence, what would change our mind",
    "tests/contracts": "one suite of promises for every store and every sink",
    "tests/dashboard": "mirrors dashboard/",
    "tests/house": "the rules of the house: imports, packages, documentation",
    "tests/kernels": "mirrors kernels/",
    "tests/monitors": "mirrors monitors/",
    "tests/platform": "mirrors platform/",
    "tests/services": "what the tests need and no machine has: a Slurm of one node",
    "tests/stories": "whole journeys in real processes, run by `make stories`",
    "tests/studies": "mirrors studies/",
    "tests/trainer": "mirrors trainer/",
}
"""Folders that get one line instead of one per file."""
FILES = {
    "docs/pictures/compare-1440-dark.png": "runs laid over each other, at a desk at night",
    "docs/pictures/control-390-dark.png": "what a run can go back to, on a phone",
    "docs/pictures/fleet-1440-light.png": "all runs in a table",
    "docs/pictures/incident-1440-light.png": "an incident in order",
    "docs/pictures/rules-1440-dark.png": "a rule tried over a run",
    "docs/pictures/run-1440-light.png": "a run with a spike and a rollback",
    ".ci/run": "what continuous integration runs: Debian packages, check, test, stories",
    ".dockerignore": "what stays out of the image",
    ".gitignore": "what is built here and belongs to nobody",
    "CHANGELOG.md": "what changed: effect, default, the way back",
    "CONTRIBUTING.md": "how to add a signal, a rule, a kernel, a study",
    "Dockerfile": "the image of the service and of the trainer",
    "LICENSE": "Apache-2.0",
    "Makefile": "demo, test, stories, check, bench",
    "README.md": "this page",
    "constraints.txt": "everything the tests ran with, pinned",
    "dashboard/browser/fleet.css": "how the table of runs looks, on a phone too",
    "dashboard/browser/fleet_cells.js": "its columns: order, and how a cell is drawn",
    "dashboard/browser/fleet_table.js": "the table: rows, order and choice outlast a refresh",
    "dashboard/browser/plot.js": "draws a chart into a node that stays, and tells of a zoom",
    "dashboard/.streamlit/config.toml": "address, look and manners of the dashboard's server",
    "docker-compose.yml": "postgres, mlflow, the service, and a trainer under profile gpu",
    "docs/alerts.md": "every alert: what it means, what is done, what to do (generated)",
    "docs/benchmarks.md": "what was measured, on which machine",
    "docs/commands.md": "every command and option (generated)",
    "docs/dashboard-access.md": "who may do what: tokens, names, addresses, a role in PostgreSQL",
    "docs/detectors.md": "what the loss rules find on recorded curves, and those of other systems",
    "docs/in_and_out.md": "histories of other trackers, exports, and the page for Prometheus",
    "docs/store.md": "where the data is, and how to look after it; many trainers, PostgreSQL",
    "docs/lab.md": "dated experiments with setup, numbers and verdict",
    "docs/signals.md": "every signal: what it is, what high and low mean (generated)",
    "docs/watch.md": "your own trainer: what is found, taken, done and not done",
    "py.typed": "says that the package is typed",
    "pyproject.toml": "packaging, and the settings of ruff, mypy and pytest",
}


def signal_page() -> str:
    """docs/signals.md: the catalogue, a section per group."""
    groups: dict[str, list[SignalSpec]] = {}
    for spec in CATALOGUE.values():
        groups.setdefault(spec.group, []).append(spec)
    lines = [SIGNALS_HEAD]
    for group, specs in groups.items():
        lines += [f"## {group}", ""]
        for spec in specs:
            where = f", per {' and '.join(spec.dimensions)}" if spec.dimensions else ""
            lines += [
                f"### `{spec.name}`",
                "",
                f"{spec.help} Unit: {spec.unit}{where}.",
                "",
                f"- high: {spec.high}",
                f"- low: {spec.low}",
                f"- measured {TIERS[spec.tier]}; cost: {spec.cost}; source: {spec.source}",
                "",
            ]
    return "\n".join(lines)


def alert_page() -> str:
    """docs/alerts.md: a section per rule of the default table and per other kind of alert."""
    lines = [ALERTS_HEAD, "## Rules on signals", ""]
    for rule in DEFAULT_RULES:
        does = DOES[rule.action]
        if rule.is_immediate:
            does = f"{does} It waits neither for the grace nor for a cooldown."
        elif rule.action == "rollback":
            does = f"If it does not heal within `policy.grace_steps`: {does[0].lower()}{does[1:]}"
            if unit_of(rule) in HARDENS_IN:
                does = f"{does} The rule's next rollback takes a higher score for a while."
        if rule.severity == "info":
            does = f"It is a note on the charts, not an alert. {does}"
        lines += [
            f"### `{rule.name}` ({rule.severity})",
            "",
            f"{_when(rule)}",
            "",
            f"- what it means: {rule.meaning}",
            f"- what moescope does: {does}",
            f"- what to do: {rule.advice}",
            "",
        ]
    lines += ["## Of the run itself", ""]
    for kind in OWN_KINDS.values():
        lines += [
            f"### `{kind.name}` ({kind.severity}, from the {kind.raised_by})",
            "",
            f"- what it means: {kind.meaning}",
            f"- what moescope does: {kind.does}",
            f"- what to do: {kind.advice}",
            "",
        ]
    return "\n".join(lines)


def _when(rule: Rule) -> str:
    lasting = f", {rule.patience} of {rule.of_last} times" if rule.of_last > 1 else ""
    return (
        f"Raised where {rule.message}: `{rule.detector}` of `{rule.signal}` above "
        f"{rule.threshold:g} {unit_of(rule)}{lasting}."
    )


def command_page() -> str:
    """docs/commands.md: every command with its arguments and options, as the program has them."""
    lines = [COMMANDS_HEAD]
    for path, command in commands():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        words = [path, *(_argument(argument) for argument in arguments)]
        lines += [f"## `{' '.join(words)}`", "", command.help or "", ""]
        lines += [f"- `{_argument(argument)}`: {argument.help}" for argument in arguments]
        lines += [f"- `{_option(option)}`: {option.help}" for option in options]
        lines.append("")
    return "\n".join(lines)


def commands() -> Iterator[tuple[str, Any]]:
    """Yields (words to type, command) of every command and sub-command that a person types."""
    groups = get_command(app).commands  # type: ignore[attr-defined]
    for name, command in groups.items():
        inner = getattr(command, "commands", {})
        if not inner or getattr(command, "invoke_without_command", False):
            yield f"moescope {name}", command
        for inner_name, inner_command in inner.items():
            if not inner_command.hidden:
                yield f"moescope {name} {inner_name}", inner_command


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> str:
    name = "/".join([*option.opts, *option.secondary_opts])
    return name if option.is_flag else f"{name} {option.metavar or option.name.upper()}"


def tree() -> str:
    """The README's tree: one line per file, and one per folder whose files speak for themselves."""
    entries: dict[str, str] = {}
    for file in files():
        folder = next((f for f in WHOLE_FOLDERS if file.startswith(f + "/")), None)
        if folder:
            entries[folder + "/"] = WHOLE_FOLDERS[folder]
        else:
            entries[file] = FILES.get(file) or first_sentence(file)
    lines, shown = ["moescope/"], set[str]()
    for path in sorted(entries, key=_folders_last):
        *parents, name = path.rstrip("/").split("/")
        for depth in range(len(parents)):
            above = "/".join(parents[: depth + 1])
            if above not in shown:
                shown.add(above)
                lines.append("  " * (depth + 1) + parents[depth] + "/")
        label = "  " * (len(parents) + 1) + name + ("/" if path.endswith("/") else "")
        lines.append(f"{label:<{LABEL_CHARACTERS}} {entries[path]}".rstrip())
    return "\n".join(lines) + "\n"


def files() -> list[str]:
    """All files that git does not ignore, relative to the root, with `/` between folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return sorted({name for name in listed if (ROOT / name).is_file()})


def first_sentence(file: str) -> str:
    """What a file's line in the tree says: its heading, or the first sentence of its docstring."""
    text = (ROOT / file).read_text()
    if file.endswith("/README.md"):
        return "what this room is, and in which order to read it"
    if file.endswith(".md"):
        return text.lstrip("# ").partition("\n")[0]
    said = ast.get_docstring(ast.parse(text)) if file.endswith(".py") else ""
    if file.endswith(".js"):
        said = "".join(re.match(r"(?://[^\n]*\n)*", text)[0].split("//"))
    paragraph = " ".join((said or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<!\.)\. ", paragraph)[0].rstrip(".")
    room = LINE_CHARACTERS - LABEL_CHARACTERS - 1
    if len(sentence) <= room:
        return sentence
    strong = max(sentence.rfind(mark, 0, room) for mark in (": ", "; ", " ("))
    if strong > room // 3:
        return sentence[:strong]
    return sentence[: sentence.rfind(" ", 0, room - 4)].rstrip(",;:") + " ..."


def _folders_last(path: str) -> list[tuple[bool, str]]:
    *parents, name = path.rstrip("/").split("/")
    return [(True, parent) for parent in parents] + [(path.endswith("/"), name)]


def pages() -> dict[Path, str]:
    """{file: text that it should have}."""
    readme = (ROOT / "README.md").read_text()
    before, start, rest = readme.partition(TREE_START)
    _, end, after = rest.partition(TREE_END)
    if not start or not end:
        raise SystemExit("README.md has lost the marks around its tree")
    return {
        ROOT / "docs" / "signals.md": signal_page(),
        ROOT / "docs" / "alerts.md": alert_page(),
        ROOT / "docs" / "commands.md": command_page(),
        ROOT / "README.md": before + start + tree() + end + after,
    }


def main(arguments: list[str]) -> int:
    stale = 0
    for path, text in pages().items():
        if path.exists() and path.read_text() == text:
            continue
        if arguments == ["--check"]:
            print(f"{path.relative_to(ROOT)} is stale: run make docs")
            stale = 1
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
