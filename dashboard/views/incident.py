"""The page of an incident: how an alert came about, what was done, why it was, and what to do."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from ...platform.errors import MoescopeError
from ...platform.records import Incident
from ...platform.store import Store
from ..reads_of_incidents import (
    IncidentNow,
    accounts,
    before_and_after,
    incident_now,
    recorded_alerts,
)
from ..theme import LAMPS, SEVERITIES
from ..words import age, plain, plain_with_code
from ..words_of_incidents import story, table
from . import incident_evidence
from .alert_cards import decisions, say_what_became
from .incident_evidence import VERDICTS
from .panel import CALM_S, LinkToIncident, LinkToRun, badge, live, page_of_the_store

LinkToSteps = Callable[[str, str, str], None]
"""Draws a link with a label to the page of a run's id at a range of its steps."""


@dataclass(frozen=True, slots=True)
class Ways:
    """Where the page leads to; None: nowhere."""

    to_steps: LinkToSteps | None = None
    to_control: LinkToRun | None = None
    to_alerts: LinkToRun | None = None


def render(
    store: Store,
    wanted: str,
    link_to_run: LinkToRun,
    link_to_incident: LinkToIncident,
    ways: Ways | None = None,
) -> None:
    """Draws an incident's page. wanted: the alert's id, as the address has it; empty: the list."""
    if not wanted:
        st.header("Incidents")
        live(lambda: _list(store, link_to_run, link_to_incident), CALM_S)
        return
    with page_of_the_store():
        try:
            now = incident_now(store, wanted)
        except MoescopeError as error:
            if "unknown alert" not in str(error):
                raise
            st.header("No such incident")
            st.text(str(error))
            return
        # it may be replayed just now; and the run may recover
        live(lambda: _head(store, wanted, link_to_run, ways or Ways()), CALM_S)
        if now.content is not None:
            incident_evidence.render(now, now.content)


def _list(store: Store, link_to_run: LinkToRun, link_to_incident: LinkToIncident) -> None:
    alerts = recorded_alerts(store)
    if not alerts:
        st.info(
            "No incident yet. Each alert of a rule writes a flight record; its account appears "
            "here.",
            icon=":material/flight:",
        )
        return
    names = {run.id: run.name for run in store.runs(include_archived=True)}
    now_s, found = time.time(), accounts(store, alerts)
    for alert in alerts:
        with st.container(border=True, gap="small", key=f"incident_{alert.id}"):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                badge(SEVERITIES[alert.severity])
                link_to_incident(alert.rule, alert.id)
                link_to_run(names.get(alert.run_id, alert.run_id), alert.run_id)
                st.markdown(f":gray[{age(now_s - alert.created_s)} ago]", width="content")
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                _verdict_badge(found.get(alert.id))
            st.caption(plain(alert.message))


def _head(store: Store, alert_id: str, link_to_run: LinkToRun, ways: Ways) -> None:
    say_what_became()
    now = incident_now(store, alert_id)
    alert, now_s = now.alert, time.time()
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"## {plain(alert.rule, 60)}", width="content")
        badge(SEVERITIES[alert.severity])
        link_to_run(now.run.name, now.run.id)
        raised = f"raised {age(now_s - alert.created_s)} ago"
        st.markdown(f":gray[{raised}]", width="content")
    st.markdown(plain(alert.message))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        decisions(store, alert, now_s)
    with st.container(key="incident_doubt", gap="small"):
        _doubt(now)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _story(now)
        _before_and_after(store, now)
    with right:
        _next(now, ways)


def _doubt(now: IncidentNow) -> None:
    """What stands in the way of telling it all."""
    if now.is_silent:
        silent_s = time.time() - now.run.heartbeat_s
        st.warning(
            f"The run is silent since {age(silent_s)}: what followed is told up to there.",
            icon=LAMPS["silent"].icon,
        )
    if now.incident is None:
        st.info(
            "There is no account of this alert yet: its record is still being read, or it has "
            "none. The command below makes one from its record.",
            icon=":material/hourglass:",
        )
        st.code(now.command, language=None)
    elif now.content is None:
        st.info(
            "The account of this alert was written by another version of moescope and cannot be "
            "shown. The command below makes a new one from its record.",
            icon=":material/history_toggle_off:",
        )
        st.code(now.command, language=None)


def _story(now: IncidentNow) -> None:
    """Onset, first movers, alarm, action, recovery, in this order."""
    with st.container(border=True, gap="small", key="incident_story"):
        for what, step, text in story(now):
            at = "" if step is None else f":gray[step {step:,}] "
            st.markdown(f"**{what}** {at}{plain(text, 300)}")


def _before_and_after(store: Store, now: IncidentNow) -> None:
    rows = before_and_after(store, now)
    if not rows:
        return
    is_recovered = now.recovery is not None and now.recovery.step is not None
    with st.container(border=True, gap="small", key="incident_before_and_after"):
        st.markdown(table(rows, is_recovered))
        until = "from the recovery on" if is_recovered else "of the newest ten steps"
        st.caption(
            f"Means of up to 50 measured steps before the onset and {until}; in between the "
            "extreme, abandoned steps included."
        )


def _next(now: IncidentNow, ways: Ways) -> None:
    """The verdict, what a person should do, and the ways to do it."""
    content = now.content
    with st.container(border=True, gap="small", key="incident_verdict"):
        if content is not None:
            _verdict(now, content)
        st.markdown("**Where to go from here**")
        with st.container(horizontal=True, gap="small"):
            if ways.to_steps is not None:
                label = f"The run at steps {now.steps_around.replace('-', ' to ')}"
                ways.to_steps(label, now.run.id, now.steps_around)
            if ways.to_control is not None:
                ways.to_control("Control: go back, pause, stop", now.run.id)
            if ways.to_alerts is not None:
                ways.to_alerts("All alerts of the run", now.run.id)


def _verdict(now: IncidentNow, content: Mapping[str, Any]) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("**Verdict**", width="content")
        _verdict_badge(now.incident)
    for text in content["next"]:
        st.markdown(f"**To do.** {plain_with_code(text.replace('ALERT', now.alert.id))}")
    if now.incident is not None and not now.incident.is_replayed:
        st.code(now.command, language=None)
    for text in (*content["across"].get("said", ()), *content["notes"]):
        st.caption(plain(text, 600))


def _verdict_badge(incident: Incident | None) -> None:
    verdict = "unexamined" if incident is None else incident.verdict
    told = {} if incident is None else incident.content.get("verdict", {})
    words = {"no_cause": "no cause found", "unexamined": "not examined yet"}
    if not told.get("is_firm", True) and verdict not in words:
        st.markdown("probably", width="content")
    for cause in verdict.split(" and "):
        icon, colour = VERDICTS.get(cause, (":material/help:", "gray"))
        st.badge(words.get(cause, cause.replace("_", " ")), icon=icon, color=colour)
