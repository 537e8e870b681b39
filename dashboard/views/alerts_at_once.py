"""Several alerts decided at once: those that are shown, or all that match; asked once more."""

from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st

from ...platform.records import Alert
from ...platform.store import Store
from .. import asks
from ..sign_in import who_asks
from .alert_cards import SILENCES_S
from .panel import act

_ASKING = "alerts_asking"
_WHO = "alerts_whom"
_HOW_LONG = "alerts_how_long"
_DONE = "alerts_done"


class _Deed(NamedTuple):
    label: str
    icon: str
    past: str
    says: str


_DEEDS = {
    "acknowledged": _Deed(
        "Acknowledge shown…",
        ":material/done:",
        "acknowledged",
        "They count as seen, with who and when: nobody is called for them again.",
    ),
    "silenced": _Deed(
        "Silence shown…",
        ":material/notifications_paused:",
        "silenced",
        "Nothing is sent of them, nor of others of their rules and runs; what then still stands "
        "calls again.",
    ),
    "resolved": _Deed(
        "Resolve shown…",
        ":material/task_alt:",
        "resolved",
        "They count as over, with who and when; a rule that fires anew raises a new one.",
    ),
}


def render(store: Store, shown: Sequence[Alert], found: Sequence[Alert]) -> None:
    """Draws the buttons and, after a click, the question. What is asked about is what stood on the
    page at the click: alerts that come meanwhile are not decided unseen."""
    done = st.session_state.pop(_DONE, None)
    if done is not None:
        st.toast(done, icon=":material/done_all:")
    if not who_asks().may_act:
        return
    asking = st.session_state.get(_ASKING)
    if asking is not None:
        _question(store, *asking)
        return
    if len([alert for alert in shown if alert.state != "resolved"]) < 2:
        return
    with st.container(horizontal=True, gap="small"):
        for state, deed in _DEEDS.items():
            of_shown, of_found = _to_decide(shown, state), _to_decide(found, state)
            st.button(
                deed.label,
                key=f"at_once_{state}",
                icon=deed.icon,
                type="tertiary",
                disabled=not of_shown,
                on_click=st.session_state.update,
                args=({_ASKING: (state, of_shown, of_found)},),
            )


def _to_decide(alerts: Sequence[Alert], state: str) -> list[Alert]:
    before = {"acknowledged": ("open",), "silenced": ("open", "acknowledged")}
    states = before.get(state, ("open", "acknowledged", "silenced"))
    return [alert for alert in alerts if alert.state in states]


def _question(store: Store, state: str, shown: Sequence[Alert], found: Sequence[Alert]) -> None:
    deed = _DEEDS[state]
    with st.container(border=True, gap="small", key="at_once"):
        wholes = {"shown": shown, "all": found}
        whom = "shown"
        if len(found) > len(shown):
            whom = (
                st.segmented_control(
                    "Which",
                    ["shown", "all"],
                    default="shown",
                    required=True,
                    key=_WHO,
                    format_func=lambda key: (
                        f"the {len(shown):,} shown"
                        if key == "shown"
                        else f"all {len(found):,} that match"
                    ),
                )
                or "shown"
            )
        chosen = wholes[whom]
        how_long = ""
        if state == "silenced":
            how_long = st.selectbox("How long", list(SILENCES_S), key=_HOW_LONG, width=220)
        runs, rules = {a.run_id for a in chosen}, {a.rule for a in chosen}
        st.warning(
            f"**{len(chosen):,}** alert{'s' if len(chosen) > 1 else ''} of {len(rules)} "
            f"rule{'s' if len(rules) > 1 else ''} in {len(runs)} run{'s' if len(runs) > 1 else ''} "
            f"will be {deed.past}. {deed.says}"
        )
        with st.container(horizontal=True, gap="small"):
            st.button(
                f"Yes, {deed.label.split()[0].lower()} {len(chosen):,}",
                # a click on what a refresh has replaced meanwhile does nothing
                key=f"at_once_yes_{state}_{len(chosen)}",
                type="primary",
                on_click=_decide,
                args=(store, state, chosen, how_long),
            )
            st.button(
                "Cancel",
                key="at_once_no",
                on_click=st.session_state.pop,
                args=(_ASKING, None),
            )


def _decide(store: Store, state: str, chosen: Sequence[Alert], how_long: str) -> None:
    st.session_state.pop(_ASKING, None)
    num = num_healed = 0
    is_set: bool | None = None
    for alert in chosen:
        if state == "silenced":
            is_set = act(asks.silence_alert, store, alert, SILENCES_S[how_long])
        else:
            is_set = act(asks.set_alert_state, store, alert, state)
        if is_set is None:
            break  # refused, or the store is away: so would the others be
        num, num_healed = num + is_set, num_healed + (not is_set)
    if is_set is None and not num + num_healed:
        return
    said = f"{num:,} {_DEEDS[state].past}"
    if num_healed:
        said += f"; {num_healed:,} had healed or were resolved meanwhile"
    st.session_state[_DONE] = f"{said}."
