"""Who you are here: role, the name under which your deeds are recorded, and the way out."""

import streamlit as st

from ..asker import MOST_OF_A_NAME, Asker
from ..sign_in import call_me, sign_out
from ..words import plain

MOST_SHOWN = 12

_TYPED = "moescope_typed_name"


def render(who: Asker) -> None:
    """Draws a small button at the right of the bar above, which opens the rest."""
    icon = ":material/edit_square:" if who.may_act else ":material/visibility:"
    label = plain(who.name, MOST_SHOWN) or ("Operator" if who.may_act else "Viewer")
    with (
        st.container(horizontal=True, horizontal_alignment="right", key="you"),
        st.popover(label, icon=icon, type="tertiary"),
    ):
        if who.may_act:
            st.markdown("**Operator**: you look and act. What you do is recorded with your name.")
            st.text_input(
                "Your name",
                value=who.name,
                key=_TYPED,
                max_chars=MOST_OF_A_NAME,
                placeholder="as others know you",
                on_change=_rename,
            )
        else:
            st.markdown("**Viewer**: you look. Whoever acts here has the operators' token.")
        st.button("Sign out", key="sign_out", icon=":material/logout:", on_click=sign_out)


def _rename() -> None:
    call_me(st.session_state[_TYPED])
