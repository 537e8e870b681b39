"""The page of alerts: found by state, severity, rule, run and words; paged; decided at once."""

import time

import streamlit as st

from ...platform.errors import MoescopeError
from ...platform.records import Alert
from ...platform.silences import silences
from ...platform.store import Store
from ..alert_filter import SEVERITIES as SEVERITY_NAMES
from ..alert_filter import STATES, AlertFilter, counted, from_address, matching
from ..theme import SEVERITIES
from ..words import plain
from . import alerts_at_once
from .alert_cards import card, end_silence, say_what_became, until_in_words
from .panel import CALM_S, LIVE_S, LinkToIncident, LinkToRun, live, page_of_the_store

PER_PAGE = 20
FAILURES_SINCE_S = 86400.0
EVERY = ""
_OPTION = {"rule": "Every rule", "run": "Every run"}


def render(
    store: Store, link_to_run: LinkToRun, link_to_incident: LinkToIncident | None = None
) -> None:
    st.header("Alerts")
    with page_of_the_store():
        names = {run.id: run.name for run in store.runs(include_archived=True)}
        wanted = _filter(store, names)
        # to draw twenty cards costs more than to look whether anything is new
        live(lambda: _page(store, link_to_run, wanted, link_to_incident), CALM_S)
        live(lambda: _look(store, wanted), LIVE_S)


def _filter(store: Store, names: dict[str, str]) -> AlertFilter:
    """Draws the widgets that choose, and returns what they choose. The address follows them."""
    told = from_address(st.query_params.to_dict())
    st.session_state.setdefault("alerts_state", told.state)
    st.session_state.setdefault(
        "alerts_severity", [s for s in SEVERITY_NAMES if s in told.severities]
    )
    st.session_state.setdefault("alerts_rule", told.rule)
    st.session_state.setdefault("alerts_run", _known_run(store, told.run_id))
    st.session_state.setdefault("alerts_find", told.text)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        state = st.segmented_control("State", list(STATES), required=True, key="alerts_state")
        severities = st.pills(
            "Severity",
            list(SEVERITY_NAMES),
            selection_mode="multi",
            key="alerts_severity",
            format_func=lambda name: f"{SEVERITIES[name].icon} {name}",
        )
    there = store.alerts(states=list(STATES[state or "Open"]))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        text = st.text_input(
            "Find", key="alerts_find", placeholder="words of rule, message or run", width=260
        )
        rule = _choice("rule", "Rule", {alert.rule: alert.rule for alert in there})
        run_id = _choice(
            "run", "Run", {a.run_id: names.get(a.run_id, a.run_id) for a in there}, names
        )
        chosen = AlertFilter(state or "Open", frozenset(severities), rule, run_id, text or "")
        if chosen.is_narrow:
            st.button("Show all", key="alerts_clear", type="tertiary", on_click=_clear)
    _keep(chosen.address())
    return chosen


def _choice(
    what: str, label: str, options: dict[str, str], names: dict[str, str] | None = None
) -> str:
    key = f"alerts_{what}"
    chosen = st.session_state[key]
    if chosen and chosen not in options:
        # it has no alert in this state any more, and still is what was asked for
        options = {chosen: (names or {}).get(chosen, chosen), **options}
    ordered = sorted(options, key=lambda option: options[option].lower())
    return str(
        st.selectbox(
            label,
            [EVERY, *ordered],
            format_func=lambda option: options.get(option, _OPTION[what]),
            key=key,
            width=220,
        )
    )


def _known_run(store: Store, wanted: str) -> str:
    """The id of a run that the address names in any way; every run where there is none such."""
    try:
        return store.find_run(wanted).id if wanted else EVERY
    except MoescopeError:
        return EVERY


def _clear() -> None:
    for key, value in (("severity", []), ("rule", EVERY), ("run", EVERY), ("find", "")):
        st.session_state[f"alerts_{key}"] = value


def _keep(address: dict[str, str]) -> None:
    for name in ("state", "severity", "rule", "run", "find"):
        value = address.get(name, "")
        if value == st.query_params.get(name, ""):
            continue
        if value:
            st.query_params[name] = value
        else:
            st.query_params.pop(name, None)
        # another choice begins on its first page
        st.query_params.pop("page", None)


def _look(store: Store, wanted: AlertFilter) -> None:
    """Draws the page anew where an alert has come or was decided since it was last looked at."""
    alerts = store.alerts(states=list(STATES[wanted.state]))
    seen = wanted.state, hash(tuple((a.id, a.state, a.changed_s) for a in alerts))
    before = st.session_state.get("alerts_seen")
    st.session_state["alerts_seen"] = seen
    if before is not None and before != seen and before[0] == wanted.state:
        st.rerun(scope="app")


def _page(
    store: Store,
    link_to_run: LinkToRun,
    wanted: AlertFilter,
    link_to_incident: LinkToIncident | None,
) -> None:
    say_what_became()
    names = {run.id: run.name for run in store.runs(include_archived=True)}
    with st.container(key="alerts_held"):
        _failing_channels(store)
        _silences(store, names, link_to_run)
    found = matching(store.alerts(states=list(STATES[wanted.state])), wanted, names)
    shown, first = _of_page(found, wanted)
    with st.container(key="alerts_head"):
        _say_how_many(found, shown, first, wanted)
    with st.container(key="alerts_at_once"):
        alerts_at_once.render(store, shown, found)
    now_s = time.time()
    for alert in shown:
        with st.container(border=True, gap="small", key=f"alert_{alert.id}"):
            card(store, alert, now_s, names, link_to_run, link_to_incident)


def _of_page(found: list[Alert], wanted: AlertFilter) -> tuple[list[Alert], int]:
    """The alerts of the page that is open, and the number of the first one."""
    num_pages = max(1, -(-len(found) // PER_PAGE))
    if num_pages == 1:
        _keep_page(1)
        return found, 0
    told = st.query_params.get("page", "1")
    page = max(1, min(int(told), num_pages)) if told.isdecimal() else 1
    if hasattr(st, "pagination"):
        # another number of pages, or another choice, is another widget
        key = f"alerts_page_{hash(wanted)}_{num_pages}"
        page = st.pagination(num_pages, default=page, key=key)
    _keep_page(page)
    first = (page - 1) * PER_PAGE
    return found[first : first + PER_PAGE], first


def _keep_page(page: int) -> None:
    value = "" if page == 1 else str(page)
    if value and value != st.query_params.get("page"):
        st.query_params["page"] = value
    elif not value:
        st.query_params.pop("page", None)


def _say_how_many(found: list[Alert], shown: list[Alert], first: int, wanted: AlertFilter) -> None:
    in_state = "" if wanted.state == "All" else f"{wanted.state.lower()} "
    if found:
        which = (
            f", {first + 1:,} to {first + len(shown):,} shown" if len(shown) < len(found) else ""
        )
        plural = "s" if len(found) > 1 else ""
        st.caption(f"{len(found):,} {in_state}alert{plural} ({counted(found)}){which}.")
    elif wanted.is_narrow:
        st.info("No alert matches; show all to see more.", icon=":material/filter_alt_off:")
    elif wanted.state == "Open":
        st.success("No open alert.", icon=":material/check_circle:")
    else:
        st.info("No alert in this state.")


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
                st.markdown(f":gray[{until_in_words(silence.until_s, now_s)}]", width="content")
                end_silence(store, silence.run_id, silence.rule, "held")
