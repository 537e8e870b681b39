"""The dashboard's token, as Jupyter has one: on a shared login node everybody reaches the port.

The token comes with the printed address (`?token=...`) or is typed in. It leaves the address bar at
once, since addresses get copied, and the browser's storage keeps it, so that a reload or a link in
a new tab asks for nothing. That storage belongs to one origin, port included; a cookie would be
sent to every port of the host, and so to other people's servers.
"""

import hmac

import streamlit as st

from ..platform.errors import MoescopeError
from ..platform.settings import Settings

_ADMITTED = "moescope_is_admitted"
_HAS_WRONG = "moescope_browser_has_wrong_token"
_TYPED = "moescope_typed_token"

_KEEPER_JS = """
export default function ({ data, setTriggerValue }) {
  const name = "moescope-token";
  try {
    if (data.keep) window.localStorage.setItem(name, data.keep);
    else if (data.forget) window.localStorage.removeItem(name);
    else {
      const kept = window.localStorage.getItem(name);
      if (kept) setTriggerValue("kept", kept);
    }
  } catch (error) { /* storage is switched off: the session alone remembers */ }
}
"""


def is_right(given: str, token: str) -> bool:
    """Compares in constant time; an empty token admits nobody."""
    return bool(token) and hmac.compare_digest(given.encode(), token.encode())


def is_admitted(settings: Settings) -> bool:
    """Says whether this session may see anything; if not, draws the page that asks for a token."""
    try:
        token = settings.read_token()
    except (MoescopeError, OSError) as error:
        st.title("moescope")
        st.error("The dashboard's token cannot be read, so nobody can sign in.")
        st.text(str(error))
        return False
    if is_right(st.session_state.get(_ADMITTED, ""), token):
        _browser_storage(keep=token)
        return True
    given = st.query_params.get("token", "")
    if is_right(given, token):
        _admit(token)
        _browser_storage(keep=token)
        return True
    kept = _browser_storage(forget=bool(st.session_state.get(_HAS_WRONG)))
    if is_right(kept, token):
        _admit(token)
        st.rerun()
    # the token of an earlier service on this address: taken out of the browser at the next run
    st.session_state[_HAS_WRONG] = bool(kept)
    _ask(token, is_wrong=bool(given))
    return False


def _admit(token: str) -> None:
    # the token and not a flag: a service that changed its token admits nobody from before
    st.session_state[_ADMITTED] = token
    st.query_params.pop("token", None)


def _browser_storage(keep: str = "", forget: bool = False) -> str:
    """Writes to the browser's storage, or returns what it kept (empty until it has answered)."""
    keeper = st.components.v2.component("moescope_token_keeper", js=_KEEPER_JS)
    answer = keeper(
        key="moescope_token_keeper",
        data={"keep": keep, "forget": forget},
        on_kept_change=lambda: None,
        height=1,
    )
    return str(answer.get("kept") or "")


def _ask(token: str, is_wrong: bool) -> None:
    st.title("moescope")
    st.write(
        "This dashboard wants its token. Open the address that `moescope up` printed, which "
        "carries it, or paste it here; the file `token` in moescope's home folder holds it."
    )
    with st.form("sign_in", border=False):
        st.text_input("Token", type="password", key=_TYPED, autocomplete="off")
        is_sent = st.form_submit_button("Sign in", type="primary")
    if is_sent and is_right(st.session_state[_TYPED].strip(), token):
        _admit(token)
        st.rerun()
    if is_sent or is_wrong:
        st.error("That is not the token of this dashboard.", icon=":material/lock:")
