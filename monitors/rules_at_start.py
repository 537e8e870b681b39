"""The rules that a run starts with: what it had, or a table, overlaid with what the store has."""

from pathlib import Path

from ..platform.engines import StoreAway
from ..platform.errors import MoescopeError
from ..platform.records import Run
from ..platform.rule_versions import newest
from ..platform.store import Store
from .default_rules import DEFAULT_RULES
from .rule_table import RuleTable, read_record, usable
from .rules import Rule


def rules_at_start(
    store: Store,
    run: Run,
    old: Run | None,
    certify_after_steps: int,
    base: tuple[Rule, ...] = DEFAULT_RULES,
) -> tuple[RuleTable, list[str]]:
    """Returns the rules that a run starts with or goes on with, and a line for each that it cannot
    use."""
    table, lines = RuleTable(base), list[str]()
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
