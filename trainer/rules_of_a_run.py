"""The rules that a run trains with: read when it starts, changed by commands while it trains.

They are recorded in the run's folder; a resume goes on from there with what was changed since. They
never go back with a rollback, and a rule that cannot be used never stops a training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..monitors.rule_table import RuleTable, checked, read_record, usable, versions_of, write_record
from ..platform.engines import StoreAway
from ..platform.errors import MoescopeError
from ..platform.records import Run
from ..platform.rule_versions import ALL_RUNS, newest
from ..platform.store import Store

if TYPE_CHECKING:
    from .loop import Trainer


def rules_at_start(
    store: Store, run: Run, old: Run | None, certify_after_steps: int
) -> tuple[RuleTable, list[str]]:
    """Returns the rules that a run starts with or goes on with, and a line for each that it cannot
    use."""
    table, lines = RuleTable(), list[str]()
    try:
        recorded = read_record(Path(old.folder)) if old is not None else None
    except MoescopeError as error:
        recorded = None
        lines.append(f"the rules that the run had are lost, it takes the default ones: {error}")
    if recorded is not None:
        # certification may have been made faster since
        table, refused = usable(RuleTable(recorded.base), recorded.versions, certify_after_steps)
        lines += refused
    try:
        versions = newest(store, run.id)
    except StoreAway as away:
        kept = "default rules" if recorded is None else "rules that the run had"
        return table, [*lines, f"the store is away, so the {kept} hold: {away}"]
    table, refused = usable(table, versions, certify_after_steps)
    return table, lines + refused


def say_rules(trainer: "Trainer", refused: Sequence[str]) -> None:
    """Records what the run trains with, and says what is not as in the default table."""
    for line in refused:
        trainer.progress.say(line)
        trainer.say_event("note", line, {})
    changed = [entry.rule.name for entry in trainer.rules.entries() if entry.source != "default"]
    if changed:
        text = f"rules other than the default ones: {', '.join(changed)}"
        trainer.progress.say(text)
        trainer.say_event("note", text, {})
    _record(trainer)


def set_rules(trainer: "Trainer", args: dict[str, Any]) -> str:
    """Trains on with changed rules; what stays as it is keeps its baselines. Returns what was done.

    Raises MoescopeError where they cannot be used: then everything is as it was.
    """
    versions = versions_of(args.get("versions", ()))
    for version in versions:
        if version.run_id not in (ALL_RUNS, trainer.run.id):
            raise MoescopeError(f"rule {version.name} is one of run {version.run_id}")
    table = trainer.rules.overlaid(versions)
    rules = table.rules()
    checked(rules, trainer.config.policy.certify_after_steps)
    # the step that is on its way was trained under the old ones
    trainer.settle()
    trainer.state.judge = trainer.state.judge.with_rules(rules)
    trainer.rules = table
    names = ", ".join(dict.fromkeys(version.name for version in versions)) or "none"
    num_on = sum(rule.is_on for rule in rules)
    done = f"rules changed: {names}; {num_on} of {len(rules)} are on"
    trainer.say_event("note", done, {"by": [version.changed_by for version in versions]})
    _record(trainer)
    return done


def _record(trainer: "Trainer") -> None:
    try:
        write_record(Path(trainer.run.folder), trainer.rules)
    except OSError as error:
        trainer.progress.say(f"what rules hold cannot be recorded: {error.strerror}")
