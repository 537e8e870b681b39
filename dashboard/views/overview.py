"""The list of runs: newest first, each with its lamp, its newest numbers and a link to its page."""

import time

import streamlit as st

from ...platform.records import Run
from ...platform.store import Store
from ...platform.summaries import summaries
from ..reads import SHOWN_OF_A_RUN, RunNow, open_alerts_by_run, run_now
from ..theme import LAMPS
from ..words import age, number, plain, short
from .panel import LIVE_S, LinkToRun, badge, live

PER_PAGE = 20


def render(store: Store, link_to_run: LinkToRun) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.header("Runs", width="stretch")
        with_archived = st.toggle("Archived too", key="runs_archived")
    wanted = st.text_input(
        "Find",
        key="runs_find",
        placeholder="name, project, tag or status",
        label_visibility="collapsed",
    )
    live(lambda: _rows(store, link_to_run, wanted or "", with_archived), LIVE_S)


def matches(run: Run, wanted: str) -> bool:
    """Says whether every wanted word occurs in a run's name, project, tags, status, note or id."""
    text = " ".join((run.name, run.project, *run.tags, run.status, run.note, run.id)).lower()
    return all(word in text for word in wanted.lower().split())


def _rows(store: Store, link_to_run: LinkToRun, wanted: str, with_archived: bool) -> None:
    every = store.runs(include_archived=with_archived)
    if not every:
        st.info("No run yet. `moescope train tiny --data FOLDER` starts one; it appears here.")
        return
    runs = [run for run in every if matches(run, wanted)]
    if not runs:
        st.info("No run matches; take a word away to see more.")
        return
    num_pages = -(-len(runs) // PER_PAGE)
    page = 1
    if num_pages > 1:
        page = st.pagination(num_pages, key="runs_page") if hasattr(st, "pagination") else 1
    now_s, alerts = time.time(), open_alerts_by_run(store)
    shown = runs[(page - 1) * PER_PAGE : page * PER_PAGE]
    found = summaries(store, SHOWN_OF_A_RUN, [run.id for run in shown])
    for run in shown:
        now = run_now(run, found.get(run.id, {}), alerts.get(run.id, []), now_s)
        _row(now, link_to_run, now_s)


def _row(now: RunNow, link_to_run: LinkToRun, now_s: float) -> None:
    run = now.run
    with st.container(border=True, gap="small", key=f"run_row_{run.id}"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            badge(LAMPS[now.lamp])
            link_to_run(run.name, run.id)
            if now.num_open_alerts:
                st.badge(
                    f"{now.num_open_alerts} open alert{'s' if now.num_open_alerts > 1 else ''}",
                    icon=":material/notifications:",
                    color="orange",
                )
            for tag in run.tags[:4]:
                st.badge(plain(tag, 24), color="gray")
        facts = [f"**{run.status}**"]
        if now.step is not None:
            of = f" of {now.num_steps:,}" if now.num_steps else ""
            facts.append(f"step **{now.step + 1:,}**{of}")
        if now.loss is not None:
            facts.append(f"loss **{number(now.loss)}**")
        if now.tokens_per_s is not None and now.is_live:
            facts.append(f"**{short(now.tokens_per_s)}** tokens/s")
        if now.is_live:
            facts.append(f"heartbeat **{age(now.heartbeat_age_s)}** ago")
        facts.append(f"started {age(now_s - run.created_s)} ago")
        st.markdown(" · ".join(facts))
        if run.note:
            st.caption(plain(run.note, 160))
