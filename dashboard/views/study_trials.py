"""The trials of a study: a table, why some failed, and what can be asked of one: to be tried again,
left out, or brought back.
"""

from collections.abc import Sequence

import streamlit as st

from ...platform.errors import MoescopeError
from ...platform.records import Trial
from ...platform.store import Store
from .. import asks
from ..reads_of_studies import last_words, skipped_of, trial_rows, trials_of
from ..sign_in import who_asks
from ..words import plain
from .panel import CALM_S, live

MOST_FAILURES = 8
_ASKING, _SAID = "moescope_asking_trial", "moescope_said_of_trial"


def render(store: Store, name: str) -> None:
    st.subheader("Trials")
    live(lambda: _table(store, name), CALM_S)
    found, left_out = trials_of(store, name), skipped_of(store, name)
    if (found or left_out) and who_asks().may_act:
        _one(store, found, left_out)


def _table(store: Store, name: str) -> None:
    found, left_out = trials_of(store, name), skipped_of(store, name)
    st.dataframe(
        trial_rows(found),
        key="study_trials",
        hide_index=True,
        column_config={
            "loss": st.column_config.NumberColumn(format="%.4f"),
            "active parameters": st.column_config.NumberColumn(format="compact"),
            "tokens": st.column_config.NumberColumn(format="compact"),
            "FLOPs": st.column_config.NumberColumn(format="scientific"),
            "run": st.column_config.LinkColumn(display_text="open"),
        },
    )
    if left_out:
        s = "s are" if len(left_out) > 1 else " is"
        st.caption(f"{len(left_out)} trial{s} left out, and not in the table.")
    failed = [trial for trial in found if trial.state == "failed"]
    for trial in failed[:MOST_FAILURES]:
        _failure(store, trial)
    if len(failed) > MOST_FAILURES:
        st.caption(f"{len(failed) - MOST_FAILURES} more failed trials are not shown.")


def _failure(store: Store, trial: Trial) -> None:
    reason, tail = last_words(store, trial)
    with st.expander(f"{plain(trial.label, 100)}: {plain(reason, 200)}"):
        st.code(tail or "Its log was empty.", language=None)


def _one(store: Store, found: Sequence[Trial], left_out: Sequence[Trial]) -> None:
    words = {trial.key: f"{trial.label} ({trial.state})" for trial in found}
    words |= {trial.key: f"{trial.label} (left out)" for trial in left_out}
    key = st.selectbox(
        "One trial",
        list(words),
        index=None,
        format_func=lambda key: words.get(key, key),
        key="study_one_trial",
        placeholder="to be tried again, left out, or brought back",
        width=420,
    )
    trial = next((one for one in (*found, *left_out) if one.key == key), None)
    if trial is not None:
        with st.container(horizontal=True, gap="small"):
            if trial in left_out:
                _button(store, trial, "Bring back", ":material/undo:", "back", False)
            if trial in found and trial.state in ("failed", "done"):
                _button(store, trial, "Try again", ":material/replay:", "retry", True)
            if trial in found and trial.state in ("failed", "waiting"):
                _button(store, trial, "Leave out", ":material/block:", "skip", True)
            if trial in found and trial.state == "running":
                st.caption("It runs: cancel the study, or ask its run to stop.")
        if st.session_state.get(_ASKING) in (f"retry {trial.key}", f"skip {trial.key}"):
            _question(store, trial, found)
    said = st.session_state.pop(_SAID, "")
    if said:
        st.info(said)


def _button(store: Store, trial: Trial, label: str, icon: str, what: str, is_asked: bool) -> None:
    if is_asked:
        clicked, args = st.session_state.update, ({_ASKING: f"{what} {trial.key}"},)
        st.button(f"{label}…", key=f"trial_{what}", icon=icon, on_click=clicked, args=args)
    else:
        st.button(label, key=f"trial_{what}", icon=icon, on_click=_do, args=(store, trial, what))


def _question(store: Store, trial: Trial, found: Sequence[Trial]) -> None:
    what = str(st.session_state[_ASKING]).partition(" ")[0]
    branches = [one for one in found if one.trunk == trial.key and one.state != "done"]
    if what == "retry":
        told = "Its run goes on from its newest checkpoint where it has one, else anew."
        if trial.state == "done":
            told = f"What it came to is forgotten. {told}"
        answer = "Yes, try it again"
    else:
        told = "Nobody trains it until it is brought back, also when its study is asked for again."
        if branches:
            told += f" {len(branches)} that branch off it go with it."
        answer = "Yes, leave it out"
    st.warning(f"{plain(trial.label, 100)}: {told}")
    with st.container(horizontal=True, gap="small"):
        args = (store, trial, what)
        st.button(answer, key="trial_yes", type="primary", on_click=_do, args=args)
        st.button("No", key="trial_no", on_click=st.session_state.pop, args=(_ASKING, None))


def _do(store: Store, trial: Trial, what: str) -> None:
    st.session_state.pop(_ASKING, None)
    ask = {"retry": asks.retry_trial, "skip": asks.skip_trial, "back": asks.unskip_trial}[what]
    try:
        number = ask(store, who_asks(), trial.study, trial.key)
    except MoescopeError as error:
        st.session_state[_SAID] = plain(str(error), 300)
        return
    done = {"retry": "waits again", "skip": "is left out", "back": "is asked for again"}[what]
    also = f", with {number - 1} more" if number > 1 else ""
    st.session_state[_SAID] = (
        f"{plain(trial.label, 100)} {done}{also}."
        if number
        else f"{plain(trial.label, 100)} has changed meanwhile: nothing was done."
    )
