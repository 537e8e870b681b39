"""The commands about rules: `moescope rules ...`. Each loads what it needs when it is called."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..platform.errors import MoescopeError
from ..platform.shell import (
    Home,
    Json,
    StoreUrl,
    asked_settings,
    command_group,
    opened_store,
    refuse_early_options,
    whoever,
)
from ..platform.terminal import ago, say, say_json, say_rows

if TYPE_CHECKING:
    from ..platform.records import RuleVersion, Run
    from ..platform.rule_versions import RuleChange
    from ..platform.store import Store
    from .replay import Replay
    from .rule_table import Entry, RuleTable
    from .rules import Rule

rules_app = command_group("List the rules; show, change, remove, switch or try one.")

OfRun = Annotated[
    str, typer.Option("--run", metavar="RUN", help="A rule of this run, instead of all runs.")
]
RuleName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")]
RulesFile = Annotated[
    str,
    typer.Argument(metavar="FILE", help="YAML: a rule, or a list of rules; - is standard input."),
]
ChangedBy = Annotated[str, typer.Option("--by", hidden=True)]


@rules_app.callback(invoke_without_command=True)
def rules(
    context: typer.Context,
    run: OfRun = "",
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """List the rules; sub-commands change or try one."""
    if context.invoked_subcommand is None:
        list_rules(run, home, store, as_json)
    else:
        refuse_early_options(context)


@rules_app.command("list")
def list_rules(
    run: OfRun = "", home: Home = None, store: StoreUrl = None, as_json: Json = False
) -> None:
    """List the rules that a new run starts with, or that a run has, and where each comes from."""
    with opened_store(asked_settings(home, store)) as open_store:
        found = _table(open_store, _run(open_store, run)).entries()
    if as_json:
        say_json([_told(entry) for entry in found])
        return
    rows = [
        {
            "rule": entry.rule.name,
            "is": _state(entry.rule),
            "signal": entry.rule.signal,
            "detector": entry.rule.detector,
            "limit": f"{entry.rule.threshold:g}",
            "severity": entry.rule.severity,
            "action": entry.rule.action,
            "from": entry.source,
            "changed": _changed(entry.version),
        }
        for entry in found
    ]
    say_rows(rows, "no rules")


@rules_app.command("show")
def show_rule(
    name: RuleName,
    run: OfRun = "",
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Print a rule as YAML, as `set` takes it."""
    with opened_store(asked_settings(home, store)) as open_store:
        entry = _table(open_store, _run(open_store, run)).entry(name)
    if as_json:
        say_json(_told(entry))
    else:
        say(_yaml(entry.rule).rstrip())


@rules_app.command("set")
def set_rules(
    file: RulesFile,
    run: OfRun = "",
    changed_by: ChangedBy = "",
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Add rules or change them: each as a whole, all or none. Runs that train take them at their
    next step."""
    from ..platform.rule_versions import RuleChange
    from .rule_table import body_of

    read = _read(file)
    with opened_store(asked_settings(home, store)) as open_store:
        found = _run(open_store, run)
        run_id = found.id if found else ""
        changes = [RuleChange(run_id, rule.name, body_of(rule), rule.is_on) for rule in read]
        _change(open_store, found, changes, changed_by)


@rules_app.command("remove")
def remove_rule(
    name: RuleName,
    run: OfRun = "",
    changed_by: ChangedBy = "",
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Take a changed or added rule away: what it covered, if anything, holds again."""
    from ..platform.rule_versions import RuleChange

    with opened_store(asked_settings(home, store)) as open_store:
        found = _run(open_store, run)
        run_id = found.id if found else ""
        table = _table(open_store, found)
        if not any(v.name == name and v.run_id == run_id and v.body for v in table.versions):
            entry = table.entry(name)
            whose = f"of run {found.name}" if found else "of all runs"
            raise MoescopeError(
                f"there is no rule {name} {whose} to take away, it comes from {entry.source}: "
                f"switch it off with `moescope rules off {name}`"
            )
        _change(open_store, found, [RuleChange(run_id, name, {})], changed_by)


@rules_app.command("off")
def switch_off(
    name: RuleName,
    run: OfRun = "",
    changed_by: ChangedBy = "",
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Switch a rule off: it is not judged any more."""
    _switch(name, run, changed_by, home, store, is_on=False)


@rules_app.command("on")
def switch_on(
    name: RuleName,
    run: OfRun = "",
    changed_by: ChangedBy = "",
    home: Home = None,
    store: StoreUrl = None,
) -> None:
    """Switch a rule on again."""
    _switch(name, run, changed_by, home, store, is_on=True)


@rules_app.command("history")
def show_history(
    name: RuleName, home: Home = None, store: StoreUrl = None, as_json: Json = False
) -> None:
    """List all versions of a rule, newest first: who changed it, when, and what it was."""
    from ..platform.rule_versions import history

    with opened_store(asked_settings(home, store)) as open_store:
        found = history(open_store, name)
        if not found:
            _table(open_store, None).entry(name)
        names = {run.id: run.name for run in open_store.runs(include_archived=True)}
    if as_json:
        say_json(found)
        return
    now_s = time.time()
    rows = [
        {
            "version": version.version,
            "of": names.get(version.run_id, version.run_id) or "all runs",
            "is": ("on" if version.is_on else "off") if version.body else "taken away",
            "by": version.changed_by,
            "ago": ago(version.changed_s, now_s),
            "rule": _in_words(version),
        }
        for version in found
    ]
    say_rows(rows, f"rule {name} was never changed")


@rules_app.command("test")
def try_rules(
    rules: Annotated[
        str,
        typer.Argument(
            metavar="RULES",
            help="YAML file, - for standard input, or `current`: the rules that the run has.",
        ),
    ],
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Name, id, or beginning of the id of a run.")
    ],
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Replay rules over a stored run, among the others that it has: what they would have raised and
    the policy asked for. Nothing is done."""
    from .replay import replay
    from .rule_table import checked

    read = [] if rules == "current" else _read(rules)
    with opened_store(asked_settings(home, store)) as open_store:
        found = open_store.find_run(run)
        before = _table(open_store, found).rules()
        given = {rule.name: rule for rule in read}
        tried = [given.pop(rule.name, rule) for rule in before] + list(given.values())
        checked(tried)
        shown = [rule.name for rule in read] or None
        replayed = replay(open_store, found, tried, shown)
    if as_json:
        say_json(replayed)
    else:
        _say_replay(replayed)


def _say_replay(replayed: "Replay") -> None:
    rows = [
        {
            "step": alarm.step,
            "rule": alarm.rule + (" (dry run)" if alarm.is_dry_run else ""),
            "severity": alarm.severity,
            "onset": alarm.onset_step,
            "value": f"{alarm.value:.3g}",
            "action": "" if alarm.action == "carry_on" else alarm.action,
            "what": alarm.reason or alarm.message,
        }
        for alarm in replayed.alarms
    ]
    say_rows(rows, f"no alarm in {replayed.num_steps} steps of {replayed.run}")
    for heard in replayed.rules:
        if not heard.num_steps:
            say(f"rule {heard.rule} had nothing to judge: its signal was not measured in this run")


def _switch(
    name: str, run: str, changed_by: str, home: Path | None, store: str | None, *, is_on: bool
) -> None:
    from ..platform.rule_versions import RuleChange
    from .rule_table import body_of

    with opened_store(asked_settings(home, store)) as open_store:
        found = _run(open_store, run)
        rule = _table(open_store, found).entry(name).rule
        if rule.is_on == is_on:
            say(f"rule {name} is {'on' if is_on else 'off'} already")
            return
        change = RuleChange(found.id if found else "", name, body_of(rule), is_on)
        _change(open_store, found, [change], changed_by)


def _change(
    store: "Store", run: "Run | None", changes: "Sequence[RuleChange]", changed_by: str
) -> None:
    """Checks the changes for all whom they reach, writes them, and asks runs that train."""
    from dataclasses import asdict

    from ..platform.commands import ask
    from ..platform.records import RuleVersion
    from ..platform.rule_versions import change
    from .rule_table import checked

    now_s, who = time.time(), changed_by or whoever()
    newer = [
        RuleVersion(new.run_id, new.name, sys.maxsize, new.body, new.is_on, who, now_s)
        for new in changes
    ]
    checked(_table(store, run).overlaid(newer).rules(), _certify_after(run))
    # by its id: what is the same run may have beaten since it was read
    wanted = [r for r in store.runs(True) if run is None or r.id == run.id]
    training = [r for r in wanted if r.status == "running"]
    for other in training if run is None else []:
        try:
            checked(_table(store, other).overlaid(newer).rules(), _certify_after(other))
        except MoescopeError as error:
            raise MoescopeError(f"run {other.name} is training and cannot take it: {error}") from (
                None
            )
    written = change(store, changes, who, now_s)
    for version in written:
        whose = f"of run {run.name}" if run else "of all runs"
        became = "" if version.body else ", taken away"
        became = became or ("" if version.is_on else ", off")
        say(f"rule {version.name} {whose}: version {version.version}{became}")
    rows = [asdict(version) for version in written]
    for other in training:
        ask(store, other.id, "set_rules", {"versions": rows}, who, now_s)
        say(f"run {other.name} was asked to take it at its next step")


def _certify_after(run: "Run | None") -> int | None:
    from .replay import limits_of

    return None if run is None else limits_of(run).certify_after_steps


def _run(store: "Store", name: str) -> "Run | None":
    return store.find_run(name) if name else None


def _table(store: "Store", run: "Run | None") -> "RuleTable":
    """The rules that a new run starts with, or those of a run: what it recorded, where that is on
    this machine, and what was changed since."""
    from ..platform.history.imported_runs import is_imported
    from ..platform.rule_versions import newest
    from .rule_table import RuleTable, read_record

    recorded = read_record(Path(run.folder)) if run is not None and run.folder else None
    if recorded is None and run is not None and is_imported(store, run.id):
        recorded = _of_what_it_has(store, run)
    return (recorded or RuleTable()).overlaid(newest(store, run.id if run else ""))


def _of_what_it_has(store: "Store", run: "Run") -> "RuleTable":
    """The rules of a run that another program trained: those on the one loss where it has no losses
    of samples."""
    from ..platform.catalogue import LOSS_PER_SAMPLE
    from ..platform.series import known_signals
    from .rule_table import RuleTable
    from .watching.watched_rules import watched_rules

    has_samples = LOSS_PER_SAMPLE in known_signals(store, run.id)
    return RuleTable(watched_rules(has_samples=has_samples))


def _read(file: str) -> "tuple[Rule, ...]":
    """Reads rules from YAML. Raises MoescopeError, one line, on anything that is none."""
    from ..platform.strict_yaml import read_yaml
    from .rules import read_rules

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MoescopeError(f"{file} cannot be read ({error})") from None
    rows = read_yaml(text, file)
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise MoescopeError(
            f"{file} holds no rule: a mapping with name, signal, detector, ... or a list of such "
            "is expected (moescope rules show NAME prints one)"
        )
    return read_rules([{str(key): value for key, value in row.items()} for row in rows])


def _yaml(rule: "Rule") -> str:
    import yaml

    from .rule_table import body_of

    return yaml.safe_dump(body_of(rule), sort_keys=False, allow_unicode=True, width=88)


def _told(entry: "Entry") -> dict[str, Any]:
    return {
        "name": entry.rule.name,
        "source": entry.source,
        "state": _state(entry.rule),
        "version": entry.version,
        "yaml": _yaml(entry.rule),
        "rule": entry.rule.model_dump(mode="json"),
    }


def _state(rule: "Rule") -> str:
    if not rule.is_on:
        return "off"
    return "dry run" if rule.is_dry_run else "on"


def _changed(version: "RuleVersion | None") -> str:
    if version is None:
        return ""
    when = ago(version.changed_s, time.time())
    return f"version {version.version} by {version.changed_by}, {when} ago"


def _in_words(version: "RuleVersion") -> str:
    told = {k: v for k, v in version.body.items() if k not in ("name", "meaning", "advice")}
    return ", ".join(f"{key} {value}" for key, value in told.items())
