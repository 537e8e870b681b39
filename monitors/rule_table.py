"""The rules that a run trains with: a table to start from, overlaid with what was changed since."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..platform.errors import MoescopeError, did_you_mean
from ..platform.records import RuleVersion
from ..platform.rule_versions import ALL_RUNS
from .default_rules import DEFAULT_RULES
from .judge import Judge
from .rules import Rule, check_certification, read_rules

Source = Literal["default", "all runs", "run"]
RECORD = "rules.json"
"""File of a run's folder that says what it trains with."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule of the table and where it comes from."""

    rule: Rule
    source: Source
    version: RuleVersion | None = None
    """None for a rule of the table that one started from."""


@dataclass(frozen=True, slots=True)
class RuleTable:
    """A version of a rule goes before the table that one starts from, and a run's own before one of
    all runs; where it was taken away, what lies below it holds."""

    base: tuple[Rule, ...] = DEFAULT_RULES
    versions: tuple[RuleVersion, ...] = ()
    """The newest of each (run, name)."""

    def entries(self) -> list[Entry]:
        """The rules in the order of the table; new ones behind it. Raises MoescopeError where a
        version holds no rule."""
        found = {rule.name: Entry(rule, "default") for rule in self.base}
        # those of all runs first, since theirs is the empty run
        for version in sorted(self.versions, key=lambda v: (v.run_id != ALL_RUNS, v.name)):
            if version.body:
                source: Source = "all runs" if version.run_id == ALL_RUNS else "run"
                found[version.name] = Entry(rule_of(version), source, version)
        return list(found.values())

    def rules(self) -> tuple[Rule, ...]:
        return tuple(entry.rule for entry in self.entries())

    def entry(self, name: str) -> Entry:
        """Raises MoescopeError, with near names, where there is none."""
        found = {entry.rule.name: entry for entry in self.entries()}
        if name not in found:
            hint = did_you_mean(name, found)
            raise MoescopeError(f"unknown rule {name}{hint} (moescope rules lists them)")
        return found[name]

    def overlaid(self, versions: Iterable[RuleVersion]) -> "RuleTable":
        """Returns the table with these versions, as far as they are newer than its own."""
        kept = {(v.run_id, v.name): v for v in self.versions}
        for version in versions:
            known = kept.get((version.run_id, version.name))
            if known is None or version.version > known.version:
                kept[version.run_id, version.name] = version
        return replace(self, versions=tuple(kept.values()))


def rule_of(version: RuleVersion) -> Rule:
    """Reads the rule of a version. Raises MoescopeError where it is none of this program's."""
    try:
        (rule,) = read_rules([{**version.body, "name": version.name, "is_on": version.is_on}])
    except MoescopeError as error:
        of_run = f" --run {version.run_id}" if version.run_id else ""
        raise MoescopeError(
            f"{error} (moescope rules remove {version.name}{of_run} takes it away)"
        ) from None
    return rule


def body_of(rule: Rule) -> dict[str, Any]:
    """A rule as nested plain values, without what it leaves as it is; whether it is on is told
    apart."""
    return rule.model_dump(mode="json", exclude_defaults=True, exclude={"is_on"})


def checked(rules: Sequence[Rule], certify_after_steps: int | None = None) -> None:
    """Raises MoescopeError where a judge cannot work by these rules, or where a run that certifies
    after so many steps could not trust its checkpoints."""
    try:
        Judge(rules, "")
    except ValueError as error:
        raise MoescopeError(str(error)) from None
    if certify_after_steps is not None:
        check_certification(rules, certify_after_steps)


def usable(
    table: RuleTable, versions: Sequence[RuleVersion], certify_after_steps: int
) -> tuple[RuleTable, list[str]]:
    """Overlays what a run can train with, and says in a line what it cannot."""
    whole = table.overlaid(versions)
    fault = _fault(whole, certify_after_steps)
    if not fault:
        return whole, []
    refused = []
    for version in versions:
        tried = table.overlaid([version])
        fault = _fault(tried, certify_after_steps)
        if fault:
            refused.append(f"rule {version.name} is left as it was: {fault}")
        else:
            table = tried
    return table, refused


def _fault(table: RuleTable, certify_after_steps: int) -> str:
    try:
        checked(table.rules(), certify_after_steps)
    except MoescopeError as error:
        return str(error)
    return ""


def versions_of(rows: Any) -> list[RuleVersion]:
    """Reads versions from plain values. Raises MoescopeError where they are none."""
    try:
        found = [RuleVersion(**row) for row in rows]
        for version in found:
            if not isinstance(version.body, Mapping) or not isinstance(version.version, int):
                raise TypeError(f"version {version.version!r} of {version.name!r}")
    except TypeError as error:
        raise MoescopeError(f"these are no versions of rules ({error})") from None
    return found


def asked_versions(rows: Any, run_id: str) -> list[RuleVersion]:
    """Reads the versions that a command brings to a run. Raises MoescopeError where one is of
    another run."""
    found = versions_of(rows)
    for version in found:
        if version.run_id not in (ALL_RUNS, run_id):
            raise MoescopeError(f"rule {version.name} is one of run {version.run_id}")
    return found


def said_changes(versions: Sequence[RuleVersion], rules: Sequence[Rule]) -> str:
    """Says which rules were changed and how many hold now."""
    names = ", ".join(dict.fromkeys(version.name for version in versions)) or "none"
    num_on = sum(rule.is_on for rule in rules)
    return f"rules changed: {names}; {num_on} of {len(rules)} are on"


def write_record(folder: Path, table: RuleTable) -> None:
    """Writes what a run trains with into its folder, whole or not at all."""
    text = json.dumps(
        {
            "base": [rule.model_dump(mode="json", exclude_defaults=True) for rule in table.base],
            "versions": [asdict(version) for version in table.versions],
        },
        indent=1,
    )
    half = folder / f".{RECORD}.half"
    half.write_text(text)
    os.replace(half, folder / RECORD)


def read_record(folder: Path) -> RuleTable | None:
    """Reads what a run trained with; None where nothing is recorded. Raises MoescopeError where
    this program cannot read it."""
    path = folder / RECORD
    try:
        read = json.loads(path.read_text())
        base = read_rules(read["base"])
        return RuleTable(base, tuple(versions_of(read["versions"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MoescopeError(f"{path} cannot be read ({error})") from None
