"""One study: how far it is, what a person can ask of it, and what its report says and draws."""

import time

import plotly.graph_objects as go
import streamlit as st

from ...platform.records import Study, StudyReport, StudyState
from ...platform.store import Store
from .. import asks
from ..reads_of_studies import (
    StudyNow,
    find_study,
    numbers_of,
    page_of,
    report_of,
    study_now,
    trials_of,
)
from ..sign_in import who_asks
from ..words import age, plain
from . import study_trials
from .panel import CALM_S, LIVE_S, act, live
from .studies import progress, state_badge

_BUTTONS: dict[StudyState, tuple[str, str, str]] = {
    "running": ("Resume", ":material/play_arrow:", "Its trials may run again."),
    "paused": ("Pause", ":material/pause:", "Start no further trial; those that run go on."),
    "cancelled": ("Cancel…", ":material/cancel:", "Start none; those that run save and end."),
}
"""{state that is asked for: button, icon, what it does}"""


def render(store: Store, name: str) -> None:
    study = find_study(store, name)
    if study is None:
        st.info("No study of this name. The list of studies shows those that there are.")
        return
    st.header(plain(name, 64))
    if question := str(study.spec.get("question", "")):
        st.markdown(plain(question, 400))
    live(lambda: _now(store, name), LIVE_S)
    live(lambda: _report(store, name), CALM_S)
    study_trials.render(store, name)


def _now(store: Store, name: str) -> None:
    study = find_study(store, name)
    if study is None:
        st.info("This study is gone.")
        return
    now = study_now(study, trials_of(store, name))
    with st.container(border=True, key="study_now"):
        state_badge(now)
        progress(now)
        if (who := who_asks()).may_act:
            _buttons(store, now)
        else:
            st.caption(who.why_not)


def _buttons(store: Store, now: StudyNow) -> None:
    study = now.study
    asking = f"asking_cancel_{study.name}"
    with st.container(horizontal=True, gap="small"):
        for state, (label, icon, what) in _BUTTONS.items():
            is_over = not (now.counts["waiting"] or now.counts["running"])
            if state == study.state or (state == "paused" and study.state == "cancelled"):
                continue
            if is_over and state != "running":
                continue
            is_asked = state == "cancelled"
            st.button(
                label,
                key=f"study_{state}",
                icon=icon,
                help=what,
                on_click=st.session_state.update if is_asked else act,
                args=({asking: True},)
                if is_asked
                else (asks.set_study_state, store, study.name, state),
            )
        if now.counts["failed"]:
            st.button(
                f"Try {now.counts['failed']} failed again",
                key="study_retry",
                icon=":material/replay:",
                help="From where they were; what is done stays done.",
                on_click=act,
                args=(asks.retry_trials, store, study.name),
            )
    if st.session_state.get(asking):
        _question(store, study, asking)


def _question(store: Store, study: Study, asking: str) -> None:
    st.warning(
        "No further trial starts; those that run save their state and end. Nothing is deleted: "
        "Resume lets it go on from there."
    )
    with st.container(horizontal=True, gap="small"):
        if st.button("Yes, cancel the study", key="study_cancel_yes", type="primary"):
            act(asks.set_study_state, store, study.name, "cancelled")
            st.session_state.pop(asking)
            st.rerun(scope="fragment")
        if st.button("No", key="study_cancel_no"):
            st.session_state.pop(asking)
            st.rerun(scope="fragment")


def _report(store: Store, name: str) -> None:
    report = report_of(store, name)
    if report is None:
        st.caption(
            "The report is written when all trials have ended; `moescope study report "
            f"{plain(name, 64)}` writes one of what there is."
        )
        return
    told = numbers_of(report)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.subheader("What it found", width="stretch")
        page = page_of(report)
        if page is not None:
            st.download_button(
                "Report",
                page,
                file_name=f"{name}-report.html",
                mime="text/html",
                key="study_report",
                icon=":material/download:",
                help="One page with everything in it, for a browser without a network too.",
            )
    st.markdown(f"**{plain(str(told.get('headline', '')), 1000)}**")
    st.caption(f"Report of {age(time.time() - report.made_s)} ago.")
    _figures(report)
    excluded = told.get("excluded", [])
    if excluded:
        s = "s do" if len(excluded) > 1 else " does"
        with st.expander(f"{len(excluded)} trial{s} not count"):
            for row in excluded:
                st.markdown(f"- {plain(str(row['label']), 120)}: {plain(str(row['reason']), 300)}")


def _figures(report: StudyReport) -> None:
    titles, captions = (report.content.get(name, {}) for name in ("titles", "captions"))
    for key, figure in report.content.get("figures", {}).items():
        title = str(titles.get(key, key.replace("_", " ")))
        st.markdown(f"**{plain(title, 80)}**", help=captions.get(key))
        st.plotly_chart(
            go.Figure(figure),
            key=f"figure_{key}",
            theme="streamlit",
            alt=title,
            config={"displaylogo": False, "displayModeBar": False},
        )
