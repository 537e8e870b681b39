"""Who sits at a session: by a token, as Jupyter has one, since on a shared login node everybody
reaches the port.

There are two, the operators' and the viewers'. A token comes with the printed address
(`?token=...`) or is typed in. It leaves the address bar at once, since addresses get copied, and
the browser keeps it, so that a reload or a link in a new tab asks for nothing. The role belongs to
the session and comes from the token that it holds, each time it is asked for; where a request comes
from says nothing.
"""

import math
import time
from contextlib import suppress

import streamlit as st

from ..platform.errors import MoescopeError
from ..platform.settings import Settings
from .asker import NOBODY, Asker, cleaned_name
from .guesses import Guesses, Judgement, Tokens, judged, of_a_session, of_all_sessions, role_of
from .keeper import browser_keeps

SHOWN_TOKEN, NAME = "moescope_shown_token", "moescope_name"
"""Where a session keeps the token that admitted it, and its person's name."""
EVERYBODYS = of_all_sessions()
"""One for the process, since a new session is no new chance; not in Streamlit's cache, which may be
emptied."""
_FORGET = "moescope_browser_forgets"
_FOUND = "moescope_token_of_the_address"
_GUESSES = "moescope_wrong_guesses"
_TYPED = "moescope_typed_token"


def who_asks() -> Asker:
    """Who sits at this session now: by the token that it was admitted with, as the tokens are at
    this moment, so that a changed token ends what was admitted before."""
    shown = st.session_state.get(SHOWN_TOKEN, "")
    if not shown:
        return NOBODY
    try:
        role = role_of(shown, _tokens(Settings()))
    except (MoescopeError, OSError):
        return NOBODY
    return NOBODY if role == "nobody" else Asker(st.session_state.get(NAME, ""), role)


def is_admitted() -> bool:
    """Says whether this session may see anything; takes a token out of the address, and draws
    nothing."""
    given = st.query_params.get("token", "")
    if given:
        # a right one changes who sits here, too: an operator's address opened by a viewer
        st.query_params.pop("token", None)
        with suppress(MoescopeError, OSError):
            st.session_state[_FOUND] = _judged(given, _tokens(Settings()))
    return who_asks() is not NOBODY


def ask() -> None:
    """Draws the page that wants a token; a right one, typed or kept by the browser, admits."""
    st.title("moescope")
    try:
        tokens = _tokens(Settings())
    except (MoescopeError, OSError) as error:
        st.error("The dashboard's tokens cannot be read, so nobody can sign in.")
        st.text(str(error))
        return
    found: Judgement | None = st.session_state.pop(_FOUND, None)
    forgotten = st.session_state.get(_FORGET, ())
    kept = browser_keeps(forget=forgotten).token
    if kept and not forgotten:
        found = _judged(kept, tokens)
        if found.role == "nobody" and not found.wait_s:
            # of an earlier service on this address: taken out of the browser at the next run
            st.session_state[_FORGET] = ("token",)
    st.write(
        "This dashboard wants a token. Open the address that `moescope up` printed, which carries "
        "it, or paste it here. The files `token` (of operators, who look and act) and "
        "`viewer-token` (of viewers, who look) in moescope's home folder hold them."
    )
    with st.form("sign_in", border=False, width=520):
        st.text_input("Token", type="password", key=_TYPED, autocomplete="off")
        is_sent = st.form_submit_button("Sign in", type="primary")
    if is_sent:
        found = _judged(st.session_state[_TYPED].strip(), tokens)
    if found is not None and found.role != "nobody":
        st.rerun()
    if found is not None and found.wait_s > 0:
        st.error(
            "Too many wrong tokens. This one was not looked at; the next one is in "
            f"{math.ceil(found.wait_s)} s.",
            icon=":material/hourglass:",
        )
    elif found is not None:
        st.error("That is not a token of this dashboard.", icon=":material/lock:")


def remember() -> None:
    """Has the browser keep token and name, and takes a name over that it kept from before."""
    name, forgotten = st.session_state.get(NAME, ""), st.session_state.get(_FORGET, ())
    kept = browser_keeps(st.session_state.get(SHOWN_TOKEN, ""), name, forgotten).name
    if kept and not name and not forgotten:
        st.session_state[NAME] = cleaned_name(kept)
        st.rerun()


def sign_out() -> None:
    """Ends this session's sign-in, and takes the token out of its browser."""
    st.session_state.pop(SHOWN_TOKEN, None)
    st.session_state[_FORGET] = ("token",)


def call_me(typed: str) -> None:
    """Keeps the name under which this person's deeds are recorded."""
    st.session_state[NAME] = cleaned_name(typed)
    st.session_state[_FORGET] = () if st.session_state[NAME] else ("name",)


def _tokens(settings: Settings) -> Tokens:
    return Tokens(settings.read_token(), settings.read_viewer_token())


def _judged(given: str, tokens: Tokens) -> Judgement:
    """Judges a token; a right one admits this session."""
    mine: Guesses = st.session_state.setdefault(_GUESSES, of_a_session())
    found = judged(given, tokens, mine, EVERYBODYS, time.monotonic())
    if found.role != "nobody":
        # the token and not its role: see `who_asks`
        st.session_state[SHOWN_TOKEN] = given
        st.session_state.pop(_FORGET, None)
    return found
