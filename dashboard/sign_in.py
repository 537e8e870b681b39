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

import streamlit as st

from ..platform.errors import MoescopeError
from ..platform.settings import Settings
from .asker import NOBODY, Asker, cleaned_name
from .guesses import Guesses, Judgement, Tokens, judged, of_a_session, of_all_sessions, role_of
from .keeper import browser_keeps

SHOWN_TOKEN, NAME = "moescope_shown_token", "moescope_name"
"""Where a session keeps the token that admitted it, and its person's name."""
_FORGET = "moescope_browser_forgets"
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


def is_admitted(settings: Settings) -> bool:
    """Says whether this session may see anything; if not, draws the page that asks for a token."""
    try:
        tokens = _tokens(settings)
    except (MoescopeError, OSError) as error:
        st.title("moescope")
        st.error("The dashboard's tokens cannot be read, so nobody can sign in.")
        st.text(str(error))
        return False
    shown = st.session_state.get(SHOWN_TOKEN, "")
    found = Judgement("nobody")
    is_wrong = False
    given = st.query_params.get("token", "")
    if given:
        # a right one changes who sits here, too: an operator's address opened by a viewer
        st.query_params.pop("token", None)
        found = _judged(given, tokens)
        is_wrong = found.role == "nobody"
        if not is_wrong:
            shown = _admit(given)
    if role_of(shown, tokens) != "nobody":
        _remember(shown)
        return True
    kept = browser_keeps(forget=st.session_state.get(_FORGET, ())).token
    if kept and not st.session_state.get(_FORGET):
        found = _judged(kept, tokens)
        if found.role != "nobody":
            _admit(kept)
            st.rerun()
        if not found.wait_s:
            # of an earlier service on this address: taken out of the browser at the next run
            st.session_state[_FORGET] = ("token",)
    _ask(tokens, found, is_wrong=is_wrong)
    return False


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


@st.cache_resource(show_spinner=False)
def _everybodys() -> Guesses:
    """One for the process: a new session is no new chance."""
    return of_all_sessions()


def _judged(given: str, tokens: Tokens) -> Judgement:
    mine: Guesses = st.session_state.setdefault(_GUESSES, of_a_session())
    return judged(given, tokens, mine, _everybodys(), time.monotonic())


def _admit(token: str) -> str:
    # the token and not its role: see `who_asks`
    st.session_state[SHOWN_TOKEN] = token
    st.session_state.pop(_FORGET, None)
    return token


def _remember(token: str) -> None:
    """Has the browser keep token and name, and takes a name over that it kept from before."""
    name = st.session_state.get(NAME, "")
    kept = browser_keeps(token, name, st.session_state.get(_FORGET, ())).name
    if kept and not name and not st.session_state.get(_FORGET):
        st.session_state[NAME] = cleaned_name(kept)
        st.rerun()


def _ask(tokens: Tokens, found: Judgement, *, is_wrong: bool) -> None:
    st.title("moescope")
    st.write(
        "This dashboard wants a token. Open the address that `moescope up` printed, which carries "
        "it, or paste it here. The files `token` (of operators, who look and act) and "
        "`viewer-token` (of viewers, who look) in moescope's home folder hold them."
    )
    with st.form("sign_in", border=False):
        st.text_input("Token", type="password", key=_TYPED, autocomplete="off")
        is_sent = st.form_submit_button("Sign in", type="primary")
    typed = st.session_state[_TYPED].strip()
    if is_sent and typed:
        found = _judged(typed, tokens)
        if found.role != "nobody":
            _admit(typed)
            st.rerun()
    if found.wait_s > 0:
        st.error(
            "Too many wrong tokens: the next one is looked at in "
            f"{math.ceil(found.wait_s)} s. This one was not.",
            icon=":material/hourglass:",
        )
    elif is_sent or is_wrong:
        st.error("That is not a token of this dashboard.", icon=":material/lock:")
