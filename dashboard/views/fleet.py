"""The page of all runs: how each is, what it does, where it stands; a click leads to its page.

What is searched, sorted and listed is in the address (`?find=...&sort=loss&show=trouble`), so that
a link shows what was seen.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import streamlit as st

from ...platform.errors import MoescopeError
from ...platform.store import Store
from ..browser.fleet import MOST_CHOSEN, fleet_table, told
from ..fleet_changes import drawn, message
from ..fleet_rows import facts, looks
from ..reads_of_the_fleet import FleetNow, fleet
from ..run_search import Searched, found, problem
from ..words import age
from . import saved_views
from .panel import CALM_S, LIVE_S, live

OpenRun = Callable[[str], None]
"""Leads to the page of the run with an id."""
CompareRuns = Callable[[Sequence[str]], None]
"""Leads to the page that compares the runs with these ids."""

LISTS = ("all", "live", "trouble", "ended", "archived")
SORTS = {
    "name": False, "lamp": False, "doing": False, "step": True, "loss": False,
    "speed": True, "use": True, "alerts": True, "beat": False, "start": True,
}  # fmt: skip
"""{column: whether it is sorted downwards at first}"""
MOST_TYPED = 200
MOST_LINES_AGAIN = 8
"""Lines of the loss that a refresh sends once more before it asks what the browser has drawn."""
_SENT, _VIEW, _ADDRESS, _IS_NEW = "fleet_sent", "fleet_view", "fleet_address", "fleet_is_new_view"
_numbers = itertools.count(1)
"""Of whole messages, in the order in which they were made; no two are the same."""


@dataclass(frozen=True, slots=True)
class View:
    """What a person looks for, and in which order."""

    find: str = ""
    sort: str = "start"
    is_down: bool = True
    show: str = "all"

    def address(self) -> dict[str, str]:
        """As it stands in the address: what is as it was is left out."""
        sort = "" if self == View(self.find, show=self.show) else self.sort
        if sort and self.is_down != SORTS[sort]:
            sort = f"-{sort}"
        said = {"find": self.find, "sort": sort, "show": "" if self.show == "all" else self.show}
        return {name: value for name, value in said.items() if value}


def from_address(params: Mapping[str, str]) -> View:
    """The view that an address means; what is no view of ours is passed over."""
    sort = params.get("sort", "")
    is_other_way, key = sort.startswith("-"), sort.removeprefix("-")
    if key not in SORTS:
        key, is_other_way = "start", False
    show = params.get("show", "all")
    find = params.get("find", "").strip()[:MOST_TYPED]
    return View(find, key, SORTS[key] != is_other_way, show if show in LISTS else "all")


def from_browser(said: Any) -> View | None:
    """The view that the browser's table tells; None where it tells none of ours."""
    if not isinstance(said, Mapping) or (sort := str(said.get("sort"))) not in SORTS:
        return None
    show = said.get("show")
    find = str(said.get("find", "")).strip()[:MOST_TYPED]
    is_down = said.get("is_down") is True
    return View(find, sort, is_down, show if show in LISTS else "all")


def render(store: Store, open_run: OpenRun, compare_runs: CompareRuns | None = None) -> None:
    """Draws the page. compare_runs: where the chosen runs lead; None: they cannot be chosen."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.header("Runs", width="stretch")
        saved_views.render(store, "runs")
    state = st.session_state
    # the page was opened, or its address changed; a refresh of the part below leaves it as it is
    params = {
        name: st.query_params[name] for name in ("find", "sort", "show") if name in st.query_params
    }
    if _VIEW not in state or params != state.get(_ADDRESS):
        state[_VIEW], state[_ADDRESS], state[_IS_NEW] = from_address(params), params, True
    state[_SENT] = None
    live(lambda: _table(store, open_run, compare_runs), _every_s(store))


def _every_s(store: Store) -> float:
    """Where nothing trains there is little to see."""
    try:
        now = fleet(store.url, False).now(store, time.time())
    except MoescopeError:
        return LIVE_S
    return LIVE_S if any(one.now.is_live for one in now.runs) else CALM_S


def _table(store: Store, open_run: OpenRun, compare_runs: CompareRuns | None) -> None:
    view: View = st.session_state[_VIEW]
    now_s = time.time()
    notice = st.container()
    is_archived = view.show == "archived"
    reader = fleet(store.url, is_archived)
    try:
        now = reader.now(store, now_s)
    except MoescopeError as error:
        if reader.newest is None:
            raise
        now = reader.newest
        with notice:
            st.warning(
                f"The store cannot be read at the moment; this is how it was "
                f"{age(now_s - now.read_s)} ago.",
                icon=":material/cloud_off:",
            )
            st.text(str(error).splitlines()[0])
    if not now.runs and not now.num_archived:
        st.info("No run yet. `moescope train tiny --data FOLDER` starts one; it appears here.")
        return
    said = fleet_table(
        _message(now, view, is_archived, now_s, compare_runs is not None),
        on_view=_follow_view,
        on_ask=_follow_what_was_drawn,
    )
    if run_id := said.get("open"):
        open_run(str(run_id))
    chosen = said.get("compare")
    if compare_runs is not None and isinstance(chosen, list):
        compare_runs([str(run_id) for run_id in chosen[:MOST_CHOSEN]])


def _message(
    now: FleetNow, view: View, is_archived: bool, now_s: float, can_compare: bool
) -> dict[str, Any]:
    """What the browser is sent: rows once, then changes; who is found by what is searched."""
    state = st.session_state
    data, state[_SENT] = message(now.rows, state.get(_SENT), next(_numbers))
    num_lines = sum("spark" in one for one in data.get("changed", ()))
    ids, trouble = None, ""
    if view.find:
        searched = [Searched(one.now.run, facts(one, now.read_s)) for one in now.runs]
        ids, trouble = found(view.find, searched), problem(view.find, searched)
    if "rows" in data:
        data["now_s"] = now_s
    return data | {
        "looks": looks(),
        "view": asdict(view),
        "is_new_view": state.pop(_IS_NEW, False),
        "found": {"find": view.find, "ids": ids, "problem": trouble},
        "num_archived": now.num_archived,
        "is_archived": is_archived,
        "most_chosen": MOST_CHOSEN if can_compare else 0,
        "run_path": "run",
        "wants_word": not now.is_whole or num_lines >= MOST_LINES_AGAIN,
    }


def _follow_view() -> None:
    said = told("view")
    view = from_browser(said)
    if view is None:
        return
    if view.show != st.session_state[_VIEW].show:
        st.session_state[_SENT] = None
    st.session_state[_VIEW] = view
    if said.get("is_settled") is True:
        _into_address(view)


def _into_address(view: View) -> None:
    wanted = view.address()
    st.session_state[_ADDRESS] = wanted
    for name in ("find", "sort", "show"):
        if name in wanted:
            if st.query_params.get(name) != wanted[name]:
                st.query_params[name] = wanted[name]
        else:
            st.query_params.pop(name, None)


def _follow_what_was_drawn() -> None:
    """The table tells the number of a message that it has drawn, or asks for all."""
    asked, sent = told("ask"), st.session_state.get(_SENT)
    if asked == "all":
        st.session_state[_SENT] = None
    elif isinstance(asked, int) and sent is not None:
        st.session_state[_SENT] = drawn(sent, asked)
