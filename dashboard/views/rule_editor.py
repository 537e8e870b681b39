"""The editor of a rule: a text to begin with, tried over a run, saved after one more question."""

import time

import streamlit as st

from ...platform.catalogue import signal_spec
from ...platform.errors import MoescopeError
from ...platform.store import Store
from .. import asks
from ..reads_of_rules import history_of, range_of, signals_to_choose, tried
from ..rule_text import faults, marked, template
from ..sign_in import who_asks
from ..words import age, plain
from . import rule_trial
from .panel import act

EDITED, ASKING, ANSWER = "rule_edited", "rule_asking", "rule_answer"
_OPENING, _TRIAL, _REFUSAL = "rule_opening", "rule_trial", "rule_refusal"
MOST_VERSIONS = 20


def when_in_words(store: Store, run_id: str) -> str:
    """Who takes a change of rules, and when."""
    if run_id and store.find_run(run_id).status != "running":
        return "The run does not train; it takes it when it is resumed."
    return "Runs that train take it at their next step and answer on their page of control."


def new_rule(store: Store, run_id: str) -> None:
    """Draws the choice of a signal and the button that begins a rule about it."""
    signals = signals_to_choose(store, run_id)
    if st.session_state.get("rule_signal") not in signals:
        st.session_state["rule_signal"] = signals[0]
    signal = st.selectbox(
        "New rule about",
        signals,
        key="rule_signal",
        width=280,
        help=signal_spec(st.session_state["rule_signal"]).help or None,
    )
    st.button(
        "New rule",
        key="rule_new",
        icon=":material/add:",
        on_click=_begin,
        args=(store, run_id, signal),
    )


def _begin(store: Store, run_id: str, signal: str) -> None:
    try:
        measured = range_of(store, run_id, signal)
    except MoescopeError:
        measured = None, None
    edit("", template(signal, *measured))


def edit(name: str, yaml: str) -> None:
    _close()
    # each opening has a text of its own, or the browser might bring back what was typed before
    opening = st.session_state.get(_OPENING, 0) + 1
    st.session_state.update({EDITED: (name, yaml), _OPENING: opening})


def _close() -> None:
    for key in (EDITED, ASKING, _TRIAL, _REFUSAL):
        st.session_state.pop(key, None)


def render(store: Store, run_id: str, names: dict[str, str]) -> None:
    """Draws the rule that is being edited, if any. names: of runs by id, and of all runs."""
    edited: tuple[str, str] | None = st.session_state.get(EDITED)
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
        _refusal(yaml)
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
                args=({ASKING: ("save", "")},),
            )
            st.button("Close", key="rule_close", on_click=_close)
        of, found = st.session_state.get(_TRIAL, ("", None))
        # the text may have changed since
        if found is not None and of == (yaml, over):
            rule_trial.render(store, yaml, str(over), names.get(str(over), ""), found)
        if st.session_state.get(ASKING) == ("save", ""):
            st.warning(f"The rule becomes one of {whose}. {when_in_words(store, run_id)}")
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
    if name:
        _history(store, name, names)


def _refusal(yaml: str) -> None:
    """Draws what is wrong with the text, line by line, until it is changed."""
    of, said = st.session_state.get(_REFUSAL, ("", ""))
    if not said or of != yaml:
        return
    told = faults(said, yaml)
    lines = [
        f"{'' if fault.line is None else f'Line {fault.line}: '}{plain(fault.text, 300)}"
        for fault in told
    ]
    st.error("  \n".join(lines), icon=":material/block:")
    if pointed := marked(yaml, told):
        st.code(pointed, language=None)


def _try(store: Store, yaml: str, run_id: str) -> None:
    st.session_state.pop(_REFUSAL, None)
    with st.spinner("Replaying the run"):
        try:
            st.session_state[_TRIAL] = ((yaml, run_id), tried(store, yaml, run_id))
        except MoescopeError as error:
            st.session_state.pop(_TRIAL, None)
            st.session_state[_REFUSAL] = (yaml, str(error))
            # it is drawn beside the text, above
            st.rerun()


def _ask_no_more() -> None:
    st.session_state.pop(ASKING, None)


def _save(store: Store, yaml: str, run_id: str) -> None:
    answer = act(asks.set_rules, store, yaml, run_id)
    if answer is None:
        _ask_no_more()
    elif answer.is_done:
        _close()
        st.session_state[ANSWER] = answer
    else:
        _ask_no_more()
        st.session_state[_REFUSAL] = (yaml, answer.text)


def _history(store: Store, name: str, names: dict[str, str]) -> None:
    versions = history_of(store, name)
    with st.expander(f"History ({len(versions)})", icon=":material/history:"):
        if not versions:
            st.caption("It was never changed.")
        now_s = time.time()
        for version in versions[:MOST_VERSIONS]:
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
