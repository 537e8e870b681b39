"""Saved views of a page: what its address holds, by a name, for whoever opens the page."""

import time
from urllib.parse import parse_qsl, urlencode

import streamlit as st

from ...platform.records import SavedView
from ...platform.saved_views import saved_views
from ...platform.store import Store
from .. import asks
from ..sign_in import who_asks
from ..words import age, plain
from .panel import act, store_may_be_away

_OURS = "moescope_"
"""What in the session is not a widget's: it stays when a view is opened."""
_SECRET = "token"


def render(store: Store, page: str) -> None:
    """Draws the button that opens the list of a page's views, and what saves the present one."""
    with (
        st.popover("Views", icon=":material/bookmarks:", key=f"views_of_{page}", width="content"),
        store_may_be_away(),
    ):
        found = saved_views(store, page)
        if not found:
            st.caption("None yet. A view is what the address holds: runs, range, axes, charts.")
        for number, view in enumerate(found):
            _row(store, view, number)
        if who_asks().may_act:
            _form(store, page)


def query_now() -> str:
    """Returns what the address holds, as it is kept: without the token."""
    return urlencode({k: v for k, v in st.query_params.to_dict().items() if k != _SECRET})


def open_view(query: str) -> None:
    """Puts a view's query into the address; every widget begins anew from it. To be called back."""
    for key in [str(key) for key in st.session_state]:
        if not key.startswith(_OURS):
            del st.session_state[key]
    st.query_params.from_dict({k: v for k, v in parse_qsl(query) if k != _SECRET})


def _row(store: Store, view: SavedView, number: int) -> None:
    asking = f"{_OURS}asking_view_{view.page}"
    is_asked = st.session_state.get(asking) == view.name
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            plain(view.name, 80),
            key=f"view_{number}",
            icon=":material/bookmark:",
            type="tertiary",
            help=f"Saved by {plain(view.saved_by, 40)} {age(time.time() - view.saved_s)} ago.",
            on_click=open_view,
            args=(view.query,),
        )
        if not who_asks().may_act:
            return
        st.button(
            "Remove for everybody" if is_asked else "Remove",
            key=f"view_remove_{number}",
            icon=":material/delete:",
            type="primary" if is_asked else "tertiary",
            on_click=_remove,
            args=(store, view, asking),
        )


def _remove(store: Store, view: SavedView, asking: str) -> None:
    if st.session_state.get(asking) == view.name:
        st.session_state.pop(asking)
        act(asks.remove_view, store, view.page, view.name)
    else:
        st.session_state[asking] = view.name


def _form(store: Store, page: str) -> None:
    def save() -> None:
        name = st.session_state["view_name"] or ""
        if act(asks.save_view, store, page, name, query_now()):
            st.session_state["view_name"] = ""

    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.text_input("Name", key="view_name", placeholder="of this view", max_chars=80)
        st.button("Save", key="view_save", icon=":material/bookmark_add:", on_click=save)
