"""The page of one run: how it is, what to ask of it, and its charts while it trains."""

import time
from dataclasses import replace

import streamlit as st

from ...platform import catalogue
from ...platform.errors import MoescopeError
from ...platform.incidents import incidents
from ...platform.precision import policy_of
from ...platform.store import Store
from ...platform.summaries import summaries
from ..health_words import halted, in_words, verdicts_of
from ..reads import SHOWN_OF_A_RUN, RunNow, RunReader, run_now
from ..theme import LAMPS
from ..words import age, number, plain, short
from . import (
    alert_cards,
    beside_the_charts,
    charts_of_a_run,
    configuration,
    control_strip,
    distributions,
    experts,
    history,
    logs,
    more_charts,
    noise_experts,
    notes,
    samples,
    steering,
    system,
    who_goes_where,
)
from .panel import CALM_S, LIVE_S, LinkToIncident, LinkToRun, badge, live

_LAST_SEEN = "moescope_last_seen_run"


def picked(store: Store, wanted: str) -> str:
    """Draws the choice of runs and returns the page's: the address's, the last seen, the newest.

    The address follows the choice, so that it can be passed on.
    """
    runs = store.runs()
    names = {run.id: run.name for run in runs}
    try:
        last_seen = st.session_state.get(_LAST_SEEN)
        newest = next(iter(names), "")
        chosen = store.find_run(wanted).id if wanted else last_seen or newest
    except MoescopeError:
        return wanted
    if chosen not in names:
        return chosen  # an archived run, or none at all
    st.session_state[_LAST_SEEN] = chosen
    if not wanted:
        st.query_params["run"] = chosen

    def follow() -> None:
        st.query_params["run"] = st.session_state[f"run_of_{chosen}"]

    st.selectbox(
        "Run",
        list(names),
        index=list(names).index(chosen),
        format_func=lambda run_id: names.get(run_id, run_id),
        key=f"run_of_{chosen}",
        on_change=follow,
        label_visibility="collapsed",
        width=320,
    )
    return chosen


def render(
    store: Store,
    wanted: str,
    link_to_incident: LinkToIncident | None = None,
    link_to_control: LinkToRun | None = None,
    link_to_rules: LinkToRun | None = None,
    link_to_compare: LinkToRun | None = None,
) -> None:
    """Draws a run's page. wanted: id, beginning of an id, or name, as the address has it."""
    if not wanted:
        st.info("No run yet. `moescope train tiny --data FOLDER` starts one; it appears here.")
        return
    try:
        run = store.find_run(wanted)
    except MoescopeError as error:
        st.header("No such run")
        st.text(str(error))
        return
    is_live = run.status == "running"
    beat_s = LIVE_S if is_live else None
    live(lambda: _head(store, run.id, is_live, link_to_incident), beat_s or CALM_S)
    strip = (link_to_control, link_to_rules)
    live(lambda: control_strip.render(store, _now(store, run.id), *strip), beat_s)
    if not RunReader(store, run.id).signals:
        live(lambda: _until_measured(store, run.id), beat_s)
        beside_the_charts.render(store, run, None, link_to_compare)
        logs.render(store, run.id, is_live)
        return
    window_now, is_moving = steering.render(RunReader(store, run.id), is_live)
    beside_the_charts.render(store, run, window_now, link_to_compare)
    charts_of_a_run.render(store, run.id, window_now, is_moving)
    experts.render(store, run.id, window_now, is_moving)
    who_goes_where.render(store, run.id, window_now, is_moving)
    noise_experts.render(store, run.id, window_now, is_moving)
    system.render(store, run.id, window_now, is_moving)
    more_charts.render(store, run.id, window_now, is_moving)
    distributions.render(store, run.id, window_now, is_moving)
    live(lambda: history.render(store, run.id), beat_s)
    samples.render(run)
    configuration.render(store, run)
    logs.render(store, run.id, is_live)


def _now(store: Store, run_id: str) -> RunNow:
    open_alerts = store.alerts(run_id=run_id, states=["open"])
    run = store.find_run(run_id)
    found = summaries(store, SHOWN_OF_A_RUN, [run.id]).get(run.id, {})
    now = run_now(run, found, open_alerts, time.time())
    clock = RunReader(store, run_id).clock("tokens")
    if clock.is_steps or clock.living is None:
        return now
    return replace(now, tokens_seen=float(clock.living[1][-1]))


def _head(
    store: Store, run_id: str, is_live: bool, link_to_incident: LinkToIncident | None
) -> None:
    now = _now(store, run_id)
    if now.is_live != is_live:
        st.rerun(scope="app")  # it ended or was resumed: the other parts tick otherwise now
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"## {plain(now.run.name, 80)}", width="content")
        badge(LAMPS[now.lamp])
        for tag in now.run.tags[:4]:
            st.badge(plain(tag, 24), color="gray")
    if now.lamp == "silent":
        st.warning(
            f"No heartbeat for {age(now.heartbeat_age_s)}: the trainer is dead, stuck, or cannot "
            "reach the store. What is shown ends there.",
            icon=LAMPS["silent"].icon,
        )
    _health(store, now)
    with st.container(horizontal=True, gap="small", key="run_numbers"):
        for label, value, help in _numbers(now):
            st.metric(label, value, help=help or None, width="content")
    notes.shown(now.run)
    open_alerts = store.alerts(run_id=run_id, states=["open"])
    if open_alerts:
        alert_cards.feed(store, open_alerts, most=3, link_to_incident=link_to_incident)


def _health(store: Store, now: RunNow) -> None:
    """Draws the line that says how it is: healthy since when, rolled back when and why."""
    said = in_words(
        now.lamp,
        now.step,
        store.alerts(run_id=now.run.id),
        store.segments(now.run.id),
        verdicts_of(incidents(store, now.run.id)),
        time.time(),
    )
    if now.lamp == "halted":
        why = halted(store.events(now.run.id, kinds=("halt",)))
        said = "; ".join(part for part in (f"halted: {why}" if why else "", said) if part)
    if said:
        st.markdown(plain(said[0].upper() + said[1:], 300))


def _numbers(now: RunNow) -> list[tuple[str, str, str]]:
    of = f" / {now.num_steps:,}" if now.num_steps else ""
    rows = [
        ("Status", now.run.status, plain(f"On {now.run.device}, code {now.run.code_version}.")),
        ("Step", "none yet" if now.step is None else f"{now.step + 1:,}{of}", ""),
    ]
    rows += _precision(now)
    if now.loss is not None:
        rows.append(("Loss", number(now.loss), catalogue.CATALOGUE[catalogue.LOSS_TOTAL].help))
    if now.tokens_seen is not None:
        spec = catalogue.CATALOGUE[catalogue.STEP_TOKENS]
        rows.append(("Tokens seen", short(now.tokens_seen), spec.help))
    if now.tokens_per_s is not None:
        spec = catalogue.CATALOGUE[catalogue.TOKENS_PER_S]
        rows.append(("Tokens/s", short(now.tokens_per_s), spec.help))
    if now.is_live:
        rows.append(
            ("Heartbeat", f"{age(now.heartbeat_age_s)} ago", "The trainer beats each second.")
        )
        if now.time_left_s is not None:
            rows.append(("Time left", age(now.time_left_s), "At the speed of the newest step."))
    elif now.run.finished_s is not None:
        rows.append(("Took", age(now.run.finished_s - now.run.created_s), ""))
    return rows


def _precision(now: RunNow) -> list[tuple[str, str, str]]:
    """Says which part computes in what; a run of another trainer does not tell."""
    compute = now.run.config.get("compute")
    if not isinstance(compute, dict) or "precision" not in compute:
        return []
    policy = policy_of(
        str(compute["precision"]),
        now.run.device,
        has_exact_router=bool(compute.get("has_exact_router", True)),
    )
    parts = "; ".join(f"{part}: {dtype}" for part, dtype in policy.rows().items())
    short_name = "bf16" if policy.products == "bfloat16" else "fp32"
    return [("Precision", short_name, plain(f"{str(policy).capitalize()}. {parts}."))]


def _until_measured(store: Store, run_id: str) -> None:
    if RunReader(store, run_id).signals:
        st.rerun(scope="app")  # now there are charts, which are not part of this fragment
    st.info(
        "No signal of this run has arrived yet. The first appears after its first step.",
        icon=":material/hourglass:",
    )
