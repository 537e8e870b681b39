"""What an incident's account shows: its course, what moved first, the evidence, the clips."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from ...platform.catalogue import CATALOGUE
from ..charts_of_incidents import incident_figure
from ..reads_of_incidents import IncidentNow, clip_file
from ..words import number, plain
from ..words_of_incidents import spreads
from .panel import chart

MOST_MOVERS = 10
MOST_CLIPS = 12
MOST_SHOWN_CLIPS = 4
VERDICTS: Mapping[str, tuple[str, Any]] = {
    "data": (":material/movie:", "orange"),
    "state": (":material/memory:", "red"),
    "precision": (":material/straighten:", "violet"),
    "not_reproducible": (":material/developer_board_off:", "red"),
    "no_cause": (":material/check_circle:", "green"),
    "unexamined": (":material/hourglass:", "gray"),
}
_SHOWS = {
    "yes": "shows it",
    "no": "does not show it",
    "unclear": "lies in between",
    "not measured": "was not measured",
}


def render(now: IncidentNow, content: Mapping[str, Any]) -> None:
    _course(content)
    left, right = st.columns(2, gap="large")
    with left:
        _movers(content)
    with right:
        _evidence(content)
    _clips(now, content)


def _course(content: Mapping[str, Any]) -> None:
    st.markdown("**What the alert is about, as recorded and replayed**")
    scores = [value for line in content["course"].values() for value in line["score"]]
    if all(value is None for value in scores):
        st.caption(
            "It was measured too seldom before the onset to say what is usual, so that there is "
            "nothing to draw."
        )
        return
    onset, alarm = content["onset"]["step"], content["alarm"]["step"]
    figure = incident_figure(content["course"], onset, alarm)
    says = f"the alert's signal around steps {onset} to {alarm}, of the record and its replays"
    chart(figure, None, "incident_course", says)
    st.caption(
        "In spreads from what was usual before the onset; a replay that follows the record shows "
        "that its state and its data explain it."
    )


def _movers(content: Mapping[str, Any]) -> None:
    st.subheader("What moved first")
    movers = content["movers"][:MOST_MOVERS]
    if not movers:
        st.caption("Nothing left its range on the way to the alarm.")
        return
    rows = [
        {
            "step": m["step"],
            "what": m["what"],
            "spreads": spreads(m["score"]),
            "signal": m["signal"],
        }
        for m in movers
    ]
    st.dataframe(
        rows,
        hide_index=True,
        column_config={
            "step": st.column_config.NumberColumn("step", width="small"),
            "spreads": st.column_config.TextColumn(
                "spreads", width="small", help="Farthest from where it was before the onset."
            ),
        },
        key="incident_movers",
    )
    more = content["num_movers"] - len(movers)
    if more > 0:
        st.caption(f"{more} more followed.")
    signal = movers[0]["signal"]
    if signal in CATALOGUE:
        st.caption(plain(f"{signal}: {CATALOGUE[signal].help}", 400))


def _evidence(content: Mapping[str, Any]) -> None:
    st.subheader("Evidence")
    evidence: Sequence[Mapping[str, Any]] = content["verdict"]["evidence"]
    if not evidence:
        st.caption("It was not replayed yet; the record alone says what moved, and not why.")
        return
    for row in sorted(evidence, key=lambda row: row["speaks_for"] == "-"):
        cause = row["speaks_for"]
        with st.container(horizontal=True, vertical_alignment="top", gap="small"):
            if cause != "-":
                icon, colour = VERDICTS.get(cause, (":material/help:", "gray"))
                st.badge(cause.replace("_", " "), icon=icon, color=colour)
            st.markdown(plain(_sentence(row["text"]), 600))
    with st.expander("The replays", icon=":material/replay:"):
        for arm in content["verdict"]["arms"]:
            size = "" if arm["score"] is None else f" ({number(arm['score'], 3)} spreads)"
            st.markdown(f"**{plain(arm['words'], 120)}**: {_SHOWS[arm['shows']]}{size}")


def _clips(now: IncidentNow, content: Mapping[str, Any]) -> None:
    clips = content["clips"]
    if not clips:
        return
    st.subheader("Clips that stand out")
    shown = clips[:MOST_CLIPS]
    st.dataframe(
        [
            {
                "clip": c["name"],
                "steps": ", ".join(str(step) for step in c["steps"]),
                "batches": ", ".join(str(batch) for batch in c["batches"]),
                "spreads": number(c["score"], 2),
                "in": c["modality"],
                "at noise": f"{c['sigma']:.2f}",
            }
            for c in shown
        ],
        hide_index=True,
        key="incident_clips",
    )
    if content["num_clips"] > len(shown):
        st.caption(
            f"{content['num_clips'] - len(shown)} more; "
            f"`{now.command} --json` lists up to {len(clips)}."
        )
    files = [(c["name"], clip_file(now.run, c["name"])) for c in shown]
    there = [(name, file) for name, file in files if file is not None][:MOST_SHOWN_CLIPS]
    if not there:
        st.caption("None of these files is on this machine, so nothing of them can be played.")
        return
    for column, (name, file) in zip(st.columns(MOST_SHOWN_CLIPS), there, strict=False):
        with column:
            if file.suffix.lower() in (".mp4", ".webm", ".mov", ".m4v"):
                st.video(str(file), loop=True, muted=True, width=220)
            elif file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
                st.image(str(file), width=220)
            st.caption(plain(name, 80))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
