"""The page of what carries the runs: store, sinks, service, schedules, housekeeping, delivery."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import streamlit as st

from ...platform.settings import Settings
from ...platform.store import Store
from .. import reads_of_the_system as reads
from ..words import age, counted, gib, number, plain
from . import system_tables
from .panel import CALM_S, live

Fact = tuple[str, str, str]
"""Name, value as Markdown, and help, which may be empty."""
LOW_GIB = 2.0
MOST_FAILURES = 3
"""Alerts that were not sent whose reason is shown; it is mostly the same."""
SCHEDULES_S = 60.0
"""To ask when schedules come due takes a process of about a second."""


def render(store: Store, settings: Settings) -> None:
    st.header("System")
    left, right = st.columns(2, gap="medium")
    with left:
        live(lambda: _what_is_kept(store, settings), CALM_S)
    with right:
        live(lambda: _who_serves(store, settings), CALM_S)
        live(lambda: _schedules(store), SCHEDULES_S)
    live(lambda: _sinks(store), CALM_S)
    live(lambda: _deeds(store), CALM_S)
    live(lambda: system_tables.render(store), None)
    with _box("Versions"):
        found = reads.installed()
        st.markdown(" · ".join(f"{name} **{plain(said)}**" for name, said in found.items()))


@contextmanager
def _box(title: str, wants: Sequence[str] = (), good: str = "") -> Iterator[None]:
    """A part of the page with its title, and whether it wants a person: a sign and words.

    wants: a sentence of Markdown each. good: what is said where there is none.
    """
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(f"#### {title}", width="content")
            if wants:
                st.badge("wants a look", icon=":material/warning:", color="orange")
            elif good:
                st.badge(good, icon=":material/check_circle:", color="green")
        for sentence in wants:
            st.warning(sentence)
        yield


def _facts(facts: Sequence[Fact]) -> None:
    with st.container(gap="xsmall"):
        for name, value, help in facts:
            st.markdown(f":gray[{plain(name)}]&ensp;{value}", help=help or None)


def _what_is_kept(store: Store, settings: Settings) -> None:
    _store(reads.store_now(store, time.time()))
    _housekeeping(reads.housekeeping_now(store, settings))


def _who_serves(store: Store, settings: Settings) -> None:
    now_s = time.time()
    _service(reads.service_now(store, settings), now_s)
    _delivery(reads.delivery_now(store, settings, now_s), now_s)


def _sinks(store: Store) -> None:
    runs = reads.sinks_now(store)
    with _box("Sinks", system_tables.wants_of_sinks(runs), "keep up" if runs else ""):
        system_tables.sinks(runs, time.time())


def _deeds(store: Store) -> None:
    with _box("What was done here"):
        system_tables.what_was_done(store)


def _store(now: reads.StoreNow) -> None:
    size = now.size
    wants = []
    if not now.is_newest:
        wants.append("It is older than this program: `moescope db upgrade`.")
    if size.free_bytes is not None and size.free_bytes < LOW_GIB * 2**30:
        wants.append(f"Only {gib(size.free_bytes)} are left on its disk.")
    with _box("Store", wants, "can be read"):
        st.code(size.shown, language=None, wrap_lines=True)
        facts: list[Fact] = [
            ("Kind", f"{plain(size.engine)}, tables at version {plain(size.version)}", ""),
            ("Size", _size(now), "On disk, with indexes and what waits in the log."),
            ("Growth", _growth(now.growth), "Packing and forgetting may make it negative."),
        ]
        if size.free_bytes is not None:
            facts.append(("Free disk", gib(size.free_bytes), ""))
        _facts(facts)


def _size(now: reads.StoreNow) -> str:
    size = now.size
    if size.num_bytes is None:
        ours = "the server does not tell this user"
    else:
        ours = f"**{gib(size.num_bytes)}**"
    if size.wal_bytes:
        ours += f", {gib(size.wal_bytes)} of it in the write-ahead log"
    if size.database_bytes is not None:
        return f"{ours}; the whole database {gib(size.database_bytes)}"
    if not size.engine.startswith("SQLite"):
        return f"{ours}; of the whole database the server does not tell this user"
    return ours


def _growth(growth: reads.Growth) -> str:
    if growth.seen_per_day is None:
        seen = "of late not known yet: this page has watched for too short a time"
    else:
        seen = f"**{_per_day(growth.seen_per_day)}** in the last {age(growth.seen_s)}"
    if growth.mean_per_day is None:
        return seen
    return f"{seen}; {_per_day(growth.mean_per_day)} since the first run"


def _per_day(num_bytes: float) -> str:
    sign = "-" if num_bytes < 0 else "+"
    return f"{sign}{gib(abs(num_bytes))} a day"


def _service(now: reads.ServiceNow, now_s: float) -> None:
    leader, wants = now.leader, []
    if leader is None:
        wants.append(
            "No service leads this store: nobody notices a silent run, packs samples or catches up "
            "with journals. `moescope up` starts one; trainers go on without it."
        )
    elif leader.until_s <= now_s:
        wants.append(
            f"The service that led has not been heard of for {age(now_s - leader.since_s)}: "
            "`moescope up` starts another."
        )
    with _box("Service", wants, "leads"):
        facts: list[Fact] = []
        if leader is not None:
            who = plain(leader.holder, 80)
            facts.append(("Leader", who, "Machine, process, and a word that tells two apart."))
            beat = f"{age(now_s - leader.since_s)} ago"
            facts.append(("Last beat", beat, "It beats each second, and leads for 7 s on a beat."))
        if now.deliverer is not None and now.deliverer.until_s > now_s:
            facts.append(("Sends alerts", plain(now.deliverer.holder, 80), ""))
        if now.here is not None:
            facts.append(("Of this home", _here(now), "What `moescope up` runs here."))
        elif leader is not None:
            facts.append(("Of this home", "no service runs from it", ""))
        _facts(facts)


def _here(now: reads.ServiceNow) -> str:
    assert now.here is not None
    words = f"process {now.here.pid}, {now.children} of {len(now.here.children)} children alive"
    return f"{words}; MLflow at {plain(now.here.mlflow_url, 80)}" if now.here.mlflow_url else words


def _schedules(store: Store) -> None:
    now_s = time.time()
    with _box("Schedules"):
        found = reads.schedules_now(store)
        if not found:
            st.markdown("None. `moescope study schedule STUDY` makes one.")
            return
        for one in found:
            last = f"; last {plain(str(one['last']))}" if one["last"] else ""
            words = f"{plain(str(one['when']))}; next **{plain(str(one['next']))}**{last}"
            _facts([(str(one["schedule"]), f"{words}; fired {one['fired']} times", "")])
        for firing in reads.newest_firings(store):
            st.caption(
                f"{plain(firing.schedule, 60)}, {age(now_s - firing.fired_s)} ago: "
                f"{plain(firing.outcome, 160)}"
            )


def _housekeeping(now: reads.HousekeepingNow) -> None:
    wants = []
    if now.journals:
        some = "At least " if now.are_more_journals else ""
        wants.append(
            f"{some}{counted(len(now.journals), 'journal')} of ended runs with something that a "
            "sink has not taken; a running service brings it in."
        )
    with _box("Housekeeping", wants, "nothing was left behind"):
        due, windows = now.waiting, "windows of 1,024 steps"
        many = "or more " if due.is_more else ""
        waits = f"{due.num_windows} {many}{windows} wait" if due.num_windows else "nothing waits"
        rule = "nothing is forgotten"
        if now.rule is not None:
            limits = []
            if now.rule.days is not None:
                limits.append(f"older than {number(now.rule.days)} days")
            if now.rule.runs is not None:
                limits.append(f"not of the newest {now.rule.runs} runs")
            rule = f"vectors {' and '.join(limits)} are forgotten"
        _facts(
            [
                ("To pack", waits, "The leading service does it, in bites of two seconds."),
                ("Packed", f"{due.num_packed:,} {windows}", "Each of one group of signals."),
                ("Rows", f"of {due.num_runs:,} runs are not packed", "Of living runs, some stay."),
                (
                    "Retention",
                    rule,
                    "As this dashboard is told; the service that leads may be told otherwise.",
                ),
            ]
        )
        for run, waits_for in now.journals:
            sinks = ", ".join(f"{sink} {gib(size)}" for sink, size in waits_for.items() if size)
            st.caption(f"{plain(run, 60)}: {plain(sinks, 80)}")


def _delivery(now: reads.DeliveryNow, now_s: float) -> None:
    count = len(now.failures)
    wants = [f"{counted(count, 'alert')} of the last week could not be sent."] if count else []
    with _box("Delivery of alerts", wants, "nothing failed in the last week"):
        said = ", ".join(plain(channel, 30) for channel in now.channels)
        if not said:
            said = "nowhere: `MOESCOPE_NOTIFY` is not set here"
        _facts(
            [("Sent to", said, "Kinds of addresses; `moescope alerts test-channel` tries them.")]
        )
        for alert, why in now.failures[:MOST_FAILURES]:
            st.caption(
                f"{plain(alert.rule)}, {age(now_s - alert.created_s)} ago: {plain(why, 200)}"
            )
