"""The page of an incident: how an alert came about, what was done, why it was, and what to do."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from ...platform.catalogue import CATALOGUE
from ...platform.errors import MoescopeError
from ...platform.store import Store
from ..charts_of_incidents import incident_figure
from ..reads_of_incidents import IncidentNow, clip_file, incident_now, recorded_alerts
from ..theme import SEVERITIES
from ..words import age, number, plain, plain_with_code
from .panel import CALM_S, LinkToIncident, LinkToRun, badge, chart, live

MOST_MOVERS = 10
FIRST_TOLD = 3
MOST_CLIPS = 12
MOST_SHOWN_CLIPS = 4
_VERDICTS: Mapping[str, tuple[str, Any]] = {
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


def render(
    store: Store, wanted: str, link_to_run: LinkToRun, link_to_incident: LinkToIncident
) -> None:
    """Draws an incident's page. wanted: the alert's id, as the address has it; empty: the list."""
    if not wanted:
        st.header("Incidents")
        live(lambda: _list(store, link_to_run, link_to_incident), CALM_S)
        return
    try:
        now = incident_now(store, wanted)
    except MoescopeError as error:
        st.header("No such incident")
        st.text(str(error))
        return
    # it may be replayed just now; and the run may recover
    live(lambda: _head(store, wanted, link_to_run), CALM_S)
    if now.incident is None:
        return
    content = now.incident.content
    _course(content)
    left, right = st.columns(2, gap="large")
    with left:
        _movers(content)
    with right:
        _evidence(content)
    _clips(now, content)


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
    now_s = time.time()
    for alert in alerts:
        found = incident_now(store, alert.id).incident
        with st.container(border=True, gap="small", key=f"incident_{alert.id}"):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                badge(SEVERITIES[alert.severity])
                link_to_incident(alert.rule, alert.id)
                link_to_run(names.get(alert.run_id, alert.run_id), alert.run_id)
                st.markdown(f":gray[{age(now_s - alert.created_s)} ago]", width="content")
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                _verdict_badge("unexamined" if found is None else found.verdict, found)
            st.caption(plain(alert.message))


def _head(store: Store, alert_id: str, link_to_run: LinkToRun) -> None:
    now = incident_now(store, alert_id)
    alert = now.alert
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"## {plain(alert.rule, 60)}", width="content")
        badge(SEVERITIES[alert.severity])
        link_to_run(now.run.name, now.run.id)
        state = f"{alert.state} · {age(time.time() - alert.created_s)} ago"
        st.markdown(f":gray[{plain(state)}]", width="content")
    st.markdown(plain(alert.message))
    if now.incident is None:
        st.info(
            "There is no account of this alert yet: its record is still being read, or it has "
            "none. The command below makes one from its record.",
            icon=":material/hourglass:",
        )
        st.code(now.command, language=None)
        return
    _verdict(now)
    _story(now)


def _verdict(now: IncidentNow) -> None:
    assert now.incident is not None
    content = now.incident.content
    with st.container(border=True, gap="small", key="incident_verdict"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown("**Verdict**", width="content")
            _verdict_badge(now.incident.verdict, now.incident)
        for text in content["next"]:
            st.markdown(f"**To do.** {plain_with_code(text.replace('ALERT', now.alert.id))}")
        if not now.incident.is_replayed:
            st.code(now.command, language=None)
        for text in (*content["across"].get("said", ()), *content["notes"]):
            st.caption(plain(text, 600))


def _verdict_badge(verdict: str, incident: Any) -> None:
    is_firm = incident is None or incident.content["verdict"]["is_firm"]
    words = {"no_cause": "no cause found", "unexamined": "not examined yet"}
    if not is_firm and verdict not in words:
        st.markdown("probably", width="content")
    for cause in verdict.split(" and "):
        icon, colour = _VERDICTS.get(cause, (":material/help:", "gray"))
        st.badge(words.get(cause, cause.replace("_", " ")), icon=icon, color=colour)


def _story(now: IncidentNow) -> None:
    """Onset, first movers, alarm, action, recovery, in this order."""
    assert now.incident is not None
    content = now.incident.content
    onset, alarm = content["onset"], content["alarm"]
    batch = "" if onset["batch"] is None else f", batch {onset['batch']:,}"
    told = onset.get("told_by_the_rule", onset["step"])
    rows = [("Onset", onset["step"], f"the signal leaves its course{batch}")]
    if told != onset["step"]:
        rows[0] = (*rows[0][:2], f"{rows[0][2]}; the rule, which looks back, says step {told:,}")
    first = content["movers"][:FIRST_TOLD]
    if first:
        told_first = ", ".join(f"{m['what']} ({_spreads(m['score'])})" for m in first)
        rows.append(("First to move", first[0]["step"], told_first))
    rows.append(("Alarm", alarm["step"], now.alert.rule))
    rows += [(f.what.capitalize(), f.step, f.text) for f in now.followed]
    if not any(f.what == "recovery" for f in now.followed):
        rows.append(("Recovery", None, "the loss is not back where it was before the onset"))
    with st.container(border=True, gap="small", key="incident_story"):
        for what, step, text in rows:
            at = "" if step is None else f":gray[step {step:,}] "
            st.markdown(f"**{what}** {at}{plain(text, 300)}")


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
            "spreads": _spreads(m["score"]),
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
                icon, colour = _VERDICTS.get(cause, (":material/help:", "gray"))
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
        return
    for column, (name, file) in zip(st.columns(MOST_SHOWN_CLIPS), there, strict=False):
        with column:
            if file.suffix.lower() in (".mp4", ".webm", ".mov", ".m4v"):
                st.video(str(file), loop=True, muted=True, width=220)
            elif file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
                st.image(str(file), width=220)
            st.caption(plain(name, 80))


def _spreads(score: float) -> str:
    return "not finite" if abs(score) >= 99 else f"{score:+.1f}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
