"""Going back: the timeline of a run's states, the choice of one, and the question before it."""

import time

import streamlit as st

from ...platform.store import Store
from .. import asks
from ..charts_of_control import clicked_step, look_of, state_in_words, timeline_figure
from ..reads_of_control import ControlNow, control_now
from ..sign_in import who_asks
from ..states_of_a_run import SavedState, open_alert_before
from ..words import age, gib, plain
from ..words_of_commands import rollback_in_words, why_not
from .by_hand import asking_key
from .panel import act, badge

NEWEST_CERTIFIED = -1
"""The choice of no step: the trainer takes its newest certified state."""
_ROLLBACK = "rollback"
_CONFIG = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
}


def render(store: Store, run_id: str) -> None:
    here = control_now(store, run_id)
    reason = who_asks().why_not or why_not(here.now)
    targets = here.targets()
    with st.container(border=True, key="going_back"):
        st.markdown("**Go back to a state**")
        if not here.states:
            st.caption(
                "This run has kept no state yet, so there is nothing to go back to. The first "
                "comes with its first step; a watched run keeps states where it was given `state=`."
            )
            return
        chosen = _chosen(here, targets)
        _timeline(here, run_id, chosen)
        if not targets:
            st.info("None of these states is left to go back to.", icon=":material/block:")
            return
        options = [NEWEST_CERTIFIED, *targets]
        # options that change their words at each refresh would close the open list: no ages here
        step = st.selectbox(
            "Go back to",
            options,
            format_func=lambda s: _option(s, targets),
            key=_target_key(run_id),
            disabled=bool(reason),
        )
        step = step if step in options else NEWEST_CERTIFIED
        with st.container(gap="small", key="state_about"):
            _about(here, targets.get(step))
        st.button(
            "Roll back…",
            key="roll_back",
            icon=":material/undo:",
            disabled=bool(reason),
            help=reason or "You are asked once more.",
            on_click=st.session_state.update,
            args=({asking_key(run_id): _ROLLBACK},),
        )
        with st.container(key="rollback_question"):
            if st.session_state.get(asking_key(run_id)) == _ROLLBACK and not reason:
                _question(store, here, targets.get(step))


def _target_key(run_id: str) -> str:
    return f"rollback_target_{run_id}"


def _chosen(here: ControlNow, targets: dict[int, SavedState]) -> int:
    """What stands in the list: what a person chose, else the newest certified state on the disk."""
    key = _target_key(here.now.run.id)
    chosen = st.session_state.get(key)
    # a state that is there no more is no choice
    if chosen != NEWEST_CERTIFIED and chosen not in targets:
        certified = [step for step, state in targets.items() if state.health == "certified"]
        chosen = st.session_state[key] = certified[0] if certified else NEWEST_CERTIFIED
    return int(chosen)


def _timeline(here: ControlNow, run_id: str, chosen: int) -> None:
    key = f"timeline_{run_id}"
    targets = here.targets()

    def choose() -> None:
        step = clicked_step(st.session_state.get(key), targets.__contains__)
        if step is not None:
            st.session_state[_target_key(run_id)] = step

    figure = timeline_figure(
        here.states, here.alerts, here.went_back, chosen if chosen in targets else None
    )
    st.plotly_chart(
        figure,
        key=key,
        theme="streamlit",
        on_select=choose,
        selection_mode="points",
        config=_CONFIG,
        alt=_says(here),
    )


def _says(here: ControlNow) -> str:
    there = ", ".join(state_in_words(state) for state in here.targets().values())
    num = len(here.alerts), len(here.went_back)
    return f"{num[0]} alerts and {num[1]} rollbacks over steps; states to go back to: {there}"


def _option(step: int, targets: dict[int, SavedState]) -> str:
    if step == NEWEST_CERTIFIED:
        return "the newest certified state, in memory or on disk: the trainer picks it"
    state = targets.get(step)
    if state is None:
        return f"step {step:,}"
    where = {"disk": "on disk", "memory": "in memory"}.get(state.place, "")
    return f"step {step:,}: {look_of(state.health).word}, {where}"


def _about(here: ControlNow, state: SavedState | None) -> None:
    """A state's health, age and size in words, and what speaks against it."""
    if state is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        badge(look_of(state.health))
        facts = []
        if state.saved_s is not None:
            facts.append(f"saved {age(time.time() - state.saved_s)} ago")
        if here.now.step is not None:
            facts.append(f"{max(0, here.now.step + 1 - state.step):,} steps ago")
        if state.num_bytes:
            facts.append(gib(state.num_bytes))
        facts.append("on disk" if state.place == "disk" else "in memory, as configured")
        st.markdown(f":gray[{' · '.join(facts)}]", width="content")
    alert = open_alert_before(state, here.alerts)
    if alert is not None:
        st.caption(
            f":material/warning: {plain(alert.rule, 60)} began at step {alert.onset_step:,} and is "
            "open: what was wrong may be in this state."
        )
    if state.place == "memory":
        st.caption(
            "Which states the memory holds is known to the trainer alone. Where this one is not "
            "there, it refuses and names those that are."
        )


def _question(store: Store, here: ControlNow, state: SavedState | None) -> None:
    run_id = here.now.run.id
    step = None if state is None else state.step
    st.warning(rollback_in_words(here.now, state))
    to = "the newest certified state" if step is None else f"step {step:,}"
    with st.container(horizontal=True, gap="small"):
        # a key with the step in it: a click on what a refresh has replaced meanwhile does nothing
        st.button(
            f"Yes, roll back to {to}",
            key=f"rollback_yes_{step}",
            type="primary",
            on_click=_ask,
            args=(store, run_id, step),
        )
        st.button(
            "Cancel",
            key="rollback_no",
            on_click=st.session_state.pop,
            args=(asking_key(run_id), None),
        )


def _ask(store: Store, run_id: str, step: int | None) -> None:
    st.session_state.pop(asking_key(run_id), None)
    act(asks.roll_back, store, run_id, step)
