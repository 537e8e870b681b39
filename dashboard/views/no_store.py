"""The page before there is anything: what is missing, and what to do."""

import streamlit as st


def render(store_url: str, problem: str = "") -> None:
    """Says that there is no store yet, or the one line that says why it cannot be opened."""
    if problem:
        st.header("The store cannot be opened")
        st.error("Nothing can be shown until this is mended:", icon=":material/cloud_off:")
        st.text(problem)
        return
    st.header("No store yet")
    st.write("The first training run makes it. Start one, and this page finds it by itself:")
    st.code("moescope demo\nmoescope train tiny --data FOLDER_OF_CLIPS", language=None)
    st.caption("It is looked for here:")
    st.text(store_url)
