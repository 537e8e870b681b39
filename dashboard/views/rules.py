"""Rules: what is judged, where each comes from; a person changes one after it was tried."""

import time

import streamlit as st

from ...platform.errors import MoescopeError
from ...platform.store import Store
from .. import asks
from ..command_line import Answer
from ..reads_of_rules import RuleRow, history_of, rules_now, runs_to_choose, tried
from ..sign_in import who_asks
from ..theme import SEVERITIES
from ..words import age, number, plain
from .panel import act, badge, store_may_be_away

ALL_RUNS = ""
TEMPLATE = """name: my_rule
signal: loss/total
detector: spike
threshold: 6
patience: 3
of_last: 5
cooldown_steps: 50
severity: warning
action: observe
delay_p99_steps: 10
message: the loss jumps
is_dry_run: true
"""
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
_EDITED, _OPENING, _ASKING = "rule_edited", "rule_opening", "rule_asking"
_ANSWER, _TRIAL = "rule_answer", "rule_trial"


def render(store: Store) -> None:
    st.header("Rules")
    names = {ALL_RUNS: "All runs"} | {run.id: run.name for run in runs_to_choose(store)}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        run_id = st.selectbox(
            "Rules of",
            list(names),
            format_func=lambda key: names.get(key, key),
            key="rules_of",
            width=320,
        )
        if (who := who_asks()).may_act:
            st.button(
                "New rule",
                key="rule_new",
                icon=":material/add:",
                on_click=_edit,
                args=("", TEMPLATE),
            )
    if not who.may_act:
        st.caption(who.why_not)
    with store_may_be_away():
        _answer()
        _editor(store, run_id, names)
        try:
            rows = rules_now(store, run_id)
        except MoescopeError as error:
            st.error("The rules cannot be read.", icon=":material/error:")
            st.text(str(error))
            return
        for row in rows:
            with st.container(border=True, gap="small", key=f"rule_{row.name}"):
                _rule(store, row, run_id, names[run_id])


def _rule(store: Store, row: RuleRow, run_id: str, whose: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        icon, colour = _STATES[row.state]
        st.badge(row.state, icon=icon, color=colour)  # type: ignore[arg-type]
        badge(SEVERITIES[row.rule["severity"]])
        st.markdown(f"**{plain(row.name, 64)}**", width="content")
        by = f", {plain(row.changed, 60)}" if row.changed else ""
        st.markdown(f":gray[{_SOURCES[row.source]}{by}]", width="stretch")
        _buttons(row, run_id)
    st.markdown(_in_words(row))
    asking = st.session_state.get(_ASKING)
    if asking is not None and asking[1] == row.name:
        _question(store, asking[0], row.name, run_id, whose)


def _buttons(row: RuleRow, run_id: str) -> None:
    may_act = who_asks().may_act
    st.button(
        "Edit" if may_act else "Show",
        key=f"edit_{row.name}",
        icon=":material/edit:" if may_act else ":material/visibility:",
        type="tertiary",
        on_click=_edit,
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
            args=({_ASKING: (deed, row.name)},),
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
    st.warning(f"{of}: {_DEEDS[deed].format(name=plain(name))} {_WHEN}")
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Yes",
            key="rule_yes",
            type="primary",
            on_click=_do,
            args=(store, deed, name, run_id),
        )
        st.button("No", key="rule_no", on_click=st.session_state.pop, args=(_ASKING,))


_WHEN = "Runs that train take it at their next step and answer under Commands."


def _do(store: Store, deed: asks.RuleDeed, name: str, run_id: str) -> None:
    st.session_state.pop(_ASKING, None)
    st.session_state[_ANSWER] = act(asks.change_rule, store, deed, name, run_id)


def _answer() -> None:
    answer: Answer | None = st.session_state.pop(_ANSWER, None)
    if answer is None:
        return
    if answer.is_done:
        lines = [plain(line) for line in answer.text.strip().splitlines()]
        st.success("  \n".join(lines), icon=":material/check_circle:")
    else:
        st.error(plain(answer.text, 600), icon=":material/block:")


def _edit(name: str, yaml: str) -> None:
    _close()
    # each opening has a text of its own, or the browser might bring back what was typed before
    opening = st.session_state.get(_OPENING, 0) + 1
    st.session_state.update({_EDITED: (name, yaml), _OPENING: opening})


def _close() -> None:
    for key in (_EDITED, _ASKING, _TRIAL):
        st.session_state.pop(key, None)


def _editor(store: Store, run_id: str, names: dict[str, str]) -> None:
    edited: tuple[str, str] | None = st.session_state.get(_EDITED)
    if edited is None:
        return
    name, before = edited
    with st.container(border=True, key="rule_editor"):
        whose = f"run {plain(names[run_id])}" if run_id else "all runs"
        st.markdown(f"**{plain(name) if name else 'New rule'}** of {whose}")
        if not who_asks().may_act:
            _shown(store, name, before, names)
            return
        yaml = st.text_area(
            "Rule as YAML",
            before,
            key=f"rule_yaml_{st.session_state[_OPENING]}",
            height=330,
            label_visibility="collapsed",
        )
        runs = [key for key in names if key]
        over = run_id or (
            st.selectbox("Try it over", runs, format_func=names.__getitem__, key="rule_over")
            if runs
            else None
        )
        with st.container(horizontal=True, gap="small"):
            if st.button(
                "Try",
                key="rule_try",
                icon=":material/science:",
                disabled=over is None,
                help="Replays the rule over the stored run. Nothing is saved or done.",
            ):
                _try(store, yaml, str(over))
            st.button(
                "Save…",
                key="rule_save",
                icon=":material/save:",
                on_click=st.session_state.update,
                args=({_ASKING: ("save", "")},),
            )
            st.button("Close", key="rule_close", on_click=_close)
        _trial(yaml, names.get(str(over), ""))
        if st.session_state.get(_ASKING) == ("save", ""):
            st.warning(f"The rule becomes one of {whose}. {_WHEN}")
            with st.container(horizontal=True, gap="small"):
                st.button(
                    "Yes, save",
                    key="rule_save_yes",
                    type="primary",
                    on_click=_save,
                    args=(store, yaml, run_id),
                )
                st.button("No", key="rule_save_no", on_click=_ask_no_more)
        if name:
            _history(store, name, names)


def _shown(store: Store, name: str, yaml: str, names: dict[str, str]) -> None:
    """What a viewer sees of a rule: a replay would take the machine's time, so it is left out."""
    st.code(yaml, language="yaml")
    st.button("Close", key="rule_close", on_click=_close)
    _history(store, name, names)


def _ask_no_more() -> None:
    st.session_state.pop(_ASKING, None)


def _save(store: Store, yaml: str, run_id: str) -> None:
    answer = act(asks.set_rules, store, yaml, run_id)
    if answer is not None and answer.is_done:
        _close()
    else:
        _ask_no_more()
    st.session_state[_ANSWER] = answer


def _try(store: Store, yaml: str, run_id: str) -> None:
    with st.spinner("Replaying the run"):
        try:
            st.session_state[_TRIAL] = (yaml, tried(store, yaml, run_id))
        except MoescopeError as error:
            st.session_state[_TRIAL] = (yaml, str(error))


def _trial(yaml: str, run_name: str) -> None:
    of, found = st.session_state.get(_TRIAL, ("", None))
    if found is None or of != yaml:  # the text has changed since
        return
    if isinstance(found, str):
        st.error(plain(found, 600), icon=":material/block:")
        return
    for name in found.unheard:
        st.info(f"{plain(name)} had nothing to judge: the run did not measure its signal.")
    over = f"in {found.num_steps:,} steps of {plain(run_name)}"
    if found.alarms.empty:
        st.success(f"No alarm {over}.", icon=":material/check_circle:")
        return
    num = len(found.alarms)
    st.markdown(f"**{num}** alarm{'s' if num > 1 else ''} {over}.")
    st.dataframe(
        found.alarms,
        key="rule_alarms",
        hide_index=True,
        height=min(300, 38 + 35 * num),
        column_config={"value": st.column_config.NumberColumn(format="%.3g")},
    )


def _history(store: Store, name: str, names: dict[str, str]) -> None:
    versions = history_of(store, name)
    with st.expander(f"History ({len(versions)})", icon=":material/history:"):
        if not versions:
            st.caption("It was never changed.")
        now_s = time.time()
        for version in versions[:20]:
            became = ("on" if version.is_on else "off") if version.body else "taken away"
            whose = plain(names.get(version.run_id, version.run_id))
            told = ", ".join(
                f"{key} {value}"
                for key, value in version.body.items()
                if key not in ("name", "meaning", "advice", "message")
            )
            st.markdown(
                f"**{version.version}** of {whose.lower() if not version.run_id else whose}, "
                f"{became} :gray[by {plain(version.changed_by, 40)}, "
                f"{age(now_s - version.changed_s)} ago]"
            )
            if told:
                st.caption(plain(told, 400))
