"""The list of studies: how far each is, what it has cost, and a link to its page."""

import streamlit as st

from ...platform.store import Store
from ..reads_of_studies import StudyNow, studies_now
from ..words import age, plain, short
from .panel import LIVE_S, LinkToRun, live

STATES = {
    "running": (":material/play_circle:", "green"),
    "paused": (":material/pause_circle:", "orange"),
    "cancelled": (":material/cancel:", "gray"),
}
"""{state of a study: icon, colour of its badge}"""


def render(store: Store, link_to_study: LinkToRun) -> None:
    st.header("Studies")
    live(lambda: _rows(store, link_to_study), LIVE_S)


def _rows(store: Store, link_to_study: LinkToRun) -> None:
    found = studies_now(store)
    if not found:
        st.info(
            "No study yet. `moescope study run STUDY --data FOLDER` starts one; it appears here."
        )
        return
    for now in found:
        with st.container(border=True, gap="small", key=f"study_{now.study.name}"):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                state_badge(now)
                link_to_study(now.study.name, now.study.name)
            if question := str(now.study.spec.get("question", "")):
                st.markdown(plain(question, 200))
            progress(now)


def state_badge(now: StudyNow) -> None:
    is_over = now.study.state == "running" and not (now.counts["waiting"] or now.counts["running"])
    icon, colour = STATES[now.study.state]
    if is_over:
        icon, colour = ":material/flag:", "blue"
    st.badge("over" if is_over else now.study.state, icon=icon, color=colour)  # type: ignore[arg-type]


def progress(now: StudyNow) -> None:
    """Draws a bar and, below it, what was done, what it cost, and what is to come."""
    share = (now.counts["done"] + now.counts["failed"]) / max(1, now.num_trials)
    st.progress(share)
    words = [f"**{now.counts['done']}** of {now.num_trials} done"]
    words += [f"**{now.counts[s]}** {s}" for s in ("running", "waiting", "failed") if now.counts[s]]
    words.append(f"{short(now.done_flops)} of {short(now.flops)} FLOPs")
    words.append(f"trained {age(now.busy_s)}")
    if now.left_s:
        words.append(f"about {age(now.left_s)} to come, one after the other")
    odd = [f"{number} {word}" for word, number in now.verdicts.items() if word != "healthy"]
    st.markdown(" · ".join([*words, *odd]))
