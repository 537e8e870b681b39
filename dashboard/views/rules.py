"""Rules: what is judged, where each comes from; found, switched, and changed after a try."""

import streamlit as st

from ...platform.errors import MoescopeError
from ...platform.store import Store
from .. import asks
from ..command_line import Answer
from ..reads_of_rules import RuleRow, num_alerts_by_rule, rules_now, runs_to_choose
from ..sign_in import who_asks
from ..theme import SEVERITIES
from ..words import number, plain
from . import rule_editor
from .panel import act, badge, page_of_the_store
from .rule_editor import ANSWER, ASKING, when_in_words

ALL_RUNS = ""
ANY = "any state"
_ACTIONS = {
    "observe": "only tells",
    "skip_data": "skips data",
    "damp": "damps",
    "rollback": "rolls back",
    "halt": "halts",
}
_STATES = {
    "on": (":material/toggle_on:", "green"),
    "off": (":material/toggle_off:", "gray"),
    "dry run": (":material/science:", "blue"),
}
_SOURCES = {"default": "default", "all runs": "changed for all runs", "run": "changed for this run"}
_DEEDS: dict[asks.RuleDeed, str] = {
    "on": "{name} is judged again.",
    "off": "{name} is not judged any more: nothing is raised or done by it.",
    "remove": "What was changed of {name} is taken away; what it covered holds again.",
}


def render(store: Store) -> None:
    st.header("Rules")
    with page_of_the_store():
        names = {ALL_RUNS: "All runs"} | {run.id: run.name for run in runs_to_choose(store)}
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            run_id = _whose(store, names)
            if (who := who_asks()).may_act:
                rule_editor.new_rule(store, run_id)
        if not who.may_act:
            st.caption(who.why_not)
        _answer()
        rule_editor.render(store, run_id, names)
        try:
            rows = rules_now(store, run_id)
        except MoescopeError as error:
            st.error("The rules cannot be read.", icon=":material/error:")
            st.text(str(error))
            return
        shown = _found(rows)
        num_alerts = num_alerts_by_rule(store, run_id)
        for row in shown:
            with st.container(border=True, gap="small", key=f"rule_{row.name}"):
                _rule(store, row, run_id, names[run_id], num_alerts.get(row.name, 0))


def _whose(store: Store, names: dict[str, str]) -> str:
    """The run whose rules are shown, or all; the address says and follows it."""
    wanted = st.query_params.get("run", ALL_RUNS)
    if wanted and wanted not in names:
        try:
            run = store.find_run(wanted)
            wanted = run.id
            names[run.id] = run.name
        except MoescopeError as error:
            st.caption(plain(str(error)))
            wanted = ALL_RUNS
    # the address of another link counts more than what this session chose before
    if st.session_state.get("rules_address") != wanted:
        st.session_state["rules_of"] = wanted
    if st.session_state.get("rules_of") not in names:
        st.session_state["rules_of"] = wanted
    run_id = st.selectbox(
        "Rules of",
        list(names),
        format_func=lambda key: names.get(key, key),
        key="rules_of",
        width=280,
    )
    if run_id:
        st.query_params["run"] = run_id
    else:
        st.query_params.pop("run", None)
    st.session_state["rules_address"] = run_id
    return run_id


def _found(rows: list[RuleRow]) -> list[RuleRow]:
    """Draws how many rules there are in which state, and the widgets that find some of them."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for state, (icon, colour) in _STATES.items():
            num = sum(row.state == state for row in rows)
            st.badge(f"{num} {state}", icon=icon, color=colour)  # type: ignore[arg-type]
        num_changed = sum(row.source != "default" for row in rows)
        if num_changed:
            st.badge(f"{num_changed} changed", icon=":material/edit:", color="violet")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        words = st.text_input(
            "Find", key="rules_find", placeholder="name, signal, detector, action", width=280
        )
        state = st.segmented_control(
            "State", [ANY, *_STATES], default=ANY, required=True, key="rules_state"
        )
        is_changed = st.toggle("Changed only", key="rules_changed")
    shown = [
        row
        for row in rows
        if state in (None, ANY, row.state)
        and (row.source != "default" or not is_changed)
        and _matches(row, words or "")
    ]
    if not shown:
        st.info("No rule matches; take a word away to see more.", icon=":material/filter_alt_off:")
    elif len(shown) < len(rows):
        st.caption(f"{len(shown)} of {len(rows)} rules.")
    return shown


def _matches(row: RuleRow, wanted: str) -> bool:
    rule = row.rule
    said = (row.name, rule["signal"], rule["detector"], rule["severity"], rule["message"])
    action = (rule["action"], _ACTIONS.get(rule["action"], ""))
    text = " ".join((*said, *action, row.state, row.changed)).lower()
    return all(word in text for word in wanted.lower().split())


def _rule(store: Store, row: RuleRow, run_id: str, whose: str, num_alerts: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        icon, colour = _STATES[row.state]
        st.badge(row.state, icon=icon, color=colour)  # type: ignore[arg-type]
        badge(SEVERITIES[row.rule["severity"]])
        st.markdown(f"**{plain(row.name, 64)}**", width="content")
        by = f", {plain(row.changed, 60)}" if row.changed else ""
        st.markdown(f":gray[{_SOURCES[row.source]}{by}]", width="stretch")
        _buttons(row, run_id)
    raised = f" · {num_alerts:,} alert{'s' if num_alerts > 1 else ''} so far" if num_alerts else ""
    st.markdown(f"{_in_words(row)}{raised}")
    asking = st.session_state.get(ASKING)
    if asking is not None and asking[1] == row.name and who_asks().may_act:
        _question(store, asking[0], row.name, run_id, whose)


def _buttons(row: RuleRow, run_id: str) -> None:
    may_act = who_asks().may_act
    st.button(
        "Edit" if may_act else "Show",
        key=f"edit_{row.name}",
        icon=":material/edit:" if may_act else ":material/visibility:",
        type="tertiary",
        on_click=rule_editor.edit,
        args=(row.name, row.yaml),
    )
    if not may_act:
        return
    deeds: list[tuple[asks.RuleDeed, str, str]] = [
        ("on", "Switch on…", ":material/toggle_on:")
        if row.state == "off"
        else ("off", "Switch off…", ":material/toggle_off:")
    ]
    if row.source == ("run" if run_id else "all runs"):
        deeds.append(("remove", "Take away…", ":material/undo:"))
    for deed, label, icon in deeds:
        st.button(
            label,
            key=f"{deed}_{row.name}",
            icon=icon,
            type="tertiary",
            on_click=st.session_state.update,
            args=({ASKING: (deed, row.name)},),
        )


def _in_words(row: RuleRow) -> str:
    rule = row.rule
    lasting = f", {rule['patience']} of {rule['of_last']} times" if rule["of_last"] > 1 else ""
    scope = "".join(
        f", {dimension} {', '.join(str(entry) for entry in entries)} only"
        for dimension, entries in rule["scope"].items()
    )
    return (
        f"{plain(rule['message'], 160)}: {rule['detector']} of `{rule['signal']}` above "
        f"{number(float(rule['threshold']))}{lasting}{plain(scope, 120)} · "
        f"**{_ACTIONS.get(rule['action'], rule['action'])}**"
    )


def _question(store: Store, deed: asks.RuleDeed, name: str, run_id: str, whose: str) -> None:
    of = f"Of run {plain(whose)}" if run_id else "Of all runs"
    said = _DEEDS[deed].format(name=plain(name))
    st.warning(f"{of}: {said} {when_in_words(store, run_id)}")
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Yes",
            key="rule_yes",
            type="primary",
            on_click=_do,
            args=(store, deed, name, run_id),
        )
        st.button("No", key="rule_no", on_click=st.session_state.pop, args=(ASKING,))


def _do(store: Store, deed: asks.RuleDeed, name: str, run_id: str) -> None:
    st.session_state.pop(ASKING, None)
    st.session_state[ANSWER] = act(asks.change_rule, store, deed, name, run_id)


def _answer() -> None:
    answer: Answer | None = st.session_state.pop(ANSWER, None)
    if answer is None:
        return
    if answer.is_done:
        lines = [plain(line) for line in answer.text.strip().splitlines()]
        st.success("  \n".join(lines), icon=":material/check_circle:")
    else:
        st.error(plain(answer.text, 600), icon=":material/block:")
