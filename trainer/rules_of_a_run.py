"""The rules that a run trains with: read when it starts, changed by commands while it trains.

They are recorded in the run's folder; a resume goes on from there with what was changed since. They
never go back with a rollback, and a rule that cannot be used never stops a training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..monitors.rule_table import asked_versions, checked, said_changes, write_record

if TYPE_CHECKING:
    from .loop import Trainer


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
    versions = asked_versions(args.get("versions", ()), trainer.run.id)
    table = trainer.rules.overlaid(versions)
    rules = table.rules()
    checked(rules, trainer.config.policy.certify_after_steps)
    # the step that is on its way was trained under the old ones
    trainer.settle()
    trainer.state.judge = trainer.state.judge.with_rules(rules)
    trainer.rules = table
    done = said_changes(versions, rules)
    trainer.say_event("note", done, {"by": [version.changed_by for version in versions]})
    _record(trainer)
    return done


def _record(trainer: "Trainer") -> None:
    try:
        write_record(Path(trainer.run.folder), trainer.rules)
    except OSError as error:
        trainer.progress.say(f"what rules hold cannot be recorded: {error.strerror}")
