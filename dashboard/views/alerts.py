"""The feed of alerts: what was found, since when, what it means, and who has seen it."""

import time
from collections.abc import Callable, Sequence

import streamlit as st

from ...platform.alert_kinds import PAGE, is_explained_away, words_of
from ...platform.catalogue import CATALOGUE
from ...platform.records import FOREVER_S, Alert, AlertState
from ...platform.silences import silences
from ...platform.store import Store
from .. import asks
from ..sign_in import who_asks
from ..theme import SEVERITIES
from ..words import age, number, plain, plain_with_code
from .panel import LIVE_S, LinkToIncident, LinkToRun, act, badge, live

MOST_SHOWN = 50
SILENCES_S = {
    "For 1 hour": 3600.0,
    "For 8 hours": 8 * 3600.0,
    "For 1 day": 86400.0,
    "Until I end it": None,
}
FAILURES_SINCE_S = 86400.0
_STATES: dict[str, tuple[AlertState, ...]] = {
    "Open": ("open",),
    "Acknowledged": ("acknowledged",),
    "Silenced": ("silenced",),
    "All": ("open", "acknowledged", "silenced", "resolved"),
}


def render(
    store: Store, link_to_run: LinkToRun, link_to_incident: LinkToIncident | None = None
) -> None:
    st.header("Alerts")
    shown = st.segmented_control(
        "State",
        list(_STATES),
        default="Open",
        required=True,
        key="alerts_state",
        label_visibility="collapsed",
    )
    live(lambda: _page(store, link_to_run, shown or "Open", link_to_incident), LIVE_S)


def _page(
    store: Store, link_to_run: LinkToRun, shown: str, link_to_incident: LinkToIncident | None
) -> None:
    names = {run.id: run.name for run in store.runs(include_archived=True)}
    alerts = store.alerts(states=list(_STATES[shown]))
    _failing_channels(store)
    _silences(store, names, link_to_run)
    if not alerts:
        if shown == "Open":
            st.success("No open alert.", icon=":material/check_circle:")
        else:
            st.info("No alert in this state.")
        return
    feed(store, alerts, names, link_to_run, link_to_incident=link_to_incident)


def _failing_channels(store: Store) -> None:
    failures = store.delivery_failures(since_s=time.time() - FAILURES_SINCE_S)
    if failures:
        num = len(failures)
        st.warning(
            f"{num} alert{'s' if num > 1 else ''} of the last day could not be sent; it is tried "
            "again. `moescope alerts test-channel` tries the addresses.",
            icon=":material/notifications_off:",
        )
        for why in list(dict.fromkeys(failures.values()))[:3]:
            st.text(" ".join(why.split())[:200])


def _silences(store: Store, names: dict[str, str], link_to_run: LinkToRun) -> None:
    """What is silenced, also where its alert has healed: nothing is sent of the next one either."""
    now_s = time.time()
    held = silences(store, now_s)
    if not held:
        return
    with st.container(border=True, gap="small", key="silences"):
        st.markdown("**Silenced**")
        for silence in held:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.markdown(plain(silence.rule, 60), width="content")
                link_to_run(names.get(silence.run_id, silence.run_id), silence.run_id)
                st.markdown(f":gray[{_until(silence.until_s, now_s)}]", width="content")
                if who_asks().may_act:
                    _end_silence(store, silence.run_id, silence.rule, "held")


def feed(
    store: Store,
    alerts: Sequence[Alert],
    names: dict[str, str] | None = None,
    link_to_run: LinkToRun | None = None,
    most: int = MOST_SHOWN,
    link_to_incident: LinkToIncident | None = None,
) -> None:
    """Draws alerts, newest first. names, link_to_run: where they belong to several runs."""
    newest = sorted(alerts, key=lambda a: a.created_s, reverse=True)
    now_s, may_act = time.time(), who_asks().may_act
    for alert in newest[:most]:
        with st.container(border=True, gap="small", key=f"alert_{alert.id}"):
            _alert(store, alert, now_s, names, link_to_run, link_to_incident, may_act)
    if len(newest) > most:
        st.caption(f"{len(newest) - most} older ones are not shown.")


def _alert(
    store: Store,
    alert: Alert,
    now_s: float,
    names: dict[str, str] | None,
    link_to_run: LinkToRun | None,
    link_to_incident: LinkToIncident | None,
    may_act: bool,
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
    _words(alert)
    if link_to_incident is not None and "record" in alert.evidence:
        link_to_incident("How it came about, and why", alert.id)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if alert.state != "open":
            st.markdown(f":gray[{_state(alert, now_s)}]", width="content")
        elif may_act:
            _button(store, alert, "acknowledged", "Acknowledge", ":material/done:")
        if not may_act:
            return
        if alert.state == "silenced":
            _end_silence(store, alert.run_id, alert.rule, alert.id)
        elif alert.state != "resolved":
            _silence(store, alert)
        if alert.state in ("open", "acknowledged"):
            _button(store, alert, "resolved", "Resolve", ":material/task_alt:")


def _words(alert: Alert) -> None:
    meaning, advice = words_of(alert)
    if not advice:
        return
    with st.expander("What it means, what to do", icon=":material/help:"):
        if meaning:
            st.markdown(plain(meaning, 1000))
        st.markdown(f"**To do.** {plain_with_code(advice)}")
        st.caption(f"All alerts are explained in `{PAGE}`.")


def _state(alert: Alert, now_s: float) -> str:
    """A state that is not open, and who brought it about when."""
    who = f" by {plain(alert.changed_by, 40)}" if alert.changed_by else ""
    when = f", {age(now_s - alert.changed_s)} ago" if alert.changed_s is not None else ""
    if is_explained_away(alert):
        return f"ended{when}: its rule learnt a new baseline, nothing has healed"
    if alert.state == "resolved" and not who:
        who = " by itself"
    until = ""
    if alert.state == "silenced":
        until = f" {_until(alert.silenced_until_s, now_s)}"
    return f"{alert.state}{until}{who}{when}"


def _until(until_s: float | None, now_s: float) -> str:
    if until_s is None or until_s >= FOREVER_S:
        return "until somebody ends it"
    return f"for another {age(until_s - now_s)}"


def _end_silence(store: Store, run_id: str, rule: str, where: str) -> None:
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
    """Asks, and says where the alert that the page shows is no longer there to decide about."""
    if act(ask, store, alert, *args) is False:
        st.toast(
            f"{plain(alert.rule, 60)} has healed or was resolved meanwhile: nothing was changed.",
            icon=":material/check_circle:",
        )
