"""An alert as a card: what was found, since when, what it means, and who has decided what of it."""

import time
from collections.abc import Callable, Sequence

import streamlit as st

from ...platform.alert_kinds import PAGE, is_explained_away, words_of
from ...platform.catalogue import CATALOGUE
from ...platform.records import FOREVER_S, Alert, AlertState
from ...platform.store import Store
from .. import asks
from ..sign_in import who_asks
from ..theme import SEVERITIES
from ..words import age, number, plain, plain_with_code
from .panel import LinkToIncident, LinkToRun, act, badge

MOST_SHOWN = 50
_BECAME = "alert_became"
SILENCES_S: dict[str, float | None] = {
    "For 1 hour": 3600.0,
    "For 8 hours": 8 * 3600.0,
    "For 1 day": 86400.0,
    "Until I end it": None,
}


def feed(
    store: Store,
    alerts: Sequence[Alert],
    names: dict[str, str] | None = None,
    link_to_run: LinkToRun | None = None,
    most: int = MOST_SHOWN,
    link_to_incident: LinkToIncident | None = None,
) -> None:
    """Draws alerts, newest first. names, link_to_run: where they belong to several runs."""
    say_what_became()
    newest = sorted(alerts, key=lambda a: a.created_s, reverse=True)
    now_s = time.time()
    for alert in newest[:most]:
        with st.container(border=True, gap="small", key=f"alert_{alert.id}"):
            card(store, alert, now_s, names, link_to_run, link_to_incident)
    if len(newest) > most:
        st.caption(f"{len(newest) - most} older ones are not shown.")


def card(
    store: Store,
    alert: Alert,
    now_s: float,
    names: dict[str, str] | None,
    link_to_run: LinkToRun | None,
    link_to_incident: LinkToIncident | None,
) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        badge(SEVERITIES[alert.severity])
        st.markdown(f"**{plain(alert.rule, 60)}**", width="content")
        if names is not None and link_to_run is not None:
            link_to_run(names.get(alert.run_id, alert.run_id), alert.run_id)
        st.markdown(f":gray[{age(now_s - alert.created_s)} ago]", width="content")
    st.markdown(plain(alert.message))
    signal = alert.evidence.get("signal")
    spec = CATALOGUE.get(signal) if isinstance(signal, str) else None
    told = alert.evidence.get("unit") or (spec.unit if spec else "")
    unit = f" {plain(str(told), 20)}" if told not in ("1", "") else ""
    began = f"began at step {alert.onset_step:,}, " if alert.onset_step != alert.fired_step else ""
    st.caption(
        f"{began}fired at step {alert.fired_step:,} · value {number(alert.value)}{unit}, "
        f"limit {number(alert.threshold)}{unit}"
        + (f" · `{spec.name}`: {spec.high}" if spec and spec.high else "")
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        decisions(store, alert, now_s)
        _words(alert)
        if link_to_incident is not None and "record" in alert.evidence:
            link_to_incident("How it came about, and why", alert.id)


def decisions(store: Store, alert: Alert, now_s: float) -> None:
    """Draws what was decided of an alert, by whom and when, and what can be decided now."""
    may_act = who_asks().may_act
    if alert.state != "open":
        st.markdown(f":gray[{state_in_words(alert, now_s)}]", width="content")
    elif may_act:
        _button(store, alert, "acknowledged", "Acknowledge", ":material/done:")
    if not may_act:
        return
    if alert.state == "silenced":
        end_silence(store, alert.run_id, alert.rule, alert.id)
    elif alert.state != "resolved":
        _silence(store, alert)
    if alert.state in ("open", "acknowledged"):
        _button(store, alert, "resolved", "Resolve", ":material/task_alt:")


def _words(alert: Alert) -> None:
    meaning, advice = words_of(alert)
    if not advice:
        return
    with st.popover("What to do", icon=":material/help:", type="tertiary"):
        if meaning:
            st.markdown(plain(meaning, 1000))
        st.markdown(f"**To do.** {plain_with_code(advice)}")
        st.caption(f"All alerts are explained in `{PAGE}`.")


def state_in_words(alert: Alert, now_s: float) -> str:
    """A state that is not open, and who brought it about when."""
    who = f" by {plain(alert.changed_by, 40)}" if alert.changed_by else ""
    when = f", {age(now_s - alert.changed_s)} ago" if alert.changed_s is not None else ""
    if is_explained_away(alert):
        return f"ended{when}: its rule learnt a new baseline, nothing has healed"
    if alert.state == "resolved" and not who:
        who = " by itself"
    until = ""
    if alert.state == "silenced":
        until = f" {until_in_words(alert.silenced_until_s, now_s)}"
    return f"{alert.state}{until}{who}{when}"


def until_in_words(until_s: float | None, now_s: float) -> str:
    if until_s is None or until_s >= FOREVER_S:
        return "until somebody ends it"
    return f"for another {age(until_s - now_s)}"


def end_silence(store: Store, run_id: str, rule: str, where: str) -> None:
    """Draws the button that ends a silence, for whoever may."""
    if not who_asks().may_act:
        return
    st.button(
        "End silence",
        key=f"end_silence_{where}_{run_id}_{rule}",
        icon=":material/notifications_active:",
        on_click=act,
        args=(asks.end_silence, store, run_id, rule),
    )


def _silence(store: Store, alert: Alert) -> None:
    with st.popover("Silence", icon=":material/notifications_paused:"):
        st.caption("Nothing is sent of it, nor of others of its rule and run; then it calls again.")
        for words, for_s in SILENCES_S.items():
            st.button(
                words,
                key=f"silence_{'ever' if for_s is None else f'{for_s:.0f}'}_{alert.id}",
                on_click=_tell,
                args=(asks.silence_alert, store, alert, for_s),
            )


def _button(store: Store, alert: Alert, state: AlertState, label: str, icon: str) -> None:
    st.button(
        label,
        key=f"{state}_{alert.id}",
        icon=icon,
        on_click=_tell,
        args=(asks.set_alert_state, store, alert, state),
    )


def _tell(ask: Callable[..., bool], store: Store, alert: Alert, *args: object) -> None:
    """Asks, and keeps for the next drawing where the alert that the page shows is no longer there
    to decide about."""
    if act(ask, store, alert, *args) is False:
        st.session_state[_BECAME] = (
            f"{plain(alert.rule, 60)} has healed or was resolved meanwhile: nothing was changed."
        )


def say_what_became() -> None:
    """Says once what a click could not do; a callback must draw nothing itself."""
    said = st.session_state.pop(_BECAME, None)
    if said is not None:
        st.toast(said, icon=":material/check_circle:")
