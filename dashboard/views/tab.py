"""The browser's tab: its title and icon say how the worst of all runs is, whichever page is open.

The title says the state in a word and how many runs are in it; the icon has its colour besides.
"""

from contextlib import suppress

import streamlit as st

from ...platform.attention import Attention
from ...platform.errors import MoescopeError
from ...platform.store import Store
from ..reads_of_attention import attention_now
from ..theme import icon_of
from .panel import CALM_S, live


def render(store: Store, page_title: str) -> None:
    """Sets title and icon, and again every few seconds by itself."""

    def tell() -> None:
        # a store that is away is told on the page; the tab stays as it was
        with suppress(MoescopeError, OSError):
            now = attention_now(store)
            st.set_page_config(page_title=title_of(now, page_title), page_icon=icon_of(now.worst))

    live(tell, CALM_S)


def title_of(now: Attention, page_title: str) -> str:
    """Returns `(2) critical - Run - moescope`: what is cut off in a narrow tab comes last."""
    state = f"({now.num_runs}) {now.worst} - " if now.num_runs else ""
    return f"{state}{page_title} - moescope"
