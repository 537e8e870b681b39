"""Rules as the page draws them: the store has what was changed, the command line what it means."""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from ..platform.errors import MoescopeError
from ..platform.records import RuleVersion, Run
from ..platform.rule_versions import history, newest
from ..platform.store import Store
from . import command_line

TRY_LIMIT_S = 120.0
MOST_RUNS = 40


@dataclass(frozen=True, slots=True)
class RuleRow:
    name: str
    source: str
    """default, all runs or run."""
    state: str
    """on, off or dry run."""
    yaml: str
    rule: dict[str, Any]
    changed: str
    """Who changed it to what it is; empty for a default rule."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What rules would have done in a run."""

    num_steps: int
    alarms: pd.DataFrame
    unheard: tuple[str, ...]
    """Rules whose signal the run did not measure."""


def rules_now(store: Store, run_id: str) -> list[RuleRow]:
    """The rules of all runs, or of one. Raises MoescopeError with the command's line."""
    versions = [(v.run_id, v.name, v.version) for v in newest(store, run_id)]
    return [_row(told) for told in _listed(store.url, run_id, tuple(versions), store)]


@st.cache_data(ttl=60.0, show_spinner="Reading the rules", max_entries=32)
def _listed(
    store_url: str, run_id: str, versions: tuple[tuple[str, str, int], ...], _store: Store
) -> list[dict[str, Any]]:
    words = ["rules", "list", "--json", *(["--run", run_id] if run_id else [])]
    answer = command_line.asked(_store, words)
    if not answer.is_done:
        raise MoescopeError(answer.text)
    found: list[dict[str, Any]] = json.loads(answer.text)
    return found


def _row(told: dict[str, Any]) -> RuleRow:
    version = told["version"]
    changed = f"version {version['version']} by {version['changed_by']}" if version else ""
    return RuleRow(told["name"], told["source"], told["state"], told["yaml"], told["rule"], changed)


def tried(store: Store, yaml: str, run_id: str) -> Trial:
    """Replays rules over a stored run. Raises MoescopeError with the command's line."""
    words = ["rules", "test", "-", run_id, "--json"]
    answer = command_line.asked(store, words, yaml, TRY_LIMIT_S)
    if not answer.is_done:
        raise MoescopeError(answer.text)
    told = json.loads(answer.text)
    alarms = [
        {
            "step": alarm["step"],
            "rule": alarm["rule"],
            "severity": alarm["severity"],
            "onset": alarm["onset_step"],
            "value": float(alarm["value"]),
            "asks for": "" if alarm["action"] == "carry_on" else alarm["action"],
            "what": alarm["reason"] or alarm["message"],
        }
        for alarm in told["alarms"]
    ]
    unheard = tuple(heard["rule"] for heard in told["rules"] if not heard["num_steps"])
    return Trial(told["num_steps"], pd.DataFrame(alarms), unheard)


def history_of(store: Store, name: str) -> list[RuleVersion]:
    return history(store, name)


def runs_to_choose(store: Store) -> list[Run]:
    """Runs that train first, then the newest."""
    runs = store.runs()
    return sorted(runs, key=lambda run: run.status != "running")[:MOST_RUNS]
